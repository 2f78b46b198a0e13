"""How a check asks: documents in, whole answers or streams out, over the link that serves real calls. Runs on the event loop."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from backends import sse, wire
from backends.faults import from_answer
from backends.fetch import Gather
from backends.openai import OpenAILink
from backends.probe.types import Absent, Refused, Unclear
from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts

TRIES = 3  # of a call that the backend had no room for
WAIT = 10.0  # seconds at most before another try
MAX_ANSWER = 4 << 20  # bytes
# Kinds of faults that are a clear no to what was asked, and those that say nothing of it.
_NO = frozenset({"bad_request", "not_found", "too_large"})
_BUSY = frozenset({"rate_limited", "overloaded"})
_any = msgspec.json.Decoder()
Pause = Callable[[float], Awaitable[None]]
Doc = Mapping[str, Any]


class Sends(Protocol):
    """A link, as far as a survey needs one (`routing.types.Link`)."""

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight: ...


class Reading(Gather):
    """Gathers one answer, bounded. `leave`: after that many bytes of it its reader is gone."""

    def __init__(self, over: asyncio.Future[None], leave: int) -> None:
        super().__init__()
        self.over, self.leave = over, leave
        self.fault: Fault | None = None

    def _grown(self) -> None:
        if self.size >= self.leave:
            self.on_end()

    def on_end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def on_fault(self, fault: Fault) -> None:
        self.fault = fault
        self.on_end()


class Heard:
    """One good answer. `doc`: a whole one; of a stream `events`, in order, and `done`: whether `[DONE]` came. What is not there reads as
    empty: nothing here raises."""

    def __init__(self, body: bytes, headers: Mapping[bytes, bytes]) -> None:
        self.headers = headers
        self.doc: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.bad = 0  # events that are not JSON in UTF-8
        self.done = False
        if headers.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
            self._read(body)
        else:
            self.doc = _object(body) or {}

    def _read(self, body: bytes) -> None:
        for event in sse.events(sse.split(body + b"\n\n")[0]):
            _, data = sse.payload(event)
            if data == b"[DONE]":
                self.done = True
            elif data:
                found = _object(data)
                self.bad += found is None
                self.events.append(found or {})

    @property
    def choices(self) -> list[dict[str, Any]]:
        """The choices of a whole answer."""
        return _objects(self.doc.get("choices"))

    @property
    def message(self) -> dict[str, Any]:
        """The first choice's message; of a stream, its deltas put together."""
        if self.events:
            return merged(self.deltas)
        found = self.choices[0].get("message") if self.choices else None
        return found if isinstance(found, dict) else {}

    @property
    def deltas(self) -> list[dict[str, Any]]:
        """The deltas of a stream's first choice."""
        choices = [choice for event in self.events for choice in _objects(event.get("choices")) if not choice.get("index")]
        return [delta for choice in choices if isinstance(delta := choice.get("delta"), dict)]

    @property
    def text(self) -> str:
        """The first choice's text."""
        found = self.message.get("content")
        if found is None and self.choices:
            found = self.choices[0].get("text")  # of a text completion
        return found if isinstance(found, str) else ""

    @property
    def thought(self) -> str:
        """The first choice's reasoning, under either of its names."""
        found = self.message.get("reasoning_content") or self.message.get("reasoning")
        return found if isinstance(found, str) else ""

    @property
    def tools(self) -> list[tuple[str, str]]:
        """The first choice's tool calls: (name, arguments)."""
        functions = [_dict(call.get("function")) for call in _objects(self.message.get("tool_calls"))]
        return [(str(one.get("name") or ""), str(one.get("arguments") or "")) for one in functions]

    @property
    def finishes(self) -> list[str]:
        """Every finish reason that was given, in order."""
        parts = self.events or [self.doc]
        reasons = [choice.get("finish_reason") for part in parts for choice in _objects(part.get("choices"))]
        return [str(reason) for reason in reasons if reason is not None]

    @property
    def usage(self) -> dict[str, Any]:
        """The usage object; of a stream, the last one told."""
        told = [usage for part in self.events or [self.doc] if isinstance(usage := part.get("usage"), dict)]
        return told[-1] if told else {}

    def count(self, name: str) -> int:
        """A number of the usage object; 0 when it is not told."""
        value = self.usage.get(name)
        return value if isinstance(value, int) else 0


