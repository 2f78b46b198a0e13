"""A fast tokenizer (`tokenizer.json`) in llama.cpp's terms: tokens by number, their types, merges, the name of the rule that splits words.

llama.cpp knows the rules that split words by name only; which name stands for which rule is in `src/llama-vocab.cpp`. A tokenizer whose
rules have none is refused: its model would read other tokens than it was trained on. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from quant.convert_source import ConvertError, Settings, Unsupported

NORMAL, UNKNOWN, CONTROL, DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.h, `enum llama_token_type`
SPACE = "\u2581"  # what SentencePiece writes for a space
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_FILLER = -10000.0  # score of what nothing is merged into
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CL100K = (  # the same, written with possessive quantifiers
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How words are split, and whether a word that is a token is taken before any merge -> llama.cpp's name.
_NAMES: Mapping[tuple[str, bool], str] = {
    (_WORDS + r"\p{N}{1,3}" + _REST, True): "llama-bpe", (_WORDS + r"\p{N}{1,3}" + _REST, False): "dbrx", (_CL100K, False): "dbrx",
    (_CL100K, True): "llama-bpe", (_WORDS + r"\p{N}" + _REST, False): "qwen2", (_TEKKEN, True): "tekken",
    ("bytes", False): "gpt-2", ("digits bytes", False): "smollm",
}  # fmt: skip
_NOTES = {"tekken": "llama.cpp splits words with capital letters beyond ASCII or with separate accents otherwise than this tokenizer does."}


class Tokens(msgspec.Struct, frozen=True):
    """A vocabulary. `model` and `pre`: llama.cpp's names. `scores`: of SentencePiece vocabularies only. `space`: whether a space is put
    before a text (None: as the model's kind does). `first` and `last`: the tokens that are put around a text, None for none."""

    model: str
    pre: str
    texts: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    unknown: int | None = None
    space: bool | None = None
    first: str | None = None
    last: str | None = None
    notes: tuple[str, ...] = ()


def read(tokenizer: Settings, config: Settings, size: int, *, chat: bool) -> Tokens:
    """The vocabulary of `size` tokens (the rows of the embedding). `config`: of `tokenizer_config.json`. `chat`: the model has a chat
    template. Raises `ConvertError`."""
    model = tokenizer.part("model")
    if (kind := model.word("type", "BPE")) != "BPE":
        raise Unsupported(f"The tokenizer is of the kind {kind[:30]!r}; only BPE is converted here.")
    added = _added(tokenizer)
    texts, kinds = _texts(model, added, size)
    merges = _merges(model)
    first, last = _around(tokenizer, config)
    if model.flag("byte_fallback", False):
        return _sentencepiece(tokenizer, model, _Parts(texts, kinds, merges, first, last, _flags(added)), chat=chat)
    pre = _named(tokenizer, model)
    joined = tuple(f"{left.replace(' ', chr(288))} {right.replace(' ', chr(288))}" for left, right in merges)
    notes = (*_composed(tokenizer), *_flags(added), *((_NOTES[pre],) if pre in _NOTES else ()))
    return Tokens("gpt2", pre, tuple(texts), tuple(kinds), joined, first=first, last=last, notes=notes)


class _Parts(msgspec.Struct, frozen=True):
    texts: list[str]
    kinds: list[int]
    merges: list[tuple[str, str]]
    first: str | None
    last: str | None
    notes: tuple[str, ...]


def _added(tokenizer: Settings) -> list[Settings]:
    found = tokenizer.values.get("added_tokens") or []
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ConvertError(f"{tokenizer.place} has no sound list of added_tokens.")
    return [Settings(entry, f"{tokenizer.place}, added_tokens,") for entry in found]


def _flags(added: Sequence[Settings]) -> tuple[str, ...]:
    odd = [entry.word("content") for entry in added if any(entry.values.get(key) is True for key in ("lstrip", "rstrip", "single_word"))]
    if not odd:
        return ()
    return (f"{len(odd)} added tokens ({odd[0][:40]}, ...) swallow the spaces beside them or stand alone, which llama.cpp does not know.",)


def _texts(model: Settings, added: Sequence[Settings], size: int) -> tuple[list[str], list[int]]:
    """Text and type of every token; numbers without one get a filler."""
    texts, kinds = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    unknown = model.values.get("unk_token")
    fallback = model.flag("byte_fallback", False)
    for text, number in model.part("vocab").values.items():
        _place(number, size, text)
        kind = BYTE if fallback and _BYTE.fullmatch(text) else UNKNOWN if fallback and text == unknown else NORMAL
        texts[number], kinds[number] = text, kind
    for entry in added:
        number, text = entry.whole("id", 0, 1 << 24), entry.word("content")
        _place(number, size, text)
        control = entry.flag("special", False) or _looks_special(text)
        if kinds[number] != UNKNOWN:
            kinds[number] = CONTROL if control else DEFINED
        texts[number] = text if control else text.replace(SPACE, " ")  # llama.cpp looks for them before spaces are replaced
    _sound(texts)
    return texts, kinds


def _place(number: Any, size: int, text: str) -> None:
    if type(number) is not int or not 0 <= number < size:
        raise ConvertError(f"The tokenizer gives {text[:40]!r} the number {number}, and the model has tokens 0 to {size - 1}.")


def _sound(texts: Sequence[str]) -> None:
    """llama.cpp ends its process where a text is there twice."""
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            raise ConvertError(f"The tokenizer has the token {text[:40]!r} twice.")
        seen.add(text)
        if any(0xD800 <= ord(letter) < 0xE000 for letter in text):
            raise ConvertError(f"The tokenizer has the token {text[:40]!r}, which is no Unicode text.")


def _looks_special(text: str) -> bool:
    """Whether a token is one of control although its tokenizer does not say so (as llama.cpp's converter has it)."""
    return len(text) > 3 and ((text[:2], text[-2:]) in (("<|", "|>"), ("<\uff5c", "\uff5c>")) or text in ("<pad>", "<mask>"))


def _merges(model: Settings) -> list[tuple[str, str]]:
    found = model.values.get("merges")
    if not isinstance(found, list) or not found:
        raise ConvertError("The tokenizer has no merges; llama.cpp cannot read such a vocabulary.")
    made = []
    for entry in found:
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            raise ConvertError(f"The tokenizer has the merge {str(entry)[:60]!r}, which is none of two parts.")
        made.append((pair[0], pair[1]))
    return made


def _flat(value: Any, key: str) -> Iterator[dict[str, Any]]:
    """A step of the tokenizer, or those of a sequence."""
    if not isinstance(value, dict):
        return
    if value.get("type") == "Sequence":
        for step in value.get(key) or ():
            yield from _flat(step, key)
    else:
        yield value


def _composed(tokenizer: Settings) -> tuple[str, ...]:
    """Refuses what is done to a text beforehand, unless it is nearly nothing."""
    for step in _flat(tokenizer.values.get("normalizer"), "normalizers"):
        if step.get("type") != "NFC":
            raise Unsupported(f"The tokenizer changes texts beforehand ({str(step.get('type'))[:30]}), which llama.cpp does not do.")
        return ("The tokenizer composes accents (NFC), llama.cpp does not: a letter with a separate accent may become other tokens.",)
    return ()


def _named(tokenizer: Settings, model: Settings) -> str:
    """llama.cpp's name for how words are split."""
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.values.get(key):
            raise Unsupported(f"The tokenizer has {key}, which llama.cpp does not know.")
    rule = " ".join(_rule(step) for step in _flat(tokenizer.values.get("pre_tokenizer"), "pretokenizers"))
    rule = rule.removesuffix(" plain")
    name = _NAMES.get((rule, model.flag("ignore_merges", False)))
    if name is None:
        raise Unsupported(f"The tokenizer splits words by a rule for which no name of llama.cpp's is known here ({rule[:80]}...).")
    return name


def _rule(step: Mapping[str, Any]) -> str:
    """One step in a word: a regular expression, "bytes" with GPT-2's own, "plain" without any, "digits"."""
    kind = step.get("type")
    if kind == "Split" and isinstance(step.get("pattern"), dict):
        if (step.get("behavior"), bool(step.get("invert"))) in (("Isolated", False), ("Removed", True)):
            return str(step["pattern"].get("Regex", "?"))
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return "bytes" if step.get("use_regex", True) else "plain"
    if kind == "Digits" and step.get("individual_digits"):
        return "digits"
    return f"{kind}?"


def _sentencepiece(tokenizer: Settings, model: Settings, parts: _Parts, *, chat: bool) -> Tokens:
    """A SentencePiece vocabulary: merges become scores, since llama.cpp joins what makes the token of the highest score."""
    space, notes = _prefixed(tokenizer, chat=chat)
    scores = _scores(parts.texts, parts.kinds, parts.merges)
    unknown = parts.kinds.index(UNKNOWN) if UNKNOWN in parts.kinds else None
    return Tokens(
        "llama", "default", tuple(parts.texts), tuple(parts.kinds), scores=tuple(scores), unknown=unknown, space=space, first=parts.first,
        last=parts.last, notes=(*parts.notes, *notes),
    )  # fmt: skip


def _prefixed(tokenizer: Settings, *, chat: bool) -> tuple[bool, tuple[str, ...]]:
    """Whether a space is put before a text and after every token of control, as llama.cpp does it."""
    kinds = [step for step in _flat(tokenizer.values.get("normalizer"), "normalizers")]
    splits = [step for step in _flat(tokenizer.values.get("pre_tokenizer"), "pretokenizers")]
    spaces = [step for step in kinds if step.get("type") == "Replace" and step.get("pattern") == {"String": " "}]
    before = [step for step in kinds if step.get("type") == "Prepend"]
    if len(spaces) + len(before) == len(kinds) and len(spaces) == 1 and not splits:
        if spaces[0].get("content") == SPACE and all(step.get("prepend") == SPACE for step in before):
            return bool(before), ()
    if not kinds and len(splits) == 1 and splits[0].get("type") == "Metaspace" and splits[0].get("split") is False:
        scheme = splits[0].get("prepend_scheme", "always")
        if splits[0].get("replacement", SPACE) == SPACE and scheme in ("always", "never", "first"):
            return _scheme(str(scheme), chat=chat)
    raise Unsupported("The tokenizer treats spaces by a rule that llama.cpp does not know.")


def _scheme(scheme: str, *, chat: bool) -> tuple[bool, tuple[str, ...]]:
    if scheme == "never":
        return False, ()
    if scheme == "always":
        return True, ("llama.cpp puts a space before every text, the tokenizer only before those that begin with none.",)
    if chat:  # a conversation begins with a token of control: no space anywhere
        return False, ("The tokenizer puts a space before a text that begins with no token of control; llama.cpp will not.",)
    return True, (
        "The tokenizer puts a space only before the first word; llama.cpp also puts one before a space and behind tokens of control.",
    )


def _scores(texts: Sequence[str], kinds: Sequence[int], merges: Sequence[tuple[str, str]]) -> list[float]:
    """Of each token: the earlier it is merged, the higher. Raises `Unsupported` where llama.cpp would merge otherwise.

    SentencePiece (Kudo and Richardson 2018) joins the neighbours that make the token of the highest score, whatever they are. So every way
    to make a token must be a merge, and the merges of a token must follow each other.
    """
    ranks: dict[str, int] = {}
    last, pairs = "", set(merges)
    for rank, (left, right) in enumerate(merges):
        made = left + right
        if made in ranks and made != last:
            raise Unsupported(f"The tokenizer's merges are in no order of tokens ({made[:40]!r}), which llama.cpp's SentencePiece needs.")
        ranks.setdefault(made, rank)
        last = made
    known = set(texts)
    for text, kind in zip(texts, kinds, strict=True):
        for at in range(1, len(text) if kind == NORMAL else 0):  # the others are found in a text before anything is merged
            if text[:at] in known and text[at:] in known and (text[:at], text[at:]) not in pairs:
                raise Unsupported(f"The tokenizer would not merge {text[:at][:40]!r} and {text[at:][:40]!r}, and llama.cpp would.")
    return [float(-ranks[text]) if text in ranks else 0.0 if kind == NORMAL else _FILLER for text, kind in zip(texts, kinds, strict=True)]


def _around(tokenizer: Settings, config: Settings) -> tuple[str | None, str | None]:
    """The tokens that are put before and behind a text."""
    for step in _flat(tokenizer.values.get("post_processor"), "processors"):
        if step.get("type") == "TemplateProcessing":
            return _template(step)
        if step.get("type") != "ByteLevel":
            raise Unsupported(f"The tokenizer finishes texts by {str(step.get('type'))[:30]}, which llama.cpp does not know.")
    begins, ends = config.values.get("add_bos_token"), config.values.get("add_eos_token")
    first, last = (content(config.values.get(f"{key}_token")) for key in ("bos", "eos"))
    return first if begins is True else None, last if ends is True else None


def _template(step: Mapping[str, Any]) -> tuple[str | None, str | None]:
    single = step.get("single")
    words = [piece for piece in single if isinstance(piece, dict)] if isinstance(single, list) else []
    at = next((place for place, piece in enumerate(words) if "Sequence" in piece), -1)
    before, behind = words[: max(at, 0)], words[at + 1 :]
    if at < 0 or len(before) > 1 or len(behind) > 1:
        raise Unsupported("The tokenizer puts several tokens around a text, which llama.cpp does not do.")
    names = [str(piece.get("SpecialToken", {}).get("id", "")) or None for piece in (*before, *behind)]
    return (names[0] if before else None), (names[-1] if behind else None)


def content(token: Any) -> str | None:
    """The text of a token as configurations write it: itself, or an object around it."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
