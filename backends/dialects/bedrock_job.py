"""One translation to Bedrock under way: whom it is for, what was noted, and how a client is told no. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from backends.dialects.types import Context, Fate, Note
from backends.types import Fault
from backends.wire import NULL, Doc

T = TypeVar("T")
# Who made a model, by a part of its id or ARN.
_FAMILIES = (
    ("anthropic.", "claude"), ("amazon.nova-2", "nova2"), ("amazon.nova", "nova"), ("openai.gpt-oss", "harmony"), ("openai.", "openai"),
    ("amazon.", "titan"), ("meta.", "llama"), ("mistral.", "mistral"), ("cohere.", "cohere"), ("ai21.", "ai21"), ("deepseek.", "deepseek"),
    ("qwen.", "qwen"), ("moonshot", "kimi"),
)  # fmt: skip


def family(model: str) -> str:
    """Whose model this is: `other` for makers without peculiarities, empty for an ARN that does not say (a profile of one's own)."""
    return next((name for part, name in _FAMILIES if part in model), "" if model.startswith("arn:") else "other")


def bad(message: str, param: str | None = None, code: str | None = None) -> Fault:
    """A 400 that is the client's to mend."""
    return Fault("bad_request", message, origin="client", param=param, code=code)


class Job:
    """What the steps of one request share. `notes` and `instructions` grow, `idle` may be set; nothing else changes."""

    __slots__ = ("context", "facts", "family", "idle", "instructions", "notes")

    def __init__(self, context: Context) -> None:
        self.context, self.facts, self.family = context, context.facts, family(context.model)
        self.notes: list[Note] = []
        self.idle = False  # tools are named, since the history calls them, and none is to be called
        self.instructions: list[str] = []  # put after the client's own system text

    def note(self, param: str, fate: Fate, why: str) -> None:
        self.notes.append(Note(param, fate, why))

    def cannot(self, param: str, why: str) -> None:
        """Refuses the parameter (raises `Fault`) where the route is strict, else notes that it was dropped."""
        if self.context.strict:
            raise bad(f"'{param}' cannot be honoured by this model on Bedrock: {why}.", param, "unsupported_parameter")
        self.note(param, "dropped", why)


def given(doc: Doc, key: str) -> bool:
    """Whether the client said something under `key`; null says nothing."""
    return key in doc and doc[key] != NULL


def read(doc: Doc, key: str, decoder: msgspec.json.Decoder[T]) -> T | None:
    """The value under `key` as the decoder's type; None when absent or null. Raises `Fault` with the place of what is wrong."""
    if not given(doc, key):
        return None
    try:
        return decoder.decode(doc[key])
    except msgspec.ValidationError as e:
        what, _, where = str(e).partition(" - at `$")
        raise bad(f"'{key}{where.rstrip('`')}' is not as it should be: {what}.", key + where.rstrip("`")) from None
    except (msgspec.DecodeError, RecursionError):
        raise bad(f"'{key}' cannot be read; it is nested too deeply or no JSON.", key) from None


Block = dict[str, Any]  # one content block of Converse
