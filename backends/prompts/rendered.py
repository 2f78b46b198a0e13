"""Token mode: a call's prompt as its engine will see it, in token ids."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import datetime
from itertools import chain
from typing import Any, Literal

import msgspec

from backends.prompts import body, media
from backends.prompts.engines import ENGINES, Form, Shape, without_developer
from backends.prompts.sources import Source
from backends.prompts.template import Template
from backends.prompts.tokens import Tokens
from backends.prompts.types import Unreadable
from backends.types import Call

# What calls may ask of vLLM and SGLang that makes another prompt of the same messages.
_OWN = (
    "chat_template", "continue_final_message", "add_special_tokens", "truncate_prompt_tokens", "truncation_side", "input_ids",
    "input_embeds", "prompt_embeds",
)  # fmt: skip
_CUT = ("truncate_prompt_tokens", "truncation_side", "prompt_embeds")
Feature = Literal["tools", "parts", "completions", "developer"]
PSEUDO = 1 << 31  # ids from here on stand for media: no vocabulary is that large


class Ids(msgspec.Struct, frozen=True):
    """Token ids of a prompt and bytes of its text. `media`: how many of the ids are guessed, as images have no text."""

    ids: array[int]
    bytes: int
    media: int = 0


class Rendered:
    """Renders and tokenises for one engine. `refused`: what it does otherwise than we, and what is therefore left to text mode.

    Raises `Unreadable` in every method where it cannot say. Mutates only its tokenizer's memory; `adapted` gives another one.
    """

    def __init__(
        self, tokens: Tokens, source: Source, engine: str, now: Callable[[], datetime], digest: Callable[[bytes, int], int]
    ) -> None:
        self.tokens = tokens
        self._templates = {
            name: Template(text, source.specials, now) for name, text in source.templates.items() if name in ("default", "tool_use")
        }
        if not self._templates:
            raise Unreadable("the model's folder has no chat template.")
        self._treats = ENGINES.get(engine, ENGINES[""])
        self.engine, self._digest = engine, digest
        self.shape: Shape = self._treats.shapes[0]
        self.form: Form = self._default.content
        self.refused: frozenset[Feature] = frozenset()

    def adapted(self, form: Form, shape: Shape, refused: frozenset[Feature] = frozenset()) -> Rendered:
        """One over the same tokenizer and templates that gives contents and tools in these forms and leaves some calls to text mode."""
        made = copy(self)
        made.form, made.shape, made.refused = form, shape, refused
        return made

    def trials(self) -> list[Rendered]:
        """Every way that the engine may have, the likeliest first; each with nothing left to text mode."""
        forms: tuple[Form, Form] = ("openai", "string") if self.form == "openai" else ("string", "openai")
        return [self.adapted(form, shape) for form in forms for shape in self._treats.shapes]

    @property
    def _default(self) -> Template:
        return self._templates.get("default") or next(iter(self._templates.values()))

    def chat(self, call: Call, messages: list[dict[str, Any]], session: str = "") -> Ids:
        """The prompt of a chat call with these messages. `session`: whose conversation it is, so that only what is new costs."""
        text = self.text(call, messages)
        found = [[seen for p in body.parts(m) if (seen := media.read(p, self._digest)) is not None] for m in messages]
        if not any(found):
            return Ids(self.tokens.ids(text, session), _bytes(text))
        return self._with_media(call, messages, text, found)

    def text(self, call: Call, messages: list[dict[str, Any]], *, answer: bool | None = None) -> str:
        """The prompt's text, as the template renders it; media are placeholders."""
        self._check(call, messages)
        tools, options = self._given(call)
        arranged = self._treats.arrange(messages, self.form)
        template = self._templates.get("tool_use", self._default) if tools else self._default
        if self.engine == "vllm" and not template.developer:
            arranged = without_developer(arranged)
        if answer is None:  # SGLang's chat has no such option
            answer = self.engine == "sglang" or body.flag(call, "add_generation_prompt", True)
        return template.render(arranged, tools, options, answer=answer)

    def completion(self, call: Call, prompt: str) -> Ids:
        """The prompt of a completion."""
        if "completions" in self.refused:
            raise Unreadable("the engine tokenises plain prompts otherwise.")
        if any(body.given(call, key) for key in _CUT):
            raise Unreadable("the call has its prompt cut.")
        return Ids(self.tokens.whole(prompt, body.flag(call, "add_special_tokens", True)), _bytes(prompt))

    def _with_media(self, call: Call, messages: list[dict[str, Any]], text: str, found: Sequence[Sequence[media.Media]]) -> Ids:
        """What stands before the first message with media is exact; theirs are as many ids that stand for their content."""
        at = next(i for i, seen in enumerate(found) if seen)
        cut = self.tokens.boundary(text, _shared(text, self.text(call, messages[:at], answer=False))) if at else 0
        ids = array("I", self.tokens.ids(text[:cut]))
        count = 0
        for seen in chain.from_iterable(found):
            ids.extend(array("I", [PSEUDO | (seen.hash & (PSEUDO - 1))]) * seen.tokens)
            count += seen.tokens
        ids.extend(self.tokens.ids(text[cut:]))
        return Ids(ids, _bytes(text), count)

    def _given(self, call: Call) -> tuple[list[Any] | None, dict[str, Any]]:
        found = body.tools(call)
        kept = self._treats.tools(found, body.value(call, "tool_choice")) if found is not None else []
        tools = [self.shape(tool) for tool in kept] or None
        options = body.value(call, "chat_template_kwargs")
        out: dict[str, Any] = dict(options) if isinstance(options, dict) else {}
        for key in ("reasoning_effort",) if self.engine == "sglang" else ("reasoning_effort", "documents"):
            if (value := body.value(call, key)) is not None:
                out[key] = value
        return tools, out

    def _check(self, call: Call, messages: Sequence[Mapping[str, Any]]) -> None:
        """Refuses what is rendered in ways of the engine's own."""
        if any(body.given(call, key) for key in _OWN):
            raise Unreadable("the call brings its own template or ids, or has its prompt cut or continued.")
        if "tools" in self.refused and (body.given(call, "tools") or any(m.get("tool_calls") or m.get("role") == "tool" for m in messages)):
            raise Unreadable("the engine renders tools otherwise.")
        if "parts" in self.refused and any(isinstance(m.get("content"), list) for m in messages):
            raise Unreadable("the engine renders lists of parts otherwise.")
        if "developer" in self.refused and any(m.get("role") == "developer" for m in messages):
            raise Unreadable("the engine renders developers' messages otherwise.")


def _shared(a: str, b: str) -> int:
    """How many characters two texts begin with in common. O(n) comparisons of slices, halved each time."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
