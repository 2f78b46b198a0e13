"""Small tokenizers of each kind made on the spot: byte-level BPE and SentencePiece, as `tokenizer.json` has them.

Merges are learned from a few lines of text by plain counting, the same everywhere. The rules that split words are those that the families
publish.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from functools import cache
from itertools import pairwise
from typing import Any

TEXT = (
    "The quick brown fox jumps over the lazy dog; the dog doesn't mind, and the fox's friends they're there. We'll see what I'd have done. "
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Été à la plage, naïve façade, cœur brisé. Ελληνικά και Български. "
    "我想在苹果工作。你好，世界！日本語のテキスト、カタカナも。 한국어 문장입니다. 😀😃🚀 👩‍👩‍👧 3.14 "
    "1234567 2024-01-02 000 \n\n\n \t\t  if x:\n        return 1\n"
) * 2
TEXTS = (
    "Hello world",
    "  leading and trailing  ",
    "The dog doesn't mind, WE'LL SEE 'Re 'S",
    "Été à la plage, naïve façade, cœur",
    "é à ö",
    "我想在苹果工作1314151天～ 你好，世界！",
    "日本語のテキスト、カタカナも。",
    "한국어 문장입니다.",
    "\U0001f600\U0001f603\U0001f680 \U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \u2705",
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n",
    "3 33 333 3333 33333 333333 3.3 3..3 1234567890",
    "if x:\n\treturn  1\r\n\r\n    # done",
    "кан Български ្ព កាន់តែ",
    "x=1;y==2!=3 <= >= -> ...!!??",
    "a\xa0b\u2003c\u3000d\u200be",
    "ÀÉÎ ŠKODA straße ΣΊΣΥΦΟΣ ǅ",
    "ﬁ ½ ² Ⅷ ٣ ४ 五",
    "",
    " ",
    "\n",
    "'",
    "𝕏 𠀀 ͸",
)
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RULES = {"llama3": _LETTERS + "{1,3}" + _REST, "olmo2": _LETTERS + "{1,3}" + _REST, "qwen2": _LETTERS + _REST}
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = {  # (text, special) by kind; the first begins and the second ends a text
    "llama3": [("<|begin_of_text|>", True), ("<|end_of_text|>", True), ("<|eot_id|>", True), ("<tool>", False)],
    "olmo2": [("<|endoftext|>", True), ("<|im_end|>", True), ("|||EMAIL|||", False)],
    "qwen2": [("<|endoftext|>", True), ("<|im_end|>", True), ("<|im_start|>", True), ("<think>", False), ("</think>", False)],
    "smollm": [("<|endoftext|>", True), ("<|im_end|>", True)],
    "gpt2": [("<|endoftext|>", True), ("<|im_end|>", True)],
    "tekken": [("<s>", True), ("</s>", True), ("[INST]", True), ("[/INST]", True)],
}


def alphabet() -> list[str]:
    """The character that stands for each byte in byte-level BPE (GPT-2's encoder)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def learned(words: list[list[str]], count: int) -> list[tuple[str, str]]:
    """The `count` most frequent merges, one after the other (Sennrich et al. 2016)."""
    made: list[tuple[str, str]] = []
    while len(made) < count:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        made.append(best)
        words = [_merged(word, best) for word in words]
    return made


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    made: list[str] = []
    for part in word:
        if made and (made[-1], part) == pair:
            made[-1] += part
        else:
            made.append(part)
    return made


def byte_level(kind: str, merges: int = 120, *, wide: bool = False) -> dict[str, Any]:
    """A `tokenizer.json` of byte-level BPE. `wide`: it also has merges across the bounds of words, which apply as soon as a text is split
    otherwise than it should be."""
    letters = alphabet()
    words = [[letters[byte] for byte in word.encode()] for word in re.findall(r" ?\w+|\s+|[^\w\s]+", TEXT)]
    found = learned(words, merges)
    for text in TEXTS if wide else ():
        raw = [letters[byte] for byte in text.encode()]
        found += [(one, two) for one, two in pairwise(raw)]
        found += [(one + two, three) for one, two, three in zip(raw, raw[1:], raw[2:], strict=False)]
    found = list(dict.fromkeys(found))
    found = list({left + right: (left, right) for left, right in reversed(found)}.values())[::-1]
    vocabulary = [*letters, *(left + right for left, right in found)]
    whole = kind in ("llama3", "tekken")
    vocabulary += ["Ġwhole", "Ġzebra"] if whole else []  # that no merge makes
    specials = SPECIALS[kind]
    added = [_added(text, len(vocabulary) + at, special) for at, (text, special) in enumerate(specials)]
    begins = kind in ("llama3", "tekken")
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "NFC"} if kind == "qwen2" else None, "pre_tokenizer": _splitting(kind),
        "post_processor": _around(specials[0][0], added[0]["id"]) if begins else _BYTES | {"add_prefix_space": False},
        "decoder": _BYTES,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None if whole else "",
            "end_of_word_suffix": None if whole else "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": whole,
            "vocab": {token: number for number, token in enumerate(vocabulary)},
            "merges": [list(pair) for pair in found] if kind != "qwen2" else [" ".join(pair) for pair in found],
        },
    }  # fmt: skip


