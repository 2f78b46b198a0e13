"""Where a text falls apart for a tokenizer: a pattern that finds its added tokens, the longest at the first place where one begins. Pure.

Vocabularies have up to some thousand added tokens (`<unused5999>`), so the pattern is a trie, and not one alternative a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

Trie = dict[str, Any]  # character -> the rest; "" -> here a token ends
_END = ""


class Cutter:
    """`ids`: tokens that a text may be cut at. `every`: a pattern of those and all others; inside a longer one is no place to cut.

    `stable`: those of `ids` after which a cut stays where it is, whatever text follows: no other token contains them.
    """

    def __init__(self, ids: dict[str, int], others: Iterable[str] = ()) -> None:
        tokens = {*ids, *others}
        trie: Trie = {}
        for token in sorted(tokens):
            node = trie
            for char in token:
                node = node.setdefault(char, {})
            node[_END] = {}
        self.ids = ids
        self.every = re.compile(_pattern(trie)) if tokens else re.compile("(?!)")
        inside = {part for token in tokens for part in _inside(token, trie)}
        self.stable = frozenset(token for token in ids if token not in inside)

    def pieces(self, text: str, start: int = 0) -> Iterator[tuple[int, str]]:
        """(where it begins, piece) from `start` on: tokens to cut at, and what is between them."""
        at, ids = start, self.ids
        for match in self.every.finditer(text, start):
            token = match.group()
            if token in ids:
                begin, end = match.span()
                if begin > at:
                    yield at, text[at:begin]
                yield begin, token
                at = end
        if at < len(text):
            yield at, text[at:]


def of(tokenizer: Any) -> Cutter:
    """The cutter of a tokenizer of the `tokenizers` library.

    Tokens that are looked for in normalised text come after the first cut, and are no matter here. One that takes white space at its sides
    along, or wants a word of its own, is found so that nothing inside it is cut at, but is no place to cut.
    """
    added = {k: t for k, t in tokenizer.get_added_tokens_decoder().items() if not t.normalized and t.content}
    clean = {t.content: int(k) for k, t in added.items() if not (t.lstrip or t.rstrip or t.single_word)}
    return Cutter(clean, (t.content for t in added.values()))


def _pattern(trie: Trie) -> str:
    """A regular expression of a trie; an optional rest is taken greedily, so that the longest token wins."""
    char, rest = next(iter(trie.items()))
    if len(trie) == 1 and char != _END:
        return re.escape(char) + _pattern(rest)
    ways = [re.escape(char) + _pattern(rest) for char, rest in trie.items() if char != _END]
    if not ways:
        return ""
    return f"(?:{'|'.join(ways)}){'?' if _END in trie else ''}"


def _inside(token: str, trie: Trie) -> Iterator[str]:
    """Tokens that `token` contains, but for itself."""
    for at in range(len(token)):
        node = trie
        for end, char in enumerate(token[at:], at + 1):
            found = node.get(char)
            if found is None:
                break
            node = found
            if _END in node and (at > 0 or end < len(token)):
                yield token[at:end]
