"""One line a finished request: past `logging`, whose records, and the thread woken for each, would cost more than the request itself."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from backends.wire import Told
from gateway.logs import LINE, Checked, JsonFormatter, TextFormatter, Writer, cut, hidden, redact, show
from gateway.record import Plain, Record, record_of
from routing.types import Decision

MESSAGE = "request"
TEXT = 500  # characters of one field
NAMES, NAME = 1024, 100  # names whose shown form is kept, and the characters of the longest such
MESSAGES = 128  # messages of faults, likewise: in an outage there are many of the same
# Ids of our own making and UUIDs: no pattern for secrets can match these characters.
_PLAIN_ID = re.compile(r"(?:req-)?[0-9a-f-]{1,64}\Z")

AROUND = 1024  # decisions whose part of a plain answer's line is kept

Ended = tuple[Record, bool]  # a finished request, and whether it counts as `failed`


def writer_of(log: logging.Logger) -> tuple[Writer | None, list[logging.Handler]]:
    """The writer that takes this logger's lines as text, if there is one, and the other handlers, which need records. Reads only.

    Without a writer records go to the logger itself, as ever.
    """
    found: list[logging.Handler] = []
    at: logging.Logger | None = log
    while at is not None:
        found += at.handlers
        at = at.parent if at.propagate else None
    for handler in found:
        # One with a filter, a level or a format of its own must see each record.
        plain = isinstance(handler, Writer) and not (handler.filters or handler.level or log.filters)
        if isinstance(handler, Writer) and plain and type(handler.formatter) in (JsonFormatter, TextFormatter):
            return handler, [other for other in found if other is not handler]
    return None, found


def lines_for(writer: Writer, log: logging.Logger) -> JsonLines | TextLines:
    """What makes this writer's lines. TypeError: its formatter is neither of ours."""
    if isinstance(writer.formatter, JsonFormatter):
        return JsonLines(writer, writer.formatter, log)
    if isinstance(writer.formatter, TextFormatter):
        return TextLines(writer, writer.formatter, log)
    raise TypeError(f"no request lines for a {type(writer.formatter).__name__}")


def log_record(log: logging.Logger, record: Record, bad: bool, unix: float) -> logging.LogRecord:
    """One finished request for any handler of `logging`: WARNING when we or a backend failed it, else INFO. Some 20 µs.

    `unix` is the line's time in seconds. Mutates nothing.
    """
    usage = record.usage
    fields = Checked(
        id=_safe(record.id), api=record.api, route=_safe(record.route), status=record.status, seconds=_rounded(record.duration),
        ttft=None if record.ttft is None else _rounded(record.ttft), replica=_safe(record.replica), tenant=_safe(record.tenant),
        stream=record.stream, attempts=record.attempts, bytes=record.bytes_out,
    )  # fmt: skip
    if usage is not None:
        fields["tokens_in"] = usage.input + usage.cached + usage.cache_write
        fields["tokens_cached"] = usage.cached
        fields["tokens_out"] = usage.output + usage.reasoning
    fields.update(_rarer(record))
    if record.fault:
        fields.update(fault=record.fault, origin=record.origin, error=_safe(record.message))
    level = logging.WARNING if bad else logging.INFO
    # Not `log.log`: it looks up which line of code is calling, for some 10 µs.
    made = log.makeRecord(log.name, level, __file__, 0, MESSAGE, (), None, extra={"fields": fields})
    made.created, made.msecs = unix, unix % 1.0 * 1000
    return made


def _rarer(record: Record) -> dict[str, Any]:
    """What only some requests have: a cost in dollars, parameters that were not simply sent."""
    found = {"cost": record.cost, "cost_reported": record.cost_reported, "parameters": _safe(record.notes) or None}
    return {name: round(value, 9) if isinstance(value, float) else value for name, value in found.items() if value is not None}


def _safe(text: str) -> str:
    return redact(cut(text, TEXT))


def _rounded(seconds: float) -> float:
    """To a tenth of a millisecond; a third of what `round` costs."""
    return (seconds * 10_000.0 + 0.5) // 1.0 / 10_000.0


class Names(dict[str, str]):
    """How a text is shown, for those that stand in line after line: a look-up. `clear` it when `hide` has learned something.

    Holds `size` texts of at most `longest` characters; others are made anew each time.
    """

    def __init__(self, make: Callable[[str], str], size: int = NAMES, longest: int = NAME) -> None:
        super().__init__()
        self._make, self._size, self._longest = make, size, longest

    def __missing__(self, text: str) -> str:
        shown = self._make(text)
        if len(text) <= self._longest:
            if len(self) >= self._size:
                self.clear()
            self[text] = shown
        return shown