_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def _splitting(kind: str) -> dict[str, Any]:
    if kind == "gpt2":
        return _BYTES | {"use_regex": True}
    if kind == "smollm":
        return {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTES | {"use_regex": True}]}
    rule = TEKKEN if kind == "tekken" else RULES[kind]
    split = {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}
    if kind == "olmo2":
        split |= {"behavior": "Removed", "invert": True}
    return {"type": "Sequence", "pretokenizers": [split, _BYTES]}


def _added(text: str, number: int, special: bool) -> dict[str, Any]:
    return {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}


def _around(first: str, number: int) -> dict[str, Any]:
    template = [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing", "single": template, "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {first: {"id": first, "ids": [number], "tokens": [first]}},
    }  # fmt: skip


def sentencepiece(scheme: str = "first", merges: int = 150) -> dict[str, Any]:
    """A `tokenizer.json` as made of a SentencePiece vocabulary. `scheme`: "first" and "never" of `Metaspace`, or "legacy"."""
    words = [list("\u2581" + word) for word in TEXT.split()]
    made = [left + right for left, right in learned(words, merges)]
    letters = sorted({letter for word in words for letter in word})
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *made, "\u2581\u2581", *letters]
    vocabulary += ["[INST]", "[/INST]"]
    places = {token: number for number, token in enumerate(vocabulary)}
    pairs = [pair for token in (*made, "\u2581\u2581") for pair in _ways(token, places)]
    tokenizer: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_added(text, places[text], True) for text in ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")],
        "normalizer": None, "pre_tokenizer": None, "post_processor": _around("<s>", 1), "decoder": _JOINED,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": places, "merges": [list(pair) for pair in pairs],
        },
    }  # fmt: skip
    if scheme == "legacy":
        return tokenizer | {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, _SPACES]}}
    return tokenizer | {"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}}


def _ways(token: str, places: dict[str, int]) -> list[tuple[str, str]]:
    """All ways to make a token of two others, as transformers orders them."""
    found = [(token[:at], token[at:]) for at in range(1, len(token)) if token[:at] in places and token[at:] in places]
    return sorted(found, key=lambda pair: (places[pair[0]], places[pair[1]]))


_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
_JOINED = {
    "type": "Sequence",
    "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}],
}


def made(kind: str, *, wide: bool = False) -> dict[str, Any]:
    """A tokenizer by name: those of `SPECIALS`, "first", "never" or "legacy"."""
    return copy.deepcopy(_made(kind, wide))


@cache
def _made(kind: str, wide: bool) -> dict[str, Any]:
    return byte_level(kind, wide=wide) if kind in SPECIALS else sentencepiece(kind)


def size(tokenizer: dict[str, Any]) -> int:
    """The highest number of a token, and one."""
    numbers: list[int] = [*tokenizer["model"]["vocab"].values(), *(entry["id"] for entry in tokenizer["added_tokens"])]
    return 1 + max(numbers)
