"""Files of saved KV, whoever keeps them: what they are of, what they hold, and how they appear whole or not at all.

llama.cpp's file (llama_state_seq_save_file, read on xllamacpp 2026.10): magic `qsgg` as bytes, version, count, so many 32-bit words, which
hold the tokens, then the KV. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import struct
from pathlib import Path

MAGIC = b"qsgg"
HEAD = struct.Struct("<4sII")
MAX_WORDS = 1 << 24
SAMPLES, SAMPLE = 64, 64 * 1024  # of a model file, for its fingerprint
_PATHS = re.compile(r'[="]([^"=]*/[^"]*)"?')  # in an engine's arguments: an adapter, say


def fingerprint(model: str, settings: tuple[str, ...]) -> bytes:
    """What KV is of: the model's file (length, time of its last change, samples, of which the first is its header) and whatever else shapes
    KV, files that the settings name included. Blocks for a few MB of reading. Raises OSError."""
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    for named in (path for setting in settings for path in _PATHS.findall(setting)):
        with contextlib.suppress(OSError):
            about = os.stat(named)
            digest.update(b"%d %d " % (about.st_size, about.st_mtime_ns))
    with open(model, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(b"%d %d" % (size, os.fstat(file.fileno()).st_mtime_ns))
        for i in range(SAMPLES):
            file.seek(i * max(0, size - SAMPLE) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.digest()


def address(file: Path, of: bytes) -> str | None:
    """The name that a file's tokens give it; None for one that is no saved slot. Blocks. Raises OSError."""
    with file.open("rb") as data:
        head = data.read(HEAD.size)
        if len(head) < HEAD.size:
            return None
        magic, version, count = HEAD.unpack(head)
        if magic != MAGIC or not 0 < count <= MAX_WORDS:
            return None
        words = data.read(4 * count)
    if len(words) < 4 * count:
        return None
    return hashlib.blake2b(b"%b%d%b" % (of, version, words), digest_size=16).hexdigest() + ".kv"


def free(place: Path) -> int:
    """Bytes that this user may still write there; 0 when unknown."""
    try:
        about = os.statvfs(place)
    except OSError:
        return 0
    return about.f_bavail * about.f_frsize


def copy(source: Path, target: Path) -> bool:
    """Copies a file so that it appears whole or not at all. False when that failed."""
    part = target.with_suffix(".copy")
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    except OSError:
        unlink(part)
        return False
    return True


def unlink(file: Path) -> None:
    """Removes a file if it is there."""
    with contextlib.suppress(OSError):
        file.unlink()
