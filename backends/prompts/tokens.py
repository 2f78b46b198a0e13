"""Text to token ids by a model's own tokenizer (Hugging Face `tokenizers`), so that the turns of a conversation cost only what is new.

A tokenizer first cuts a text at its added tokens (`<|im_end|>` and the like); what is between them is tokenised by itself. So a text's ids
are its pieces' ids in a row, and pieces are remembered. Whether that holds for a tokenizer is proved when it is loaded: joined and whole
ids of probes must be equal (`joins`); otherwise whole texts are tokenised, and remembered.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from backends.prompts import cutter
from backends.prompts.cache import Cache
from backends.prompts.types import Unreadable

CACHE_BYTES = 32 << 20  # of pieces and their ids, and as much of conversations
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
        self._talks: Cache[str, tuple[str, array[int]]] = Cache(cache_bytes)  # the last text of a conversation up to a cut, and its ids
        self._cutter = cutter.of(tokenizer)
        self._lead = next(iter(self._cutter.ids), "")
        self.joins = bool(self._lead) and all(self._joined(t) == self.whole(t) for t in _probes(list(self._cutter.ids)))
        self._known.clear()

    def ids(self, text: str, session: str = "") -> array[int]:
        """Token ids of a text without the specials that a tokenizer adds by itself. Blocks for about 0.2 us a new byte.

        `session`: the conversation whose prompt it is. What its last prompt began with is not looked at again.
        """
        if not self.joins:
            return self._piece(text, first=True)
        known = self._talks.get(session) if session else None
        if known is None or not text.startswith(known[0]):
            known = ("", array("I"))
        out = known[1][:]
        cut, count = self._join(text, len(known[0]), out)
        if session and cut > len(known[0]):
            self._talks.put(session, (text[:cut], out[:count]), 4 * cut + _ITEM * count + 256)
        return out

    def whole(self, text: str, specials: bool = False) -> array[int]:
        """The same without memory. `specials`: with what the tokenizer adds at the ends (a BOS, as a rule)."""
        if len(text) > MAX_TEXT:
            raise Unreadable(f"the prompt has more than {MAX_TEXT} characters.")
        encoding = _called(self._tokenizer.encode, "the prompt cannot be tokenised", text, add_special_tokens=specials)
        return array("I", encoding.ids)

    def fresh(self, text: str, session: str = "") -> int:
        """How many characters of the text would have to be tokenised. Changes nothing but what counts as used last."""
        if not self.joins:
            return 0 if self._known.has((False, text)) else len(text)
        known = self._talks.get(session) if session else None
        start = len(known[0]) if known is not None and text.startswith(known[0]) else 0
        return sum(len(p) for at, p in self._cutter.pieces(text, start) if p not in self._cutter.ids and not self._known.has((at > 0, p)))

    def boundary(self, text: str, end: int) -> int:
        """Where a piece begins in `text`, as late as possible before `end`: ids up to there do not depend on what follows."""
        return max((at for at, piece in self._cutter.pieces(text[:end]) if piece in self._cutter.ids), default=0) if self.joins else 0

    def _joined(self, text: str) -> array[int]:
        out = array("I")
        self._join(text, 0, out)
        return out

    def _join(self, text: str, start: int, out: array[int]) -> tuple[int, int]:
        """Adds the ids of `text` from the cut `start` on to `out`. Returns a cut to go on from, and how many ids lie before it."""
        ids, stable, known, last = self._cutter.ids, self._cutter.stable, self._known, (start, len(out))
        for at, piece in self._cutter.pieces(text, start):
            one = ids.get(piece)
            if one is not None:
                out.append(one)
                if piece in stable:
                    last = (at + len(piece), len(out))
                continue
            found = known.get((at > 0, piece))
            out.extend(self._piece(piece, first=at == 0) if found is None else found)
        return last

    def _piece(self, text: str, *, first: bool) -> array[int]:
        """Ids of what begins a prompt, or of a piece after a token: that one is put before it, and its id left out."""
        found = self._known.get((not first, text))
        if found is None:
            found = self.whole(text) if first else self.whole(self._lead + text)[1:]
            self._known.put((not first, text), found, 4 * len(text) + _ITEM * len(found) + 160)
        return found


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


def _probes(specials: Sequence[str]) -> list[str]:
    """Texts in which each thing that tokenizers treat specially stands before, between and after added tokens."""
    few = [*specials[:8], *specials[-8:]]
    out = list(_TEXTS)
    for i, text in enumerate(_TEXTS):
        a, b = few[i % len(few)], few[(i + 1) % len(few)]
        other = _TEXTS[(i * 7 + 3) % len(_TEXTS)]
        out += [a + text + b, text + a + other, a + text + b + other + a, a + b + text, f"{a} {text} {b}\n{other}"]
    return [*out, "".join(a + t for a, t in zip(few * 4, _TEXTS, strict=False))]
