"""Structured logs: for people on a terminal, or one JSON object a line. Secrets and bodies never get in by default.

`setup` is called once per process. Lines are formatted where they are logged, but written by one thread from a bounded
queue: a terminal that stands still, or a full pipe, must not stop the gateway. Lines that find the queue full are counted.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import msgspec

Format = Literal["text", "json", "auto"]

LINE = 8192  # characters of one line
TRACEBACK = 6000
FIELD = 2048
FIELDS = 64
DEPTH = 6
QUEUE = 10_000
SECRETS = 256
HIDDEN = "[redacted]"

# Fields that hold what people wrote or were answered. Numbers under these names (a token count) stay.
BODIES = frozenset({"body", "prompt", "messages", "content", "input", "completion", "reply", "answer", "request_body", "response_body"})
# Libraries that tell of each request, or of URLs with signatures in them.
CHATTY = ("httpx", "httpcore", "asyncio", "urllib3", "huggingface_hub", "filelock", "fsspec", "multipart", "botocore", "google.auth")

_NAME = (
    r"(?:[\w-]*(?:api[-_]?key|access[-_]?key|secret|password|passwd|credentials?|private[-_]?key|signature)"
    r"|[\w-]*(?:access|auth|refresh|session|id|bearer|hf|api)[-_]?token|x-amz-[\w-]*)"
)
_SECRET_FIELD = re.compile(rf"(?:{_NAME}|(?:proxy-)?authorization|(?:set-)?cookie|token|key|keys|sha256|hash|bearer)\Z", re.IGNORECASE)
_BETWEEN = r"\\?[\"']?[ \t]*[:=][ \t]*"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    # A header's whole value: its scheme and what follows.
    (re.compile(rf"\b((?:proxy-)?authorization|(?:set-)?cookie)({_BETWEEN}\\?[\"']?)[^\r\n\"'\\]+", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    (re.compile(r"\b(bearer)([ \t]+)(?!\[redacted)[^\s\"',;}\]\\]+", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    (re.compile(r"(://)[^/\s@\"']{1,512}@"), rf"\1{HIDDEN}@"),
    (re.compile(rf"([?&](?:key|token|sig|auth|code|{_NAME})=)[^&\s\"'#]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"(?<![\w-])({_NAME})({_BETWEEN})(\\?[\"'])((?:(?!\3)[^\r\n])*)", re.IGNORECASE), rf"\1\2\3{HIDDEN}"),
    (re.compile(rf"(?<![\w-])({_NAME})({_BETWEEN})(?![\"'\\\[{{])[^\s,;&\"'}}\]]+", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    # The last three: keys that are known by their own form, whatever stands around them.
    (re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{6,}"), HIDDEN),
    (re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|nvapi-|gsk_|AKIA|ASIA|AIza|ya29\.)[A-Za-z0-9_.-]{8,}"), HIDDEN),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.?[A-Za-z0-9_-]*"), HIDDEN),
)  # fmt: skip
# Without one of these in it, a text can hold nothing that a pattern finds: a quick look for the many short plain values.
_SUSPECT = re.compile(r"[=:@ \t]|(?:sk|pk|rk)-|hf_|gh[pousr]_|github_pat_|glpat-|xox|nvapi-|gsk_|AKIA|ASIA|AIza|ya29|eyJ")
# Control characters, line separators, bidirectional overrides, halves of surrogate pairs: what forges or reorders a line.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+-]{1,200}\Z")
_known: set[str] = set()


def hide(secret: str) -> None:
    """From now on, this very string appears in no log. For keys of our own making that no pattern knows. Mutates."""
    if len(secret) >= 8 and len(_known) < SECRETS:
        _known.add(secret)
        _redact_short.cache_clear()


def hidden() -> tuple[int, int]:
    """How many strings `hide` has been told of, and the length of the shortest (0: none). Whoever keeps what `redact` gave asks."""
    return len(_known), min(map(len, _known), default=0)


def redact(text: str) -> str:
    """The text without secrets. Pure but for `hide`. Time grows with the length, so cut first what may be long."""
    return _redact_short(text) if len(text) <= 100 else _redact(text)


def conceal(text: str) -> str:
    """`redact` for sentences that clients read: what only stands where a secret might is left alone."""
    return _redact(text, _PATTERNS[-3:])


def _redact(text: str, patterns: tuple[tuple[re.Pattern[str], str], ...] = _PATTERNS) -> str:
    for secret in _known:
        text = text.replace(secret, HIDDEN)
    if _SUSPECT.search(text) is None:
        return text
    for pattern, replacement in patterns:
        text = pattern.sub(replacement, text)
    return text


# Route, replica and tenant are the same few strings in every line.
_redact_short = functools.lru_cache(2048)(_redact)


def redact_value(value: object, *, bodies: bool = True, limit: int = FIELD, depth: int = DEPTH) -> Any:
    """JSON-able value without secrets: those under a secret's name go whole, others by pattern. Pure. `bodies=False` also leaves out what
    stands under a body's name; `limit` is in characters of one string."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth <= 0:
        return "…"
    if isinstance(value, Mapping):
        items = list(value.items())[:FIELDS]
        return {clean(str(k), 128): _field(str(k), v, bodies=bodies, limit=limit, depth=depth) for k, v in items}
    if isinstance(value, list | tuple | set | frozenset):
        return _sequence(list(value)[:FIELDS], bodies=bodies, limit=limit, depth=depth - 1)
    return cut(redact(cut(str(value), 2 * limit)), limit)


