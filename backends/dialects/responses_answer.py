"""An answer in the making: chat deltas become Responses items and the events that tell of them. Pure.

A whole answer is one large delta, so both kinds of answers are made by the same code. Text stays as it came, a slice of JSON: it is put
into events and gathered for the item's end without being read.

1. Text, refusals and reasoning never overlap: one is ended before another begins. Calls stay open beside each other until the end, since
   their arguments may come interleaved.
2. State of the provider that belongs to a call goes with the reasoning before it, or into a reasoning item of its own.
3. `settle` ends all that is open.
"""

from __future__ import annotations

import msgspec

from backends import wire
from backends.dialects import responses_state as state
from backends.dialects.responses_items import Call, Flow, Item, Message, Part, Score, Thought, citation, scores
from backends.types import Fault

MOST = 64 << 20  # bytes of text, reasoning and arguments in one answer
MOST_ITEMS = 4096
_QUOTE, _OBJECT = b'"{'
_UNKNOWN = "The backend began arguments of a call without naming the function."


class Function(msgspec.Struct):
    """`function` of a call or of its delta."""

    name: str | None = None
    arguments: msgspec.Raw = wire.NULL


class ToolCall(msgspec.Struct):
    """A call, whole or as a delta."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    extra_content: msgspec.Raw = wire.NULL


class Delta(msgspec.Struct):
    """A message of the assistant, whole or as a delta. `reasoning` is another name for `reasoning_content`."""

    content: msgspec.Raw = wire.NULL
    reasoning_content: msgspec.Raw = wire.NULL
    reasoning: msgspec.Raw = wire.NULL
    refusal: msgspec.Raw = wire.NULL
    tool_calls: list[ToolCall] | None = None
    thinking_blocks: list[msgspec.Raw] | None = None
    annotations: list[msgspec.Raw] | None = None
    extra_content: msgspec.Raw = wire.NULL


class _Text(msgspec.Struct, tag="text"):
    text: msgspec.Raw


_texts = msgspec.json.Decoder(list[_Text])


def inside(raw: msgspec.Raw) -> bytes:
    """The inside of a JSON string; nothing for null. Some backends write a list of text parts: these are joined. Raises `Fault`
    (upstream) for any other value, so that nothing is lost unseen."""
    data = bytes(raw)
    if data[0] == _QUOTE:
        return data[1:-1]
    if data == b"null":
        return b""
    try:
        return b"".join(inside(part.text) for part in _texts.decode(data))
    except (msgspec.MsgspecError, RecursionError):
        raise Fault("upstream", "The backend's answer has content that is no text.", origin="backend", code="bad_answer") from None


class Answer:
    """The items of one answer. `events` gathers what is to be sent; the owner takes and clears it."""

    __slots__ = (
        "base", "calls", "custom", "events", "extra", "items", "late", "live", "message", "seq", "size", "status", "summary", "thought",
    )  # fmt: skip

    def __init__(self, request_id: str, custom: frozenset[str], summary: bool) -> None:
        self.base, self.custom, self.summary = state.base(request_id), custom, summary
        self.events: list[bytes] = []
        self.items: list[Item] = []
        self.live: list[Call] = []  # the open calls, in order
        self.calls: dict[int, Call] = {}  # those of them that can be gone on with, by the backend's index
        self.message: Message | None = None
        self.thought: Thought | None = None
        self.seq = self.size = 0
        self.late: dict[str, state.Extra] = {}
        self.extra: state.Extra | None = None
        self.status = b"completed"  # of the items that `settle` ends

    def emit(self, kind: bytes, rest: bytes) -> None:
        """One event: its type, and its members after `sequence_number`."""
        self.events.append(b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b}\n\n' % (kind, kind, self.seq, rest))
        self.seq += 1

    def add(self, delta: Delta, logprobs: list[Score] | None) -> None:
        """One delta, in the order in which its parts belong. Raises `Fault` (upstream) for what makes no sense or is too much."""
        if thought := inside(delta.reasoning_content) or inside(delta.reasoning):
            self.think(thought)
        if delta.thinking_blocks:
            self._blocks(delta.thinking_blocks)
        if text := inside(delta.content):
            self._say(self._part(b"output_text").flow, text, logprobs)
        if refusal := inside(delta.refusal):
            self._say(self._part(b"refusal").flow, refusal)
        if delta.annotations:
            self._annotations(delta.annotations)
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._call(call)
        if delta.extra_content != wire.NULL:
            self.extra = state.extra(delta.extra_content) or self.extra

    def speak(self, inner: bytes) -> None:
        """A delta that is text alone: the inside of a JSON string."""
        message = self.message
        if message is not None and message.parts[-1].kind == b"output_text":
            self._say(message.parts[-1].flow, inner)
        else:
            self._say(self._part(b"output_text").flow, inner)

    def think(self, inner: bytes) -> None:
        """A delta that is reasoning alone: the inside of a JSON string."""
        self._say(self._thought_flow(), inner)

    def _say(self, flow: Flow, inner: bytes, logprobs: list[Score] | None = None, quiet: bool = False) -> None:
        flow.text += inner
        self.size += len(inner)
        if self.size > MOST:
            raise Fault("upstream", f"The answer exceeds {MOST} bytes.", origin="backend", code="answer_too_large")
        if quiet:
            return
        tail = flow.tail
        if logprobs:
            told = scores(logprobs)
            flow.logprobs.append(told)
            tail = b',"logprobs":[%b]}\n\n' % told
        self.events.append(b'%b%d%b"%b"%b' % (flow.head, self.seq, flow.where, inner, tail))
        self.seq += 1

    def _next(self, prefix: str) -> tuple[bytes, int]:
        """The id and the index of a new item."""
        index = len(self.items)
        if index >= MOST_ITEMS:
            raise Fault("upstream", f"The answer has more than {MOST_ITEMS} items.", origin="backend", code="answer_too_large")
        return f"{prefix}_{self.base}_{index}".encode(), index

    def _begin(self, item: Item) -> None:
        self.items.append(item)
        self.emit(b"response.output_item.added", b'"output_index":%d,"item":%b' % (item.index, item.json(b"in_progress")))

    def _end(self, item: Item) -> None:
        item.status = self.status
        self.emit(b"response.output_item.done", b'"output_index":%d,"item":%b' % (item.index, item.json(self.status)))

    def _thinking(self) -> Thought:
        """The reasoning item that is open, or a new one."""
        if self.thought is None:
            self._end_message()
            self.thought = Thought(*self._next("rs"), self.summary)
            self._begin(self.thought)
        return self.thought

    def _thought_flow(self) -> Flow:
        thought = self._thinking()
        if thought.flow is None:
            thought.flow = thought.opened()
            kind, where = thought.part_event(b"added")
            self.emit(kind, b'%b,"part":%b' % (where, thought.part(b"")))
        return thought.flow

    def _blocks(self, raws: list[msgspec.Raw]) -> None:
        blocks = [block for raw in raws if (block := state.block(raw)) is not None]
        if blocks:
            self._thinking().state.b += blocks
            self.size += sum(map(len, raws))

    def _end_thought(self) -> None:
        thought, self.thought = self.thought, None
        if thought is None:
            return
        if thought.flow is not None:
            text = bytes(thought.flow.text)
            kind, where = thought.text_event()
            self.emit(kind, b'%b,"text":"%b"' % (where, text))
            kind, where = thought.part_event(b"done")
            self.emit(kind, b'%b,"part":%b' % (where, thought.part(text)))
        thought.seal()
        self._end(thought)

    def _part(self, kind: bytes) -> Part:
        """The part of a message that is open, or a new one of this kind."""
        self._end_thought()
        if self.message is None:
            self.message = Message(*self._next("msg"))
            self._begin(self.message)
        message = self.message
        if not message.parts or message.parts[-1].kind != kind:
            self._end_part()
            part = message.opened(kind)
            self.emit(b"response.content_part.added", b'%b,"part":%b' % (part.flow.at, part.json()))
        return message.parts[-1]

    def _end_part(self) -> None:
        if self.message is not None and self.message.parts:
            part = self.message.parts[-1]
            where = part.flow.at
            if part.kind == b"refusal":
                self.emit(b"response.refusal.done", b'%b,"refusal":"%b"' % (where, bytes(part.flow.text)))
            else:
                logprobs = b",".join(part.flow.logprobs)
                self.emit(b"response.output_text.done", b'%b,"text":"%b","logprobs":[%b]' % (where, bytes(part.flow.text), logprobs))
            self.emit(b"response.content_part.done", b'%b,"part":%b' % (where, part.json()))

    def _end_message(self) -> None:
        if self.message is not None:
            self._end_part()
            self._end(self.message)
            self.message = None

    def _annotations(self, raws: list[msgspec.Raw]) -> None:
        for raw in raws:
            told = citation(raw)
            if told is None or self.message is None or self.message.parts[-1].kind != b"output_text":
                continue
            part = self.message.parts[-1]
            where = b'%b,"annotation_index":%d,"annotation":%b' % (part.flow.at, len(part.annotations), told)
            part.annotations.append(told)
            self.size += len(told)
            self.emit(b"response.output_text.annotation.added", where)

    def _call(self, delta: ToolCall) -> None:
        function = delta.function or Function()
        call = self._continued(delta, function)
        extra = state.extra(delta.extra_content) if delta.extra_content != wire.NULL else None
        if call is None:
            call = self._begin_call(delta, function, extra)
        elif extra is not None:
            self.late[call.call_id] = extra
        arguments = bytes(function.arguments)
        if arguments[0] == _OBJECT:  # some send an object, not a string with one in it
            arguments = wire.encode(arguments.decode())
        if len(arguments) > 2 and arguments[0] == _QUOTE:
            self._say(call.flow, arguments[1:-1], quiet=call.custom)

    def _continued(self, delta: ToolCall, function: Function) -> Call | None:
        """The open call that a delta goes on with. None for a new one: another id under a known index is one too, since some engines
        give all parallel calls the same index."""
        index = delta.index if delta.index is not None else len(self.calls) - (0 if function.name else 1)
        call = self.calls.get(index)
        if call is None or (function.name and delta.id and delta.id != call.given):
            return None
        return call

    def _begin_call(self, delta: ToolCall, function: Function, extra: state.Extra | None) -> Call:
        name = function.name
        if not name:
            raise Fault("upstream", _UNKNOWN, origin="backend", code="bad_tool_call")
        custom = name in self.custom
        call_id = delta.id or f"call_{self.base}_{len(self.items)}"
        if extra is not None:
            self._thinking().state.c[call_id] = extra
        self._end_thought()
        self._end_message()
        call = Call(*self._next("ctc" if custom else "fc"), call_id, name, custom)
        call.given = delta.id
        self.calls[delta.index if delta.index is not None else len(self.calls)] = call
        self.live.append(call)
        self._begin(call)
        return call

    def _end_call(self, call: Call) -> None:
        where = b'"item_id":"%b","output_index":%d' % (call.id, call.index)
        if call.custom:
            call.read_input()
            self.emit(b"response.custom_tool_call_input.delta", b'%b,"delta":%b' % (where, call.text()))
            self.emit(b"response.custom_tool_call_input.done", b'%b,"input":%b' % (where, call.text()))
        else:
            if not call.flow.text:
                self._say(call.flow, b"{}")
            self.emit(b"response.function_call_arguments.done", b'%b,"arguments":%b' % (where, call.text()))
        self._end(call)

    def settle(self) -> None:
        """Ends all that is open. Later deltas begin new items."""
        self._end_thought()
        self._end_message()
        for call in self.live:
            self._end_call(call)
        self.live.clear()
        self.calls.clear()
        if self.late or self.extra:
            self._thinking().state = state.State(c=self.late, x=self.extra)
            self.late, self.extra = {}, None
            self._end_thought()

    def output(self) -> bytes:
        """All items as they are now, as the members of a JSON list."""
        return b",".join(item.json(item.status) for item in self.items)
