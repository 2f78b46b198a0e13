"""From a call to its `Prompt`: in token mode where a tokenizer is at hand and agrees with the engine, in text mode otherwise."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from backends.prompts import body
from backends.prompts.learned import Learned, estimated
from backends.prompts.rendered import Ids, Rendered
from backends.prompts.sources import find
from backends.prompts.text import ANSWER, Canonical, shortened
from backends.prompts.tokens import CACHE_BYTES, load
from backends.prompts.types import Hashing, Prompt, Unreadable
from backends.types import Call

HEAVY = 1 << 16  # bytes of new text that are better tokenised in a thread
HEAVY_TEXT = 1 << 20  # in text mode
WRONG = 8  # reports in a row that differ from what was counted, after which token mode is left
TENANTS_MAX = 4096  # whose roots are remembered
OPENING = 512  # characters of a plain prompt that name its conversation


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: str
    content: str


_talk = msgspec.json.Decoder(list[_Message])
# What a prompt is made of besides its messages, or that changes how they are read.
_BESIDES = frozenset({
    "tools", "functions", "response_format", "modalities", "audio", "cache_salt", "prompt_cache_key", "user", "add_generation_prompt",
    *body.OPTIONS,
})  # fmt: skip


class Prompter:
    """Makes prompts for the calls that go to one model. `mode` says how, `reason` why not by tokens ("" where it is).

    `model`, `lora`: what salts the chains, as for `routing.kvevents.Feed`. One owner; `prompt`, `ids` and `heavy` may also run in a thread
    beside it. Nothing here raises for a strange body: what cannot be rendered is hashed as the bytes that it is.
    """

    def __init__(
        self, hashing: Hashing, rendered: Rendered | None, reason: str, *, model: str = "", lora: str = "", formats: bool = False
    ) -> None:
        self._hashing, self._rendered, self.reason = hashing, rendered, reason
        self._model, self._lora = model, lora
        self._canonical = Canonical(hashing.digest, formats)
        self._plain_root = hashing.root(model, lora, "")
        self._tenants: dict[str, int] = {}  # tenant -> what its sessions are salted by
        self._wrong = 0
        self.learned = Learned()
        self.verified = False  # whether an engine agreed

    @property
    def mode(self) -> Literal["tokens", "text"]:
        """Which kind of blocks `prompt` makes."""
        return "text" if self._rendered is None else "tokens"

    @property
    def rendered(self) -> Rendered | None:
        """What token mode stands on; None in text mode."""
        return self._rendered

    @property
    def block_tokens(self) -> float:
        """Tokens that one block stands for: exact in token mode, learned from reports in text mode."""
        hashing = self._hashing
        return float(hashing.token_block) if self._rendered is not None else hashing.text_block * self.learned.tokens_per_byte

    def prompt(self, call: Call) -> Prompt:
        """The call's prompt. O(bytes); never raises. In token mode it blocks for new text (`heavy`)."""
        try:
            if "messages" in call.doc:
                if self._rendered is None and _BESIDES.isdisjoint(call.doc):
                    try:
                        return self._talk(call)
                    except (msgspec.MsgspecError, UnicodeError):
                        pass  # something else is in them
                return self._chat(call)
            return self._plain(call)
        except Unreadable:
            return self._raw(call)

    def ids(self, call: Call) -> array[int] | None:
        """The token ids of the call's prompt; None in text mode, with media, or where it cannot be known."""
        rendered = self._rendered
        if rendered is None:
            return None
        try:
            if "messages" in call.doc:
                found = rendered.chat(call, body.messages(call))
            else:
                found = self._plain_ids(call, _inputs(call)[0])
        except Unreadable:
            return None
        return None if found.media else found.ids

    def heavy(self, call: Call) -> bool:
        """Whether `prompt` will block for long: more than 64 KiB that were not seen before (1 MiB in text mode)."""
        rendered = self._rendered
        limit = HEAVY if rendered is not None else HEAVY_TEXT
        size = sum(len(memoryview(call.doc[key])) for key in _PROMPTS if key in call.doc)
        if size <= limit or rendered is None:
            return size > limit
        try:
            text = rendered.text(call, body.messages(call)) if "messages" in call.doc else ""
        except Unreadable:
            return True
        return not text or rendered.tokens.fresh(text) > limit

    def told(self, prompt: Prompt, prompt_tokens: int) -> None:
        """The engine's own count of this prompt (`usage.prompt_tokens`, of one input). Repeated differences end token mode. O(1)."""
        self.learned.told(prompt, prompt_tokens)
        if not prompt.exact or prompt_tokens < 1:
            return
        self._wrong = self._wrong + 1 if prompt.tokens != prompt_tokens else 0
        if self._wrong >= WRONG and self._rendered is not None:
            self.drop(f"the engine counted {prompt_tokens} tokens where the tokenizer gives {prompt.tokens}, {WRONG} times in a row.")

    def adapt(self, rendered: Rendered) -> None:
        """Goes on in token mode with what `verify` found to be the engine's way."""
        self._rendered, self.verified = rendered, True

    def drop(self, reason: str) -> None:
        """Leaves token mode for good. `reason`: one sentence."""
        self._rendered, self.reason = None, reason

    def _chat(self, call: Call) -> Prompt:
        messages = body.messages(call)
        needs, session = body.needs(call, messages), self._session(call, lambda: self._canonical.first(messages))
        if (rendered := self._rendered) is not None:
            try:
                return self._counted(call, rendered.chat(call, messages, session), session, needs)
            except Unreadable:
                pass  # text blocks then: they match nothing of this engine's events, and do no harm
        text, media = self._canonical.chat(call, messages)
        return self._estimated(call, text, session, needs, media)

    def _talk(self, call: Call) -> Prompt:
        """What `_chat` makes in text mode of messages that are a role and a text each and nothing else, at a quarter of its cost. Raises
        what msgspec does for any other."""
        messages = _talk.decode(call.doc["messages"])
        texts = [f"<|{'system' if m.role == 'developer' else m.role}|>\n{m.content}<|end|>\n" for m in messages]
        opening = []
        for m, text in zip(messages, texts, strict=True):
            opening.append(shortened(text))
            if m.role == "user":
                break
        if messages and messages[-1].role != "assistant":
            texts.append(ANSWER)
        begins = "".join(opening)
        session = self._named(call.tenant, begins) if begins else ""
        return self._estimated(call, "".join(texts), session, frozenset(), 0)

    def _plain(self, call: Call) -> Prompt:
        """Completions and embeddings: of several inputs all count, and the first one's blocks stand for them."""
        inputs = _inputs(call)
        first = inputs[0]
        needs, session = body.needs(call, ()), self._session(call, lambda: _opening(first))
        try:
            found = [self._plain_ids(call, one) for one in inputs]
        except Unreadable:
            texts = [one if isinstance(one, str) else " ".join(map(str, one)) for one in inputs]
            made = self._estimated(call, texts[0], session, needs, 0)
            more = sum(estimated(len(text), len(text.encode("utf-8", "surrogatepass"))) for text in texts[1:])
            return made if not more else _more(made, round(more * self.learned.factor))
        made = self._counted(call, found[0], session, needs)
        return made if len(found) == 1 else _more(made, sum(len(one.ids) for one in found[1:]))

    def _plain_ids(self, call: Call, one: str | list[int]) -> Ids:
        if not isinstance(one, str):
            try:
                return Ids(array("I", one), 4 * len(one))
            except (OverflowError, TypeError):
                raise Unreadable("a prompt of token ids has something else in it.") from None
        rendered = self._rendered
        if rendered is None:
            raise Unreadable("this is text, and no tokenizer is at hand for it.")
        return rendered.completion(call, one)

    def _raw(self, call: Call) -> Prompt:
        text = "\n".join(bytes(call.doc[key]).decode("utf-8", "replace") for key in _PROMPTS if key in call.doc)
        return self._estimated(call, text, "", frozenset(), 0)

    def _counted(self, call: Call, found: Ids, session: str, needs: frozenset[str]) -> Prompt:
        count = len(found.ids)
        return Prompt(
            tokens=max(1, count), blocks=self._hashing.tokens(found.ids, self._root(call)), exact=not found.media, session=session,
            needs=needs, output=body.output(call), bytes=found.bytes, estimate=0, media=found.media,
        )  # fmt: skip

    def _estimated(self, call: Call, text: str, session: str, needs: frozenset[str], media: int) -> Prompt:
        raw = text.encode("utf-8", "surrogatepass")
        estimate = max(1, estimated(len(text), len(raw)) - media)
        return Prompt(
            tokens=self.learned.tokens(estimate, media, session), blocks=self._hashing.text(raw, self._root(call)), exact=False,
            session=session, needs=needs, output=body.output(call), bytes=len(raw), estimate=estimate, media=media,
        )  # fmt: skip

    def _root(self, call: Call) -> int:
        """What makes equal prompts different, as in the engines' own hashes: model, adapter, salt."""
        if "cache_salt" not in call.doc:
            return self._plain_root
        salt = body.value(call, "cache_salt")
        return self._hashing.root(self._model, self._lora, salt if isinstance(salt, str) else "")

    def _session(self, call: Call, opening: Callable[[], str]) -> str:
        for key in ("prompt_cache_key", "user"):
            named = body.value(call, key)
            if isinstance(named, str) and named:
                return f"{self._hashing.root(call.tenant, key, named):016x}"
        begins = opening()
        return self._named(call.tenant, begins) if begins else ""

    def _named(self, tenant: str, begins: str) -> str:
        root = self._tenants.get(tenant)
        if root is None:
            if len(self._tenants) >= TENANTS_MAX:
                self._tenants.clear()
            root = self._tenants[tenant] = self._hashing.root(tenant)
        return f"{self._hashing.digest(begins.encode('utf-8', 'surrogatepass'), root):016x}"


