"""What became of a request's parameters, in one line for a header and a record: `max_tokens=mapped,messages[2].name=dropped`. Pure."""

from __future__ import annotations

import string
from collections.abc import Iterable

from backends.dialects.types import Note

HEADER = b"x-pointsman-parameters"
NAME, LINE = 64, 512  # characters of one parameter, and of the whole
_MORE = ",..."
_PLAIN = frozenset(string.ascii_letters + string.digits + "_-.[]")


def parameters(notes: Iterable[Note]) -> bytes:
    """The notes as `name=fate,...`, each pair once, in order; empty when there are none.

    Names come from clients: what is no letter, digit or one of `_-.[]` becomes `?`, so the line can stand in a header. At most `LINE`
    characters: what has no room is `...`.
    """
    out = ""
    for pair in dict.fromkeys(f"{_plain(note.param)}={note.fate}" for note in notes):
        line = f"{out},{pair}" if out else pair
        if len(line) > LINE - len(_MORE):
            return (out + _MORE).encode()
        out = line
    return out.encode()


def _plain(name: str) -> str:
    return "".join(letter if letter in _PLAIN else "?" for letter in name[:NAME])
