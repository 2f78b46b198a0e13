"""The chat document as the Gemini translator reads it, checked by type, and the notes of one translation. Pure."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from backends import wire
from backends.dialects.types import Fate, Note
from backends.types import Fault
from backends.wire import Doc, bad

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
MAX_NOTES = 64
T = TypeVar("T")


class Signed(msgspec.Struct):
    """`extra_content.google`: what a plain OpenAI client carries for us without knowing it."""

    thought_signature: str | None = None


class Extra(msgspec.Struct):
    google: Signed | None = None


class Url(msgspec.Struct):
    url: str = ""
    detail: str | None = None


class File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class Audio(msgspec.Struct):
    data: str = ""
    format: str = ""


class Part(msgspec.Struct):
    type: str = "text"
    text: str | None = None
    refusal: str | None = None
    image_url: str | Url | None = None
    video_url: str | Url | None = None
    file: File | None = None
    input_audio: Audio | None = None
    cache_control: Any = None


class Called(msgspec.Struct):
    name: str = ""
    arguments: Any = None


class ToolCall(msgspec.Struct):
    id: str | None = None
    type: str | None = "function"
    function: Called | None = None
    extra_content: Extra | None = None


class Message(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    reasoning_content: str | None = None
    reasoning: Any = None
    thinking_blocks: Any = None
    extra_content: Extra | None = None
    images: list[Part] | None = None
    audio: Any = None
    cache_control: Any = None


class Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = wire.NULL
    strict: bool | None = None


class Tool(msgspec.Struct):
    type: str = "function"
    function: Function | None = None
    cache_control: Any = None


class JsonSchema(msgspec.Struct):
    schema: msgspec.Raw = wire.NULL
    name: str | None = None


class Format(msgspec.Struct):
    type: str
    json_schema: JsonSchema | None = None


class Named(msgspec.Struct):
    name: str = ""


class Choice(msgspec.Struct):
    """The object forms of `tool_choice`."""

    type: str = "function"
    function: Named | None = None
    allowed_tools: Allowed | None = None


class Allowed(msgspec.Struct):
    mode: str = "auto"
    tools: list[Choice] = []


class Google(msgspec.Struct):
    """Google's own parameters, named as in the documentation of its OpenAI compatibility."""

    thinking_config: dict[str, Any] | None = None
    cached_content: str | None = None
    safety_settings: msgspec.Raw = wire.NULL


class Chat(msgspec.Struct):
    """All that is read of the document. Any other key is one that Gemini has no word for."""

    messages: list[Message]
    model: Any = None
    stream: Any = None
    stream_options: Any = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: Format | None = None
    reasoning_effort: Effort | None = None
    modalities: list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | Choice | None = None
    parallel_tool_calls: bool | None = None
    web_search_options: Any = None
    service_tier: str | None = None
    safety_settings: msgspec.Raw = wire.NULL
    google: Google | None = None
    extra_body: dict[str, msgspec.Raw] | None = None


KNOWN = frozenset(f.name for f in msgspec.structs.fields(Chat))
GOOGLE = frozenset(f.name for f in msgspec.structs.fields(Google))
_chat = msgspec.json.Decoder(Chat)
_google = msgspec.json.Decoder(Google)


def read(doc: Doc) -> Chat:
    """The document by type. Raises `Fault` (bad_request) that names the first value of a wrong type by its path."""
    if "messages" not in doc:
        raise bad("'messages' is missing: a chat needs at least one message.", param="messages")
    return decoded(_chat, wire.encode(doc), "")


def google(chat: Chat) -> Google:
    """Google's own parameters: `extra_body.google` (as the OpenAI SDK sends it to AI Studio) or `google` (to Vertex AI)."""
    raw = (chat.extra_body or {}).get("google", wire.NULL)
    return decoded(_google, bytes(raw), "extra_body.google") if raw != wire.NULL else chat.google or Google()


def decoded(decoder: msgspec.json.Decoder[T], data: bytes, under: str) -> T:
    """`data` by type. Raises `Fault` (bad_request) that names what is wrong by its path, below `under`."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as e:
        what, _, at = str(e).partition(" - at `$")
        path = (under + at.rstrip("`")).lstrip(".")
        raise bad(f"'{path}' is not what it must be: {what[:1].lower()}{what[1:]}.", param=path or None) from None
    except msgspec.DecodeError as e:
        raise bad(f"The body is not valid JSON: {e}.") from None
    except RecursionError:
        raise bad("The body is nested too deeply.") from None


class Notes:
    """What became of parameters, in order. Under `strict` what cannot be honoured is refused."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self._notes: dict[str, Note] = {}

    def add(self, param: str, fate: Fate, why: str) -> None:
        """Keeps the first note for each `param`, at most `MAX_NOTES` in all."""
        if len(self._notes) < MAX_NOTES:
            self._notes.setdefault(param, Note(param, fate, why))

    def extend(self, notes: list[Note]) -> None:
        """Adds notes made elsewhere."""
        for note in notes:
            self.add(note.param, note.fate, note.why)

    def lost(self, param: str, why: str) -> None:
        """Something that changes the answer cannot be honoured: raises `Fault` (bad_request, with `param`) when strict, else notes."""
        if self.strict:
            raise refused(param, why)
        self.add(param, "dropped", why)

    def all(self) -> tuple[Note, ...]:
        """Every note so far."""
        return tuple(self._notes.values())


def refused(param: str, why: str) -> Fault:
    """A parameter that this target cannot honour."""
    return bad(f"'{param}' cannot be honoured: {why}. Leave it out, or let the route drop it.", param=param, code="unsupported_parameter")