class _Line(msgspec.Struct, gc=False):
    """A line as JSON, in this order. UNSET is left out."""

    time: str
    level: str
    logger: str
    message: str
    id: str
    api: str
    route: str
    status: int
    seconds: float
    ttft: float | msgspec.UnsetType
    replica: str
    tenant: str
    stream: bool
    attempts: int
    bytes: int
    tokens_in: int | msgspec.UnsetType = msgspec.UNSET
    tokens_cached: int | msgspec.UnsetType = msgspec.UNSET
    tokens_out: int | msgspec.UnsetType = msgspec.UNSET
    cost: float | msgspec.UnsetType = msgspec.UNSET
    cost_reported: float | msgspec.UnsetType = msgspec.UNSET
    parameters: str | msgspec.UnsetType = msgspec.UNSET
    fault: str | msgspec.UnsetType = msgspec.UNSET
    origin: str | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET


class _Lines:
    """What both formats share: the names of every line, and which texts are known to hold no secret."""

    def __init__(self, writer: Writer, log: logging.Logger) -> None:
        self.writer, self._log = writer, log
        self._hidden = hidden()

    def _learned(self) -> bool:
        """Whether `hide` was told of something since the last look: what was kept may hold it. Mutates."""
        before, self._hidden = self._hidden, hidden()
        return before != self._hidden

    def _plain(self, id: str) -> bool:
        # An id is new each time, so there is nothing to look up: its characters must do, and that it is too short for our own keys.
        count, shortest = self._hidden
        return _PLAIN_ID.match(id) is not None and (not count or len(id) < shortest)


class JsonLines(_Lines):
    """A batch of finished requests as `JsonFormatter` would write them, some ten times cheaper."""

    def __init__(self, writer: Writer, formatter: JsonFormatter, log: logging.Logger) -> None:
        super().__init__(writer, log)
        self._formatter, self._encoder = formatter, msgspec.json.Encoder()
        self._names, self._messages = Names(_safe), Names(_safe, MESSAGES, TEXT)
        self._around: dict[tuple[Decision, str, str, str], tuple[str, str] | None] = {}

    def __call__(self, batch: Sequence[Ended], unix: float) -> str:
        """The lines, each with its end. `unix`: seconds, now. Mutates nothing but what is kept."""
        self._fresh()
        stamp, _, source = self._formatter.head(unix, "INFO", self._log.name)
        lines = [self._line(record, "warning" if bad else "info", stamp, source) for record, bad in batch]
        with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair
            encoded = self._encoder.encode_lines(lines)
            if encoded.isascii():
                return encoded.decode()
        return "".join([self._careful(line, *ended, unix) for line, ended in zip(lines, batch, strict=True)])

    def _fresh(self) -> None:
        if self._learned():
            for kept in (self._names, self._messages, self._around):
                kept.clear()

    def plain(self, batch: Sequence[Plain], told: Mapping[bytes, Told | None], unix: float, epoch: float) -> str:
        """The same for plain answers, without records: only the id and a few numbers differ from the line before. `told`: their token
        counts, by the end of each. `epoch`: what to add to monotonic seconds to get seconds since 1970. What is rarer (a cost, a strange
        id) goes the longer way."""
        self._fresh()
        stamp, level, source = self._formatter.head(unix, "INFO", self._log.name)
        first = self._encoder.encode({"time": stamp, "level": level, "logger": source, "message": MESSAGE}).decode()[:-1] + ',"id":"'
        lines = []
        for one in batch:
            decision, route, tenant, api, raw, _, seconds, size, tail = one[:9]
            key, id = (decision, route, tenant, api), raw.decode("latin-1")
            around = self._around[key] if key in self._around else self._pieces(key)
            if around is None or not self._plain(id) or (tail is not None and tail.find(b"cost") >= 0):
                lines.append(self([(record_of(one, epoch), False)], unix))
                continue
            took, tokens = f"{_rounded(seconds)}", ""
            if tail is not None and (counts := told.get(tail)) is not None:
                asked, cached, said = counts
                tokens = f',"tokens_in":{asked},"tokens_cached":{cached},"tokens_out":{said}'
            lines.append(f'{first}{id}{around[0]}{took},"ttft":{took}{around[1]}{size}{tokens}}}\n')
        return "".join(lines)

    def _pieces(self, key: tuple[Decision, str, str, str]) -> tuple[str, str] | None:
        """What stands between a plain answer's id and its duration, and between that and its bytes. None: its line takes more."""
        decision, route, tenant, api = key
        names, pieces = self._names, None
        with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair
            quoted = [self._encoder.encode(text).decode() for text in (api, names[route], names[decision.replica.name], names[tenant])]
            before = f'","api":{quoted[0]},"route":{quoted[1]},"status":200,"seconds":'
            after = f',"replica":{quoted[2]},"tenant":{quoted[3]},"stream":false,"attempts":1,"bytes":'
            if decision.target.price is None and before.isascii() and after.isascii():
                pieces = (before, after)
        if len(self._around) >= AROUND:
            self._around.clear()
        self._around[key] = pieces
        return pieces

    def _line(self, record: Record, level: str, stamp: str, source: str) -> _Line:
        names, usage, ttft, id = self._names, record.usage, record.ttft, record.id
        line = _Line(
            stamp, level, source, MESSAGE, id if self._plain(id) else _safe(id), record.api, names[record.route], record.status,
            _rounded(record.duration), msgspec.UNSET if ttft is None else _rounded(ttft), names[record.replica], names[record.tenant],
            record.stream, record.attempts, record.bytes_out,
        )  # fmt: skip
        if usage is not None:
            cached = usage.cached
            line.tokens_in, line.tokens_cached = usage.input + cached + usage.cache_write, cached
            line.tokens_out = usage.output + usage.reasoning
        if record.cost is not None or record.cost_reported is not None or record.notes:
            for name, value in _rarer(record).items():
                setattr(line, name, value)
        if record.fault:
            line.fault, line.origin, line.error = record.fault, record.origin, self._messages[record.message]
        return line

    def _careful(self, line: _Line, record: Record, bad: bool, unix: float) -> str:
        """Only the formatter writes out what is not ASCII; the others of a batch need not pay for one such line."""
        with contextlib.suppress(UnicodeEncodeError):
            encoded = self._encoder.encode(line)
            if encoded.isascii():
                return encoded.decode() + "\n"
        return self._formatter.format(log_record(self._log, record, bad, unix)) + "\n"


