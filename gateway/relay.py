"""From an upstream answer to what the client may see of it: held until the content commit, then whole events as they came.

Pure state machines without I/O or clock. The Exchange feeds bytes and sends on what it gets back.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from backends import sse
from backends.faults import from_event
from backends.splice import QUOTE
from backends.sse import What
from backends.types import Fault

DONE = b"data: [DONE]\n\n"
TRIES = 64  # events of one stream that are learned from; where each differs in more than its text, that is enough
_TEXTS = (b'"content":"', b'"reasoning_content":"', b'"text":"')


class Relay:
    """What relays of every dialect share: what is held before the first content, the beginning of an event, the limit of both.

    `limit`: bytes of one event, and of all that is held. `usage_event` is what the recorder reads the usage from; None: none was told.
    """

    __slots__ = ("committed", "done", "fault", "finished", "held", "held_size", "limit", "rest", "usage_event", "where")

    def __init__(self, where: str, limit: int) -> None:
        self.where, self.limit = where, limit
        self.committed = self.finished = False
        self.done = b""
        self.held: list[bytes] = []
        self.held_size = 0
        self.rest = b""
        self.usage_event: bytes | None = None
        self.fault: Fault | None = None

    def _read(self, data: bytes) -> bytes:
        """The long way of every `feed`: whole events are looked at, the beginning of one waits for its rest."""
        if self.rest:
            data = self.rest + data
        whole, self.rest = sse.split(data)
        out = self._whole(whole) if whole else b""
        if len(self.rest) > self.limit and self.fault is None:
            self.fault = cut(f"Backend '{self.where}' sent an event of more than {self.limit} bytes.", "event_too_large")
        return out

    def _whole(self, data: bytes) -> bytes:
        raise NotImplementedError

    def _hold(self, event: bytes) -> None:
        """Keeps an event that comes before the content; a comment is dropped."""
        if event.startswith(b":") and event.find(b"data:") < 0:
            return
        self.held.append(event)
        self.held_size += len(event)
        if self.held_size > self.limit:
            self.fault = cut(f"Backend '{self.where}' sent {self.limit} bytes without any content.", "event_too_large")


class StreamRelay(Relay):
    """One SSE answer in the OpenAI dialect.

    1. Before the first content event everything is held; comments are dropped. An error here leaves the client untouched.
    2. After it, runs of whole events pass as they came; the beginning of an event waits for its rest.
    3. From the first finish reason on each event is read: usage is kept (and stripped unless asked for), `[DONE]` is held.
    4. `close` at the clean end of the upstream gives the terminal event; without a finish the answer was cut and is a fault.
    """

    __slots__ = ("after", "before", "final", "last", "strip_usage", "tries")

    def __init__(self, where: str, strip_usage: bool, limit: int) -> None:
        super().__init__(where, limit)
        self.strip_usage = strip_usage
        self.last = b""
        self.final = b""  # the event that says why the answer ended
        self.before = self.after = b""  # of the last plain event: what stood around its text; set only while all may pass unread
        self.tries = TRIES

    def feed(self, data: bytes) -> bytes:
        """What may go to the client now. Sets `committed` with the first content and `fault` when the upstream reports an error."""
        before = self.before
        if before:
            # One event like the last but for its text, in which there is no quotation mark: the first one ends it, where `after` begins.
            after = self.after
            text = data.removeprefix(before).removesuffix(after)
            if len(before) + len(text) + len(after) == len(data) and QUOTE not in text:
                self.last = data
                return data
            self.before = b""
        if self.committed and not self.finished and not self.rest and data.endswith(b"\n\n") and sse.plain(data):
            self.last = data
            if self.tries:
                self._learn(data)
            return data
        return self._read(data)

    def _learn(self, event: bytes) -> None:
        """Keeps what stands around the text of a plain event."""
        self.tries -= 1
        for key in _TEXTS:
            at = event.find(key)
            if at > 0:
                start = at + len(key)
                end = event.find(b'"', start)
                if end > 0 and event.find(b"\\", start, end) < 0 and event.count(b"\n\n") == 1:
                    self.before, self.after = event[:start], event[end:]
                return

    def _whole(self, data: bytes) -> bytes:
        out: list[bytes] = []
        run: list[bytes] = []  # plain events one after the other
        for event in sse.events(data):
            if self.committed and not self.finished and sse.plain(event):
                run.append(event)
                continue
            if run:
                self._run(run, out)
                run = []
            self._event(event, out)
            if self.fault is not None:
                break
        if run:
            self._run(run, out)
        return out[0] if len(out) == 1 else b"".join(out)

    def _run(self, events: list[bytes], out: list[bytes]) -> None:
        """Lets plain events pass."""
        self.last = b"".join(events)
        out.append(self.last)

    def _event(self, event: bytes, out: list[bytes]) -> None:
        """Takes one event: appended to `out` when it may be sent, else held, kept or dropped."""
        seen = sse.look(event)
        if seen.usage is not None:
            self.usage_event = seen.usage
        what = seen.what
        if what is What.ERROR:
            self.fault = from_event(seen.error, self.where)
        elif self.done:
            return  # nothing that follows [DONE] is part of the answer
        elif what is What.DONE:
            self.done = event
        elif what is What.USAGE and self.strip_usage:
            return
        elif self.committed:
            out.append(event)
            self.last = event
        elif what is What.CONTENT or what is What.FINISH:
            out += [*self.held, event]
            self.held.clear()
            self.committed = True
        else:
            self._hold(event)
        if what is What.FINISH:
            self.finished, self.final = True, event

    def close(self) -> bytes:
        """The clean end of the upstream's bytes: what is still to be sent. Sets `fault` when the answer is not whole."""
        out = self._unended() if self.rest.strip() else b""
        if self.fault is not None:
            return out
        if not self.finished and not self.done:
            self.finished = any(sse.look(e).what is What.FINISH for e in sse.events(self.last))
        if not self.finished and not self.done:
            self.fault = cut(f"Backend '{self.where}' ended the stream before the answer was finished.", "stream_cut")
            return out
        if not self.committed:
            self.fault = cut(f"Backend '{self.where}' ended the stream without saying anything.", "stream_empty")
            return out
        return out + (self.done or DONE)

    def _unended(self) -> bytes:
        """What the last event, whose empty line is missing, lets go to the client: nothing when it was cut within."""
        eol = b"\r\n" if self.rest.endswith(b"\r") or b"\r\n" in (self.last or b"".join(self.held) or self.rest) else b"\n"
        event, self.rest = self.rest.rstrip(b"\r\n") + eol + eol, b""
        out: list[bytes] = []
        if sse.look(event).what is not What.OTHER:
            self._event(event, out)
        return b"".join(out)