def _sequence(values: list[object], *, bodies: bool, limit: int, depth: int) -> list[Any]:
    shown: list[Any] = []
    secret = False
    for value in values:
        shown.append(HIDDEN if secret else redact_value(value, bodies=bodies, limit=limit, depth=depth))
        # A command line: `--api-key` and what follows it.
        secret = isinstance(value, str) and value.startswith("-") and _SECRET_FIELD.match(value.lstrip("-")) is not None
    return shown


def _field(name: str, value: object, *, bodies: bool, limit: int, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_FIELD.match(name) and not isinstance(value, Mapping | list | tuple):
        return HIDDEN if value else value
    if not bodies and name.lower() in BODIES:
        return "[body]"
    return redact_value(value, bodies=bodies, limit=limit, depth=depth - 1)


def clean(text: str, limit: int) -> str:
    """One line of text: cut to `limit` characters, control characters written out. Pure."""
    return _CONTROL.sub(lambda m: m.group().encode("unicode_escape").decode(), cut(text, limit))


def cut(text: str, limit: int) -> str:
    """The text, or its first `limit` characters and a mark. Pure."""
    return text if len(text) <= limit else text[:limit] + f"…(+{len(text) - limit})"


def event(log: logging.Logger, level: int, message: str, /, *, exc_info: bool = False, **fields: object) -> None:
    """Logs a message with fields. Nothing is formatted when the level is off. `message` is fixed text, values go into fields."""
    if log.isEnabledFor(level):
        log.log(level, message, extra={"fields": fields}, exc_info=exc_info)


class Checked(dict[str, Any]):
    """Fields for `extra={"fields": ...}` that hold no secret already: numbers, names of ours, `redact`ed strings."""


class _Formatter(logging.Formatter):
    """What both formats share: a record taken apart, cut, redacted."""

    def __init__(self, *, bodies: bool) -> None:
        super().__init__()
        self._bodies = bodies

    def parts(self, record: logging.LogRecord) -> tuple[str, dict[str, Any], str]:
        """Message, fields, traceback; all of them free of secrets, none of them cleaned of control characters yet."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = f"{record.msg} (arguments do not fit)"
        fields = getattr(record, "fields", None)
        shown: dict[str, Any] = {}
        if isinstance(fields, Checked):
            shown = fields
        elif isinstance(fields, dict):
            shown = redact_value(fields, bodies=self._bodies)
        trace = ""
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info))
            # The end tells most: the exception and where it came from.
            trace = redact(trace[-TRACEBACK:])
        return cut(redact(cut(message, 2 * LINE)), LINE // 2), shown, trace


class TextFormatter(_Formatter):
    """`12:00:01.123 WARN  gateway.exchange   message  key=value key="two words"`; a traceback follows, indented."""

    COLORS = {"DEBUG": "2", "INFO": "36", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}

    def __init__(self, *, bodies: bool = False, color: bool = False) -> None:
        super().__init__(bodies=bodies)
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        message, fields, trace = self.parts(record)
        pairs = " ".join([self.key(k) + show(v) for k, v in fields.items() if v is not None and v != ""])
        line = self.head(record.created, record.levelname, record.name) + clean(message, LINE)
        line = cut(f"{line}  {pairs}" if pairs else line, LINE)
        return "\n    | ".join([line, *(clean(row, 400) for row in trace.splitlines())])

    def head(self, created: float, level: str, name: str) -> str:
        """What stands before the message: time of day, level, logger. `created` is unix seconds, `level` as logging names it."""
        stamp = time.strftime("%H:%M:%S", time.localtime(created)) + f".{_millis(created):03d}"
        word = {"WARNING": "WARN", "CRITICAL": "FATAL"}.get(level, level)[:5]
        return f"{self._paint('2', stamp)} {self._paint(self.COLORS.get(level, '0'), f'{word:<5}')} {clean(_source(name), 20):<20} "

    def key(self, name: str) -> str:
        """What stands before a field's value."""
        return self._paint("2", _key(name))

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text


class JsonFormatter(_Formatter):
    """One JSON object a line: time (UTC), level, logger, message, the fields, traceback. Always whole, whatever its length."""

    def __init__(self, *, bodies: bool = False) -> None:
        super().__init__(bodies=bodies)

    def format(self, record: logging.LogRecord) -> str:
        message, fields, trace = self.parts(record)
        stamp, level, source = self.head(record.created, record.levelname, record.name)
        head: dict[str, Any] = {"time": stamp, "level": level, "logger": source, "message": message}
        body = {f"field_{k}" if k in head or k in ("traceback", "cut") else k: v for k, v in fields.items() if v is not None}
        tail = {"traceback": trace} if trace else {}
        line = _json(head | body | tail)
        return line if len(line) <= 2 * LINE else _json(head | {"cut": True} | {k: cut(v, TRACEBACK) for k, v in tail.items()})

    def head(self, created: float, level: str, name: str) -> tuple[str, str, str]:
        """The values of time, level and logger. `created` is unix seconds, `level` as logging names it."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created)) + f".{_millis(created):03d}Z"
        return stamp, level.lower(), clean(_source(name), 64)


def _json(value: object) -> str:
    try:
        quick = msgspec.json.encode(value)
        if quick.isascii():
            return quick.decode()
    except (TypeError, ValueError):
        pass  # a type that JSON lacks, or half a surrogate pair: the slow way knows what to do
    # ASCII only: it writes out every control character, line separator and half surrogate.
    return json.dumps(value, separators=(",", ":"), default=str)


def _millis(created: float) -> int:
    return int(created % 1.0 * 1000)


def _source(name: str) -> str:
    return "uvicorn" if name == "uvicorn.error" else name.removeprefix("pointsman.")


@functools.lru_cache(512)
def _key(name: str) -> str:
    return clean(name, 64) + "="


def show(value: object) -> str:
    """A field's value in a line for people: bare where that is plain, else quoted; control characters written out. Pure."""
    if isinstance(value, str):
        if _PLAIN.match(value):
            return value
        text = clean(value, FIELD)
        return text if text and not re.search(r"[\s=\"]", text) else json.dumps(text, ensure_ascii=False)
    if isinstance(value, dict | list):
        return clean(json.dumps(value, ensure_ascii=False, default=str, separators=(",", ":")), FIELD)
    return str(value).lower() if isinstance(value, bool) else str(value)


class Writer(logging.Handler):
    """Formats in the caller, writes in a thread of its own. `dropped` counts lines that found the queue full or no reader."""

    def __init__(self, stream: TextIO, formatter: logging.Formatter, *, capacity: int = QUEUE) -> None:
        super().__init__()
        self.dropped = 0
        self._told = 0
        self._stream, self._capacity = stream, capacity
        # Guards what stands below, `dropped` and `_told`; reentrant, for a collected task may log in the middle of `put`.
        self._wake = threading.Condition(threading.RLock())
        self._queue: deque[tuple[str, int]] = deque()  # whole lines, and how many they are
        self._waiting = self._taken = self._done = 0  # lines: in the queue; ever taken into it; of those, written or lost
        self._closed = False
        self.setFormatter(formatter)
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queues one record, a line and its traceback. Never blocks on the stream, never raises."""
        try:
            self.put(self.format(record) + "\n", 1)
        except (ValueError, TypeError, RecursionError):
            self.handleError(record)

    def put(self, text: str, lines: int) -> None:
        """Queues `lines` whole lines at once, each with its end; those that do not fit are counted. Never blocks on the stream."""
        with self._wake:
            room = 0 if self._closed else self._capacity - self._waiting
            if lines > room:
                self.dropped += lines - room
                text, lines = "".join(text.splitlines(keepends=True)[:room]), room
            if lines:
                self._queue.append((text, lines))
                self._waiting += lines
                self._taken += lines
                self._wake.notify_all()

    def _run(self) -> None:
        batch, lines = self._next()
        while batch:
            lost = self._write(batch, lines)
            with self._wake:
                self._done += lines
                self.dropped += lost
                self._told += lost  # there is nobody to tell
                self._wake.notify_all()
            batch, lines = self._next()

    def _next(self) -> tuple[list[str], int]:
        """What is to be written now, and how many lines that is. Blocks; nothing: the writer is closed and all is written."""
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._closed)
            batch: list[str] = []
            lines = 0
            while self._queue and lines < 256:
                text, count = self._queue.popleft()
                batch.append(text)
                lines += count
            self._waiting -= lines
            if self.dropped > self._told:
                batch.append(f"({self.dropped - self._told} log lines were lost: whoever reads them is too slow)\n")
                self._told = self.dropped
            return batch, lines

    def _write(self, batch: list[str], lines: int) -> int:
        """Writes and returns how many lines were lost. Blocks while the stream does."""
        try:
            self._stream.write("".join(batch))
            self._stream.flush()
        except (OSError, ValueError):
            # The terminal has gone or the file is closed: the gateway serves on without a log.
            return lines
        return 0

    def flush(self) -> None:
        """Waits, two seconds at most, until everything queued so far is written. Blocks: not on the event loop."""
        with self._wake:
            wanted = self._taken
            self._wake.wait_for(lambda: self._done >= wanted or not self._thread.is_alive(), 2.0)

    def close(self) -> None:
        """Writes what is queued and ends the thread; waits two seconds at most for a stream that stands still."""
        atexit.unregister(self.close)
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self._thread.join(2.0)
        super().close()


def setup(
    level: str = "info", format: Format = "auto", *, stream: TextIO | None = None, bodies: bool = False, color: bool | None = None
) -> Writer:
    """Takes over the root logger and uvicorn's; call again to change it. Give uvicorn `log_config=None`.

    `stream` is standard error when None. "auto" is text on a terminal and JSON elsewhere; `color=None` asks the terminal and $NO_COLOR.
    ValueError: no such level or format. The writer is closed at exit.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r}: use debug, info, warning, error or critical")
    if format not in ("text", "json", "auto"):
        raise ValueError(f"log format {format!r}: use text, json or auto")
    out = sys.stderr if stream is None else stream
    tty = out.isatty()
    use_color = tty and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" if color is None else color
    text = format == "text" or (format == "auto" and tty)
    writer = Writer(out, TextFormatter(bodies=bodies, color=use_color) if text else JsonFormatter(bodies=bodies))
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, Writer)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(writer)
    root.setLevel(number)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        theirs = logging.getLogger(name)
        theirs.handlers.clear()
        theirs.propagate = True
        theirs.setLevel(logging.NOTSET)
    # Requests are logged from their records; a second line of uvicorn's would carry the query string.
    logging.getLogger("uvicorn.access").setLevel(logging.CRITICAL)
    atexit.register(writer.close)
    return writer
