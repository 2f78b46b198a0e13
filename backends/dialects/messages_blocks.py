"""Writing the content blocks of a Messages stream: one at a time, numbered from 0, each begun and ended (trap 21). Pure.

Text is never decoded on its way: a delta of chat is a JSON string, and the same JSON string is a delta of Messages. So what comes
in here as `raw` is the JSON of a string, quotation marks included.
"""

from __future__ import annotations

import msgspec

from backends import wire
from backends.dialects.messages_reply import Block, call_id, wrapped
from backends.dialects.types import Context
from backends.types import Fault

HELD = 1 << 24  # bytes that a stream may hold back: parallel calls waiting for their turn, text behind calls
BLANK = 1 << 16  # bytes of white space that wait for a text
_EACH = 256  # bytes that one more call or delta counts at least: small ones have a price, too
_str = msgspec.json.Decoder(str)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])

_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
_START = b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
_BEGUN = {"text": b'{"type":"text","text":""}', "thinking": b'{"type":"thinking","thinking":"","signature":""}'}
_FIELDS = {
    "text": b'{"type":"text_delta","text":', "thinking": b'{"type":"thinking_delta","thinking":',
    "tool_use": b'{"type":"input_json_delta","partial_json":',
}  # fmt: skip
_END = b"}}\n\n"


def too_much() -> Fault:
    """The fault of a stream that makes us hold more than `HELD` bytes."""
    return Fault("upstream", f"The backend's stream needs more than {HELD} bytes held back.", origin="backend", code="answer_too_large")


def as_raw(text: str) -> bytes:
    """The JSON of a string."""
    return wire.encode(text)


def as_text(raw: bytes | msgspec.Raw) -> str:
    """The string that a JSON string stands for."""
    return _str.decode(raw)


class Blocks:
    """The one writer of blocks. `out` collects events; whoever sends them empties it."""

    __slots__ = ("before", "blank", "index", "kind", "out")

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.index = -1  # of the block that is open, or was last
        self.kind = ""  # of the open block; "" when none is
        self.before = b""  # an event up to the delta's string
        self.blank = ""  # white space that would begin a text: Anthropic takes no blank text back, so it waits for more

    def begin(self, kind: str, block: bytes) -> None:
        """Ends the open block and begins another."""
        self.end()
        self.index += 1
        self.kind = kind
        self.out.append(_START % (self.index, block))
        if kind in _FIELDS:
            self.before = _DELTA % self.index + _FIELDS[kind]

    def end(self) -> None:
        """Ends the open block, if there is one."""
        if self.kind:
            self.kind = ""
            self.out.append(_STOP % self.index)

    def delta(self, raw: bytes | msgspec.Raw) -> None:
        """A piece of the open block."""
        self.out.append(b"".join((self.before, raw, _END)))

    def text(self, raw: bytes | msgspec.Raw) -> None:
        """A piece of text, of a new block where none is open."""
        if self.kind != "text":
            said = self.blank + as_text(raw)
            if said.isspace() and len(said) < BLANK:
                self.blank = said
                return
            self.blank = ""
            self.begin("text", _BEGUN["text"])
            raw = as_raw(said)
        self.delta(raw)

    def thinking(self, raw: bytes | msgspec.Raw) -> None:
        """A piece of reasoning, of a new block where none is open."""
        if self.kind != "thinking":
            self.begin("thinking", _BEGUN["thinking"])
        self.delta(raw)

    def whole(self, block: Block) -> None:
        """A thinking block that has ended at its provider. Its text may have been sent already; then only the signature is new."""
        if block["type"] != "thinking":
            self.begin("redacted_thinking", wire.encode(block))
            self.end()
            return
        if self.kind != "thinking":
            self.begin("thinking", _BEGUN["thinking"])
            if block["thinking"]:
                self.delta(as_raw(block["thinking"]))
        if block["signature"]:
            signed = b'{"type":"signature_delta","signature":%b}}\n\n' % as_raw(block["signature"])
            self.out.append(_DELTA % self.index + signed)
        self.end()

    def finish(self) -> None:
        """Ends the last block. White space that was all there is becomes a text after all."""
        if self.blank and self.index < 0:
            self.begin("text", _BEGUN["text"])
            self.delta(as_raw(self.blank))
        self.end()


