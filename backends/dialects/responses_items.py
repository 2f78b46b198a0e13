"""The items of an answer, and how each is written. Pure. Text is kept as the inside of a JSON string, as it came."""

from __future__ import annotations

import msgspec

from backends import wire
from backends.dialects import responses_state as state


class Flow:
    """One text that grows by delta events. A delta event is `head`, its number, `where`, the delta, `tail`."""

    __slots__ = ("at", "head", "logprobs", "tail", "text", "where")

    def __init__(self, kind: bytes, where: bytes, tail: bytes = b"") -> None:
        self.at = where
        self.head = b'event: %b\ndata: {"type":"%b","sequence_number":' % (kind, kind)
        self.where = b',%b,"delta":' % where
        self.tail = tail + b"}\n\n"
        self.text = bytearray()
        self.logprobs: list[bytes] = []


class Item:
    """One item of the output. `status` is what it has when it is asked for outside an event of its own."""

    __slots__ = ("id", "index", "status")

    def __init__(self, id: bytes, index: int) -> None:
        self.id, self.index, self.status = id, index, b"incomplete"

    def json(self, status: bytes) -> bytes:
        """The item as it is now."""
        raise NotImplementedError


class Part:
    """A part of a message: `output_text` or `refusal`."""

    __slots__ = ("annotations", "flow", "kind")

    def __init__(self, kind: bytes, where: bytes) -> None:
        self.kind = kind
        self.annotations: list[bytes] = []
        plain = kind == b"output_text"
        self.flow = Flow(b"response.%b.delta" % kind, where, b',"logprobs":[]' if plain else b"")

    def json(self) -> bytes:
        """The part as it is now."""
        if self.kind == b"refusal":
            return b'{"type":"refusal","refusal":"%b"}' % bytes(self.flow.text)
        lists = b",".join(self.annotations), b",".join(self.flow.logprobs)
        return b'{"type":"output_text","text":"%b","annotations":[%b],"logprobs":[%b]}' % (bytes(self.flow.text), *lists)


class Message(Item):
    """A message of the assistant."""

    __slots__ = ("parts",)

    def __init__(self, id: bytes, index: int) -> None:
        super().__init__(id, index)
        self.parts: list[Part] = []

    def opened(self, kind: bytes) -> Part:
        """A new part at the end."""
        where = b'"item_id":"%b","output_index":%d,"content_index":%d' % (self.id, self.index, len(self.parts))
        self.parts.append(Part(kind, where))
        return self.parts[-1]

    def json(self, status: bytes) -> bytes:
        parts = b",".join(part.json() for part in self.parts)
        return b'{"id":"%b","type":"message","status":"%b","role":"assistant","content":[%b]}' % (self.id, status, parts)


class Thought(Item):
    """Reasoning: its text as the summary or as content, and what its provider wants back."""

    __slots__ = ("flow", "sealed", "state", "summary")

    def __init__(self, id: bytes, index: int, summary: bool) -> None:
        super().__init__(id, index)
        self.summary = summary
        self.flow: Flow | None = None
        self.state = state.State()
        self.sealed: str | None = None

    def opened(self) -> Flow:
        """The flow of its text."""
        return Flow(b"response.reasoning_summary_text.delta" if self.summary else b"response.reasoning_text.delta", self._where())

    def _where(self) -> bytes:
        key = b"summary_index" if self.summary else b"content_index"
        return b'"item_id":"%b","output_index":%d,"%b":0' % (self.id, self.index, key)

    def text_event(self) -> tuple[bytes, bytes]:
        """The type of the event that ends the text, and where it is."""
        return b"response.reasoning_summary_text.done" if self.summary else b"response.reasoning_text.done", self._where()

    def part_event(self, what: bytes) -> tuple[bytes, bytes]:
        """The type of the event of a part (`added`, `done`), and where it is."""
        return (b"response.reasoning_summary_part.%b" if self.summary else b"response.content_part.%b") % what, self._where()

    def part(self, text: bytes) -> bytes:
        """The part with this text."""
        return b'{"type":"%b","text":"%b"}' % (b"summary_text" if self.summary else b"reasoning_text", text)

    def seal(self) -> None:
        """Makes `encrypted_content`. The text goes in where no block has it: some clients do not send content back."""
        if self.flow is not None and not any(isinstance(block, state.Thinking) for block in self.state.b):
            self.state.r = string(self.flow.text)
        self.sealed = state.encode(self.state)

    def json(self, status: bytes) -> bytes:
        text = self.part(bytes(self.flow.text)) if self.flow is not None and self.flow.text else b""
        shown = b'"summary":[%b]' % text if self.summary or not text else b'"summary":[],"content":[%b]' % text
        sealed = wire.encode(self.sealed)
        return b'{"id":"%b","type":"reasoning","status":"%b",%b,"encrypted_content":%b}' % (self.id, status, shown, sealed)


