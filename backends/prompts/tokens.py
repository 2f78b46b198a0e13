"""Text to token ids by a model's own tokenizer (Hugging Face `tokenizers`), so that the turns of a conversation cost only what is new.

A tokenizer first cuts a text at its added tokens (`<|im_end|>` and the like); what is between them is tokenised by itself. So a text's ids
are its pieces' ids in a row, and pieces are remembered. Whether that holds for a tokenizer is proved when it is loaded: joined and whole
ids of probes must be equal (`joins`); otherwise whole texts are tokenised, and remembered.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from backends.prompts.cache import Cache
from backends.prompts.types import Unreadable

CACHE_BYTES = 64 << 20  # of pieces and their ids
MAX_TEXT = 16 << 20  # characters that are tokenised at once; longer prompts fit no model
_ITEM = array("I").itemsize
_TEXTS = (
    "Hello", " Hello", "Hello ", "  two  spaces  ", "\n", "\n\n", " \n \n", "user\nWhat is 12+7?", "\nA line.\n", "123456 7,890.12",
    "naïve café", "de\u0301ja\u0300", "你好，世界。", "Привет, мир", "😀👍🏽", "\u00a0\u2003x\u200b", "def f(x):\n\treturn {'a': [1, 2]}\n",
    "<", ">", "|>", "don't I'm", "\ufb01 \u212b", "\r\n\t", "a" * 300, "\ufeff", "\u0301", "_", "\u2581", "\u0120",
)  # fmt: skip


class Tokens:
    """A tokenizer with a memory. Safe in threads: encoding runs outside the lock, and outside the interpreter's."""

    def __init__(self, tokenizer: Any, cache_bytes: int = CACHE_BYTES) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._known: Cache[tuple[bool, str], array[int]] = Cache(cache_bytes)  # whether something stands before it, and the piece
        self._ids, self._cut, self._lead = _cutter(tokenizer)
        self.joins = bool(self._ids) and all(self._joined(t) == self.whole(t) for t in _probes(list(self._ids)))
        self._known.clear()

    def ids(self, text: str) -> array[int]:
        """Token ids of a text without the specials that a tokenizer adds by itself. Blocks for about 0.2 us a new byte."""
        return self._joined(text) if self.joins else self._piece(text, first=True)

    def whole(self, text: str, specials: bool = False) -> array[int]:
        """The same without memory. `specials`: with what the tokenizer adds at the ends (a BOS, as a rule)."""
        if len(text) > MAX_TEXT:
            raise Unreadable(f"the prompt has more than {MAX_TEXT} characters.")
        encoding = _called(self._tokenizer.encode, "the prompt cannot be tokenised", text, add_special_tokens=specials)
        return array("I", encoding.ids)

    def fresh(self, text: str) -> int:
        """How many characters of the text would have to be tokenised. Changes nothing."""
        if not self.joins:
            return 0 if self._known.has((False, text)) else len(text)
        return sum(len(p) for at, p in self._pieces(text) if p not in self._ids and not self._known.has((at > 0, p)))

    def boundary(self, text: str, at: int) -> int:
        """Where the last piece begins that begins at `at` or before: up to there, ids do not depend on what follows."""
        return max((m.start() for m in self._cut.finditer(text, 0, at) if m.group() in self._ids), default=0) if self.joins else 0

    def _joined(self, text: str) -> array[int]:
        out, ids, known = array("I"), self._ids, self._known
        for at, piece in self._pieces(text):
            one = ids.get(piece)
            if one is not None:
                out.append(one)
                continue
            found = known.get((at > 0, piece))
            out.extend(self._piece(piece, first=at == 0) if found is None else found)
        return out

    def _piece(self, text: str, *, first: bool) -> array[int]:
        """Ids of what begins a prompt, or of a piece after a token: that one is put before it, and its id left out."""
        found = self._known.get((not first, text))
        if found is None:
            found = self.whole(text) if first else self.whole(self._lead + text)[1:]
            self._known.put((not first, text), found, 4 * len(text) + _ITEM * len(found) + 160)
        return found

    def _pieces(self, text: str) -> Iterator[tuple[int, str]]:
        """(where it begins, piece), added tokens and what is between them."""
        at, ids = 0, self._ids
        for match in self._cut.finditer(text):
            token = match.group()
            if token in ids:
                start, end = match.span()
                if start > at:
                    yield at, text[at:start]
                yield start, token
                at = end
        if at < len(text):
            yield at, text[at:]


def load(path: Path, cache_bytes: int = CACHE_BYTES) -> Tokens:
    """Reads a tokenizer.json. Blocks for 0.1 to 2 s. Raises ImportError without `tokenizers`, `Unreadable` for what is none."""
    tokenizers = import_module("tokenizers")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as e:
        raise Unreadable(f"{path.name} cannot be read ({type(e).__name__}).") from None
    tokenizer = _called(tokenizers.Tokenizer.from_str, f"{path.name} is no tokenizer that can be loaded", text)
    return Tokens(tokenizer, cache_bytes)


_COMPLAINTS = (Exception, ValueError, TypeError, OverflowError, UnicodeEncodeError)


def _called(function: Callable[..., Any], what: str, *args: Any, **named: Any) -> Any:
    """A call into the library, which raises plain `Exception` for whatever it does not like: that class itself is meant, no subclass."""
    try:
        return function(*args, **named)
    except Exception as e:
        if type(e) not in _COMPLAINTS:
            raise
        raise Unreadable(f"{what}: {str(e)[:200]}.") from None


def _cutter(tokenizer: Any) -> tuple[dict[str, int], re.Pattern[str], str]:
    """(the tokens to cut at, a pattern of all added tokens, one to put before a piece).

    Longest first, as the library matches. A token that takes white space at its sides along, or wants a word of its own, is matched so that
    nothing inside it is cut at, but is no place to cut.
    """
    added = {k: t for k, t in tokenizer.get_added_tokens_decoder().items() if not t.normalized and t.content}
    clean = {t.content: k for k, t in added.items() if not (t.lstrip or t.rstrip or t.single_word)}
    every = sorted((t.content for t in added.values()), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, every)) if every else r"(?!)")
    return clean, pattern, next(iter(clean), "")


def _probes(specials: Sequence[str]) -> list[str]:
    """Texts in which each thing that tokenizers treat specially stands before, between and after added tokens."""
    few = [*specials[:8], *specials[-8:]]
    out = list(_TEXTS)
    for i, text in enumerate(_TEXTS):
        a, b = few[i % len(few)], few[(i + 1) % len(few)]
        other = _TEXTS[(i * 7 + 3) % len(_TEXTS)]
        out += [a + text + b, text + a + other, a + text + b + other + a, a + b + text, f"{a} {text} {b}\n{other}"]
    return [*out, "".join(a + t for a, t in zip(few * 4, _TEXTS, strict=False))]
