"""A stream that is in the client's own dialect already, whatever dialect that is: held until the content commit, then whole
events as they came. What the dialect's events are is said by a subclass. Pure, like `gateway/relay.py`, whose rules it keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from backends import sse
from backends.faults import from_event
from backends.sse import What
from backends.types import Usage
from backends.wire import encode
from gateway.relay import Relay, cut


class EventRelay(Relay):
    """One SSE answer with named events and an end of its own instead of `[DONE]`.

    1. Before the first content everything is held; comments are dropped. An error here leaves the client untouched.
    2. After it, runs of whole events that `plain` clears pass as they came; the beginning of an event waits for its rest.
    3. The event that ends the answer is held in `done`; what follows it is no part of the answer.
    4. `close` at the clean end of the upstream gives it. Without it the answer was cut, which is a fault.

    `usage_event` is a chat usage document (`backends.wire.usage` reads it) with the counts told so far. A dialect says `mark`, which all
    events have that end the answer or tell usage, and no others, and `events`, what is read of one; and `_kind`.
    """

    before = b""  # nothing of these streams passes unread from connection to connection (see `backends.splice.Splice`)
    mark: ClassVar[bytes]
    events: ClassVar[msgspec.json.Decoder[Any]]
    __slots__ = ()

    # --- what a dialect says
    def _kind(self, seen: Any, event: bytes, error: bool) -> What:
        """What one event is, read as `seen`; DONE is the end of the answer. `error`: it is named one. Keeps usage. Sets `fault` when it
        is an error."""
        raise NotImplementedError

    # --- what all have
    def plain(self, data: bytes) -> bool:
        """True when no event in `data` (whole events) can be an error, an end, or tell usage. A few substring searches."""
        return data.find(self.mark) < 0 and (data.find(b"error") < 0 or not _may_be_error(data))

    def look(self, event: bytes) -> What:
        """What one event is. Never raises: what cannot be read is OTHER, unless it is named an error."""
        name, data = sse.payload(event)
        error = name == b"error"
        if not data and not error:
            return What.OTHER
        try:
            seen = self.events.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return self.failed(_text_error(data)) if error else What.OTHER
        return self._kind(seen, event, error)

    def feed(self, data: bytes) -> bytes:
        """What may go to the client now. Sets `committed` with the first content and `fault` when the upstream reports an error."""
        if self.committed and not self.done and not self.rest and data.endswith(b"\n\n") and self.plain(data):
            return data
        return self._read(data)

    def _whole(self, data: bytes) -> bytes:
        if self.committed and not self.done and self.plain(data):
            return data
        out: list[bytes] = []
        for event in sse.events(data):
            if self.fault is not None or self.done:
                break
            self._event(event, out)
        return b"".join(out)

    def _event(self, event: bytes, out: list[bytes]) -> None:
        """Takes one event: appended to `out` when it may be sent, else held, kept or dropped."""
        if self.committed and self.plain(event):
            out.append(event)
            return
        what = self.look(event)
        if what is What.ERROR:
            return
        if not self.committed and what is not What.OTHER:
            out += self.held
            self.held.clear()
            self.committed = True
        if what is What.DONE:
            self.done = event
        elif self.committed:
            out.append(event)
        else:
            self._hold(event)
        self.finished = self.finished or what is What.FINISH or what is What.DONE

    def close(self) -> bytes:
        """The clean end of the upstream's bytes: what is still to be sent. Sets `fault` when the answer is not whole."""
        out = self._unended() if self.rest.strip() and self.fault is None else b""
        if self.fault is not None:
            return out
        if not self.done:
            self.fault = cut(f"Backend '{self.where}' ended the stream before the answer was finished.", "stream_cut")
            return out
        return out + self.done

    def _unended(self) -> bytes:
        """What the last event, whose empty line is missing, lets go to the client: nothing unless it ends the answer or is an error.
        Anything else is followed by no end, so the answer is cut anyway, and whether it is whole cannot be told."""
        eol = b"\r\n" if self.rest.find(b"\r\n") >= 0 or self.rest.endswith(b"\r") else b"\n"
        event, self.rest = self.rest.strip(b"\r\n") + eol + eol, b""
        out: list[bytes] = []
        if not self.done and not self.plain(event) and self.look(event) is What.DONE:
            self._event(event, out)
        return b"".join(out)

    def failed(self, error: Any) -> What:
        """Sets the fault of an upstream's error object."""
        self.fault = from_event(error, self.where)
        return What.ERROR


def _may_be_error(data: bytes) -> bool:
    # Quotation marks inside JSON strings are escaped: `"error"` is a key or a whole value. `find` and not `in`: see `sse.plain`.
    find = data.find
    return find(b'"error"') >= 0 or find(b"event: error") >= 0 or find(b"event:error") >= 0


def chat_usage(usage: Usage) -> bytes:
    """Disjoint counts as a chat usage document, which is what the recorder reads."""
    return encode(
        {
            "usage": {
                "prompt_tokens": usage.input + usage.cached + usage.cache_write,
                "completion_tokens": usage.output + usage.reasoning,
                "prompt_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
                "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
            }
        }
    )


def count(value: object) -> int:
    """A token count; 0 for what is none."""
    return value if isinstance(value, int) and value > 0 else 0


_any = msgspec.json.Decoder()


def _text_error(data: bytes) -> Any:
    try:
        return _any.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return data.decode("utf-8", "replace")[:500]


def told(body: bytes, answer: msgspec.json.Decoder[Any], disjoint: Callable[[Any], Usage]) -> bytes | None:
    """The counts of a whole answer, read as `answer`, as a chat usage document like `usage_event`; None when it tells none. Parses the
    answer once."""
    try:
        usage = answer.decode(body).usage
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return None if usage is None else chat_usage(disjoint(usage))