_PROMPTS = ("messages", "prompt", "input", "tools")


def _inputs(call: Call) -> Sequence[str | list[int]]:
    """The prompts of a call without messages, at least one. Raises `Unreadable`."""
    given = body.value(call, "prompt" if call.api == "completions" else "input")
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if all(type(one) is int for one in given):
            return [given]
        if all(isinstance(one, str) or _is_ids(one) for one in given):
            return given
    raise Unreadable("there is no prompt that can be read.")


def _is_ids(one: Any) -> bool:
    return isinstance(one, list) and all(type(i) is int for i in one)


def _opening(first: str | list[int]) -> str:
    return first[:OPENING] if isinstance(first, str) else ",".join(map(str, first[: OPENING // 4]))


def _more(prompt: Prompt, tokens: int) -> Prompt:
    """The same with the tokens of further inputs. It teaches nothing: an engine reports their sum."""
    return Prompt(
        tokens=prompt.tokens + tokens, blocks=prompt.blocks, exact=prompt.exact, session=prompt.session, needs=prompt.needs,
        output=prompt.output, bytes=prompt.bytes, estimate=0, media=prompt.media,
    )  # fmt: skip


def prompter(
    model: str | None,
    hashing: Hashing,
    *,
    engine: str = "",
    salt: str = "",
    lora: str = "",
    formats: bool = False,
    cache_bytes: int = CACHE_BYTES,
    now: Callable[[], datetime] = datetime.now,
) -> Prompter:
    """A prompter for a model given by its folder or its name on the hub; None: text mode. Never raises for what is missing.

    `engine`: "vllm", "sglang" or "" (any other): what it does to messages before its template. `salt`: what its chains begin with.
    `formats`: its templates print `response_format`. Blocks on the disk, up to 2 s for a large vocabulary: call it from a thread.
    """
    rendered, reason = None, ""
    if model is None:
        reason = "no model folder or name is given, so there is no tokenizer."
    else:
        try:
            source = find(model)
            rendered = Rendered(load(source.tokenizer, cache_bytes), source, engine, now, hashing.digest)
        except Unreadable as e:
            reason = str(e)
        except OSError as e:
            reason = f"the model's files cannot be read ({type(e).__name__})."
        except ImportError as e:
            reason = f"the package '{(e.name or '').split('.')[0]}' is not installed; pip install 'pointsman[tokens]' gives token mode."
    return Prompter(hashing, rendered, reason, model=salt, lora=lora, formats=formats)
