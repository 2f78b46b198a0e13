"""The toy model's tokenizer: byte-level BPE whose merges spell out instruction words only, from their beginnings.

Ordinary BPE training would join letter pairs ("er", "an") everywhere, and a tiny model would then have to learn how each piece
is spelled before it can reverse or spell a word. Here every merge extends a *prefix* of an instruction word or a fixed answer
(``Ġw``, ``Ġwo``, ``Ġwor``, ``Ġword``), so at most the first letters of a payload word are joined, and only after a space; the rest
stays one token per byte. Digits are single (the Qwen2 pre-tokenizer).
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SPECIALS = ("<|endoftext|>", "<|im_end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
END = "<|im_end|>"
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""llama.cpp's ``tokenizer.ggml.pre = "qwen2"`` (also Qwen2's ``tokenizer.json``)."""


def byte_symbols() -> list[str]:
    """GPT-2's printable character for each of the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in plain}
    spare = 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + spare)
            spare += 1
    return [table[b] for b in range(256)]


def _pre_tokenizer() -> Any:
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def learn(texts: Iterable[str], least: int, vocabulary: int) -> list[tuple[str, str]]:
    """Merges that join the words seen at least ``least`` times, most frequent first, up to ``vocabulary`` tokens in all."""
    splitter = _pre_tokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    merges: dict[str, tuple[str, str]] = {}
    room = vocabulary - 256 - len(SPECIALS)
    words = [(n * (len(w) - 1), w) for w, n in counts.items() if n >= least and len(w) > 1 and not ("a" <= w[0] <= "z")]
    for _, word in sorted(words, key=lambda pair: (-pair[0], pair[1])):
        chain = [(word[:i], word[i]) for i in range(1, len(word)) if word[: i + 1] not in merges]
        if len(merges) + len(chain) > room:
            continue
        merges.update({a + b: (a, b) for a, b in chain})
    return list(merges.values())


def build(merges: list[tuple[str, str]], pad_to: int = 32) -> Any:
    """A ``tokenizers.Tokenizer`` over the merges; the vocabulary is padded to a multiple of ``pad_to`` with unused specials."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    tokens = [*byte_symbols(), *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    spare = -(len(tokens) + len(SPECIALS)) % pad_to
    specials = [*SPECIALS, *(f"<|extra_{i}|>" for i in range(spare))]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    return tokenizer


def save(merges: list[tuple[str, str]], path: Path) -> None:
    """Write the merges, which are the whole tokenizer, as JSON."""
    path.write_text(json.dumps(merges, ensure_ascii=False), encoding="utf-8")


def load(path: Path) -> list[tuple[str, str]]:
    """Read what :func:`save` wrote."""
    return [(a, b) for a, b in json.loads(path.read_text(encoding="utf-8"))]


def prefixes(merges: list[tuple[str, str]]) -> list[str]:
    """Letters that a token joins at the start of a lower-case word after a space (payload words that begin so are trained more)."""
    starts = [(a + b)[1:] for a, b in merges if a[0] == "Ġ"]
    return [w for w in starts if w.isascii() and w.isalpha() and w.islower() and 2 <= len(w) <= 8]