class TextLines(_Lines):
    """A batch of finished requests as `TextFormatter` would write them."""

    def __init__(self, writer: Writer, formatter: TextFormatter, log: logging.Logger) -> None:
        super().__init__(writer, log)
        self._formatter = formatter
        self._keys = {name: f" {formatter.key(name)}" for name in _Line.__struct_fields__}
        self._api, self._route, self._replica, self._tenant = (Names(partial(self._pair, n)) for n in ("api", "route", "replica", "tenant"))
        self._error = Names(partial(self._pair, "error"), MESSAGES, TEXT)

    def _pair(self, name: str, text: str) -> str:
        return self._keys[name] + show(_safe(text)) if text else ""

    def __call__(self, batch: Sequence[Ended], unix: float) -> str:
        """The lines, each with its end. `unix`: seconds, now. Mutates nothing but what is kept."""
        if self._learned():
            for names in (self._api, self._route, self._replica, self._tenant, self._error):
                names.clear()
        levels = {bad: "WARNING" if bad else "INFO" for _, bad in batch}
        heads = {bad: self._formatter.head(unix, level, self._log.name) + f"{MESSAGE} " for bad, level in levels.items()}
        return "".join([self._line(record, heads[bad]) for record, bad in batch])

    def _line(self, record: Record, head: str) -> str:
        key, id, ttft, usage = self._keys, record.id, record.ttft, record.usage
        line = (
            f"{head}{key['id'] + id if self._plain(id) else self._pair('id', id)}{self._api[record.api]}{self._route[record.route]}"
            f"{key['status']}{record.status}{key['seconds']}{_rounded(record.duration)}"
            f"{'' if ttft is None else key['ttft'] + str(_rounded(ttft))}{self._replica[record.replica]}{self._tenant[record.tenant]}"
            f"{key['stream']}{'true' if record.stream else 'false'}{key['attempts']}{record.attempts}{key['bytes']}{record.bytes_out}"
        )
        if usage is not None:
            into, out = usage.input + usage.cached + usage.cache_write, usage.output + usage.reasoning
            line += f"{key['tokens_in']}{into}{key['tokens_cached']}{usage.cached}{key['tokens_out']}{out}"
        if record.cost is not None or record.cost_reported is not None or record.notes:
            line += "".join([f"{key[name]}{show(value)}" for name, value in _rarer(record).items()])
        if record.fault:
            line += self._pair("fault", record.fault) + self._pair("origin", record.origin) + self._error[record.message]
        return (line if len(line) <= LINE else cut(line, LINE)) + "\n"