def merged(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """A stream's deltas as the message that they say."""
    out: dict[str, Any] = {}
    calls: dict[int, dict[str, str]] = {}
    for delta in deltas:
        for key in ("role", "content", "reasoning_content", "reasoning"):
            if isinstance(piece := delta.get(key), str):
                out[key] = piece if key == "role" else out.get(key, "") + piece
        for call in _objects(delta.get("tool_calls")):
            at = call.get("index")
            held = calls.setdefault(at if isinstance(at, int) else 0, {"name": "", "arguments": ""})
            for key, piece in _dict(call.get("function")).items():
                if key in held and isinstance(piece, str):
                    held[key] += piece
    if calls:
        out["tool_calls"] = [{"function": calls[at]} for at in sorted(calls)]
    return out


class Asker:
    """What a check asks with. `link` and `target` as the gateway has them; `context`: tokens that the model takes, None when nobody says.
    `pause` waits so many seconds. `calls` counts what was sent."""

    def __init__(self, link: Sends, target: Target, *, context: int | None, timeouts: Timeouts, pause: Pause = asyncio.sleep) -> None:
        self.link, self.target, self.context, self.timeouts, self.pause = link, target, context, timeouts, pause
        self._ids = itertools.count(1)
        self.calls = 0
        self.exact = False
        self.hot = False  # the model takes no temperature, so its answers differ

    def assuming(self, facts: Mapping[str, Any], *, exact: bool = False) -> Asker:
        """The same, with some facts of the model taken for true, and its own count. `exact`: a temperature that is refused stays."""
        target = msgspec.structs.replace(self.target, facts={**self.target.facts, **facts}, strict=True)
        made = Asker(self.link, target, context=self.context, timeouts=self.timeouts, pause=self.pause)
        made.exact = exact
        return made

    @property
    def relay(self) -> OpenAILink:
        """The link where it speaks OpenAI's own dialect. Raises `Absent` where calls are translated."""
        if not isinstance(self.link, OpenAILink):
            raise Absent("this backend is reached through a translation, which has no such call")
        return self.link

    async def say(self, text: str, **params: Any) -> Heard:
        """A chat call of one user message; see `ask`."""
        return await self.ask({"messages": [{"role": "user", "content": text}], **params})

    async def ask(self, doc: Doc, *, api: str = "chat", model: str | None = None) -> Heard:
        """One call, whole or streamed as `doc` says. Raises `Refused` for a clear no, `Unclear` for any other failure. A backend that has
        no room is asked again, up to `TRIES` times."""
        for left in reversed(range(TRIES)):
            reading = await self._once(doc, api, model, MAX_ANSWER)
            fault = self._fault(reading)
            if fault is None:
                heard = Heard(reading.body, reading.headers)
                _whole(heard)
                return heard
            if refuses(fault):
                if self.exact or "temperature" not in doc or "temperature" not in (fault.param or fault.message).lower():
                    raise Refused(fault)
                self.hot = True
                return await self.ask({key: value for key, value in doc.items() if key != "temperature"}, api=api, model=model)
            if fault.kind not in _BUSY or not left:
                raise Unclear(fault.message)
            await self.pause(min(WAIT, fault.retry_after or 1.0))
        raise AssertionError("the last try either answers or raises")

    async def leave(self, doc: Doc, size: int) -> bool:
        """Begins a call and leaves it when `size` bytes have come. False: it had ended before. Raises as `ask` does."""
        reading = await self._once(doc, "chat", None, size)
        if (fault := self._fault(reading)) is not None:
            raise Refused(fault) if refuses(fault) else Unclear(fault.message)
        return b"[DONE]" not in reading.body

    async def _once(self, doc: Doc, api: str, model: str | None, leave: int) -> Reading:
        reading = Reading(asyncio.get_running_loop().create_future(), leave)
        target = self.target if model is None else msgspec.structs.replace(self.target, model=model)
        stream = bool(doc.get("stream"))
        body = wire.parse(wire.encode({"model": target.model, **doc}))
        id = b"probe-%d" % next(self._ids)
        self.calls += 1
        try:
            flight = self.link.send(Call(id, api, target.model, stream, body, "", {}, time.monotonic()), target, self.timeouts, reading)
        except Fault as fault:
            reading.on_fault(fault)
            return reading
        try:
            await reading.over
        finally:
            flight.cancel()
        return reading

    def _fault(self, reading: Reading) -> Fault | None:
        if reading.fault is not None or reading.status == 200:
            return reading.fault
        return from_answer(reading.status, reading.headers, reading.body, self.target.backend, time.time())


def refuses(fault: Fault) -> bool:
    """Whether a fault is a clear no. Some servers say theirs with a status that means a failure of their own (llama.cpp, of images)."""
    return fault.kind in _NO or (fault.kind == "upstream" and "not support" in fault.message.lower())


def _whole(heard: Heard) -> None:
    """Raises `Unclear` for an answer that says 200 and is an error all the same, or nothing that can be read."""
    for part in heard.events or [heard.doc]:
        if part.get("error"):
            error = part["error"]
            raise Unclear(f"an error inside a good answer: {error.get('message') if isinstance(error, dict) else error}")
    if not heard.events and not heard.doc:
        raise Unclear("the answer is neither a JSON object nor a stream of events")


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        data.decode()
        found = _any.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