def cut(message: str, code: str) -> Fault:
    """The fault of an upstream that ended or wrote its answer in a way that it must not."""
    return Fault("upstream", message, origin="backend", code=code, retry=True)


class WholeAnswer:
    """An answer that is not a stream: held whole under a cap, and an error inside a 200 recognised."""

    __slots__ = ("good", "limit", "parts", "size", "where")

    def __init__(self, where: str, limit: int, good: bool = True) -> None:
        self.where, self.limit, self.good = where, limit, good
        self.parts: list[bytes] = []
        self.size = 0

    def feed(self, data: bytes) -> Fault | None:
        """Keeps `data`; a fault when the cap is passed."""
        self.parts.append(data)
        self.size += len(data)
        if self.size > self.limit:
            message = f"The answer of backend '{self.where}' exceeds {self.limit} bytes."
            return Fault("upstream", message, origin="backend", code="answer_too_large")
        return None

    def body(self) -> bytes:
        """All bytes so far."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)

    def cut(self, headers: Mapping[bytes, bytes]) -> Fault | None:
        """The fault of a good answer that ended with its connection and is no whole JSON: only its syntax tells that it was cut."""
        if b"content-length" in headers or b"transfer-encoding" in headers or not self.good:
            return None
        try:
            _json.decode(self.body())
        except (msgspec.DecodeError, RecursionError):
            return cut(f"Backend '{self.where}' closed the connection in the middle of its answer.", "connection_lost")
        return None


def check_whole(body: bytes, where: str) -> Fault | None:
    """The fault of a 200 whose body is no JSON object or list, or is an error object. `where` names the backend."""
    if body[:1] not in _OPEN or body[-1:] not in _SHUT:
        body = body.strip()
        if body[:1] not in _OPEN or body[-1:] not in _SHUT:
            return cut(f"Backend '{where}' answered 200 with something that is not JSON.", "not_json")
    # An error object names itself at its start; a search through all of a long answer would cost more than the rest of this.
    if body.find(b'"error"', 0, 512) >= 0 and body.find(b'"choices"') < 0:
        seen = sse.look(b"data: " + body.translate(_ONE_LINE) + b"\n\n")
        if seen.what is What.ERROR:
            return from_event(seen.error, where)
    return None


_json = msgspec.json.Decoder(msgspec.Raw)
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
_OPEN, _SHUT = frozenset({b"{", b"["}), frozenset({b"}", b"]"})