class _ToolCall:
    """One call: the pieces that came, and how many of them were written."""

    __slots__ = ("begun", "id", "name", "number", "pieces", "plain", "written")

    def __init__(self, number: int) -> None:
        self.number, self.id, self.name = number, "", ""
        self.pieces: list[bytes] = []
        self.written = 0
        self.begun = False
        self.plain: bool | None = None  # whether the arguments begin like an object; None: nothing but white space yet

    def add(self, raw: bytes) -> None:
        """One piece more."""
        self.pieces.append(raw)
        if self.plain is None and (said := as_text(raw).lstrip()):
            self.plain = said.startswith("{")

    def arguments(self) -> str:
        """All pieces so far as text."""
        return "".join(map(as_text, self.pieces))

    def complete(self) -> bool:
        """Whether the arguments are a whole object, so that no more of them can come."""
        if not self.plain:
            return False
        last = as_text(self.pieces[-1]).rstrip()
        if last and not last.endswith("}"):
            return False
        try:
            _object.decode(self.arguments())
        except (msgspec.MsgspecError, RecursionError):
            return False
        return True

    def write(self, blocks: Blocks, context: Context) -> None:
        """Writes what has come, once it is known how it begins."""
        if not self.name or not self.plain:
            return
        self._begin(blocks, context)
        for piece in self.pieces[self.written :]:
            blocks.delta(piece)
        self.written = len(self.pieces)

    def _begin(self, blocks: Blocks, context: Context) -> None:
        if not self.begun:
            self.begun = True
            block = {"type": "tool_use", "id": call_id(self.id, self.number, context), "name": self.name, "input": {}}
            blocks.begin("tool_use", wire.encode(block))

    def end(self, blocks: Blocks, context: Context) -> None:
        """Writes what is left. No arguments are `{}` (trap 20); what is no object is wrapped whole (trap 15)."""
        self._begin(blocks, context)
        if self.plain is None:
            blocks.delta(b'"{}"')
        elif not self.plain:
            blocks.delta(as_raw(wire.encode(wrapped(self.arguments())).decode()))
        else:
            for piece in self.pieces[self.written :]:
                blocks.delta(piece)
        blocks.end()


class Calls:
    """Puts parallel calls in a row. Chat may interleave them; Messages has one block open at a time. The first is written as it
    comes; the next begins when the one before it is a whole JSON object, or at the end. What waits is bounded by `HELD`.

    Calls are told apart by index. A new id with a name is a new call even under a used index, since vLLM and SGLang have
    streamed parallel calls all under index 0 (trap 19); a new id without a name is not, since some make one up for each delta.
    """

    __slots__ = ("_by_index", "_calls", "_context", "_held", "_now")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._calls: list[_ToolCall] = []
        self._by_index: dict[int, _ToolCall] = {}
        self._now = 0  # the call that is being written
        self._held = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    def hold(self, size: int) -> None:
        """Counts bytes that are held back. Raises `Fault` when they are too many."""
        self._held += size + _EACH
        if self._held > HELD:
            raise too_much()

    def take(self, index: int | None, id: str, name: str, raw: bytes, blocks: Blocks) -> None:
        """One delta of one call. Raises `Fault` when it cannot be told in Messages."""
        call = self._find(index, id, name)
        if not call.id:
            call.id = id
        if not call.name:
            call.name = name
        if raw:
            if call.number < self._now:
                return self._late(call, raw)
            self.hold(len(raw))
            call.add(raw)
        self._advance(blocks)

    def _late(self, call: _ToolCall, raw: bytes) -> None:
        if as_text(raw).strip():
            message = f"The backend's stream went on with call {call.number} after its arguments were a whole object."
            raise Fault("upstream", message, origin="backend", code="bad_stream")

    def _find(self, index: int | None, id: str, name: str) -> _ToolCall:
        """The call that a delta belongs to; a new one where it begins one."""
        known = self._by_index.get(index) if index is not None else (self._calls[-1] if self._calls else None)
        if known is not None and not self._another(known, id, name):
            return known
        self.hold(0)
        call = _ToolCall(len(self._calls))
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    @staticmethod
    def _another(known: _ToolCall, id: str, name: str) -> bool:
        if not name or not known.name:
            return False
        if id and known.id:
            return id != known.id
        return known.complete()

    def _advance(self, blocks: Blocks) -> None:
        """Writes the current call; goes on to the next when it is whole."""
        calls = self._calls
        while True:
            call = calls[self._now]
            call.write(blocks, self._context)
            if self._now == len(calls) - 1 or not call.complete():
                return
            call.end(blocks, self._context)
            self._now += 1

    def finish(self, blocks: Blocks) -> None:
        """Writes all that waits and ends the last call."""
        for call in self._calls[self._now :]:
            call.end(blocks, self._context)
        self._now = len(self._calls)