class Call(Item):
    """A call of a function, or of a custom tool that a function stands for."""

    __slots__ = ("call_id", "custom", "flow", "given", "named")

    def __init__(self, id: bytes, index: int, call_id: str, name: str, custom: bool) -> None:
        super().__init__(id, index)
        self.call_id, self.custom = call_id, custom
        self.given: str | None = None  # the id that the backend gave it
        self.named = b'"call_id":%b,"name":%b' % (wire.encode(call_id), wire.encode(name))
        self.flow = Flow(b"response.function_call_arguments.delta", b'"item_id":"%b","output_index":%d' % (id, index))

    def text(self) -> bytes:
        """The arguments, or the input, as a JSON string."""
        return b'"%b"' % bytes(self.flow.text)

    def read_input(self) -> None:
        """Takes the input of a custom tool out of the arguments; what is not as asked for is the input itself."""
        text = string(self.flow.text)
        try:
            self.flow.text = bytearray(wire.encode(_argument.decode(text or "").input)[1:-1])
        except (msgspec.MsgspecError, RecursionError):
            return

    def json(self, status: bytes) -> bytes:
        kind, key = (b"custom_tool_call", b"input") if self.custom else (b"function_call", b"arguments")
        return b'{"id":"%b","type":"%b","status":"%b",%b,"%b":%b}' % (self.id, kind, status, self.named, key, self.text())


class _Argument(msgspec.Struct):
    input: str


_argument = msgspec.json.Decoder(_Argument)
_str = msgspec.json.Decoder(str)


def string(inner: bytes | bytearray) -> str | None:
    """The text of the inside of a JSON string; None when it is not valid."""
    try:
        return _str.decode(b'"%b"' % bytes(inner))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class _Top(msgspec.Struct):
    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class Score(_Top):
    """What chat says about one token."""

    top_logprobs: list[_Top] | None = None


def scores(found: list[Score]) -> bytes:
    """Log probabilities of tokens as Responses writes them, as the members of a JSON list. `bytes` is a list there, never null."""
    told = [{**_top(score), "top_logprobs": [_top(top) for top in score.top_logprobs or ()]} for score in found]
    return wire.encode(told)[1:-1]


def _top(score: _Top) -> dict[str, object]:
    return {"token": score.token, "bytes": score.bytes or list(score.token.encode("utf-8", "replace")), "logprob": score.logprob}


class _Place(msgspec.Struct):
    url: str
    title: str = ""
    start_index: int = 0
    end_index: int = 0


class _Citation(msgspec.Struct, tag="url_citation"):
    url_citation: _Place


_citation = msgspec.json.Decoder(_Citation)


def citation(raw: msgspec.Raw) -> bytes | None:
    """An annotation of chat as Responses writes it; None when it is not a citation of a URL."""
    try:
        return wire.encode({"type": "url_citation", **msgspec.to_builtins(_citation.decode(raw).url_citation)})
    except (msgspec.MsgspecError, RecursionError):
        return None
