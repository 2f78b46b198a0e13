"""What people want to know of a model: read from its header once, kept in an index, shown by `pointsman ls` and `show`.

The index is a convenience: it can be lost, spoilt or out of date, and is then made anew from the files. Blocks on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from backends.engines import gguf
from quant import hub
from quant.output import Output, OutputError
from quant.places import UNREADABLE

MAX_INDEX = 64 << 20  # bytes
MAX_KEPT = 4096  # files in the index
MAX_TEXT = 300  # characters of any text shown
_VERSION = 1
_LICENCES = {
    "apache-2.0": "Apache-2.0", "mit": "MIT", "openmdw": "OpenMDW", "openmdw-1.0": "OpenMDW-1.0", "openmdw-1.1": "OpenMDW-1.1",
    "llama2": "Llama 2 Community", "llama3": "Llama 3 Community", "llama3.1": "Llama 3.1 Community", "llama3.2": "Llama 3.2 Community",
    "llama3.3": "Llama 3.3 Community", "llama4": "Llama 4 Community", "gemma": "Gemma terms", "bsd-3-clause": "BSD-3-Clause",
    "gpl-3.0": "GPL-3.0", "agpl-3.0": "AGPL-3.0", "unlicense": "Unlicense", "cc0-1.0": "CC0-1.0",
}  # fmt: skip
_IN_TEXT = (
    (r"OpenMDW License Agreement,? version ([\d.]+)", r"OpenMDW-\1"), (r"\bOpenMDW\b", "OpenMDW"),
    (r"LLAMA ([\d.]+) (?:VERSION RELEASE|COMMUNITY LICEN[CS]E)", r"Llama \1 Community"),
    (r"Apache License\s+Version 2\.0", "Apache-2.0"), (r"\bMIT License\b|Permission is hereby granted, free of charge", "MIT"),
    (r"Gemma Terms of Use", "Gemma terms"), (r"GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3", "AGPL-3.0"),
    (r"GNU GENERAL PUBLIC LICENSE\s+Version 3", "GPL-3.0"), (r"Creative Commons Legal Code\s+CC0 1\.0", "CC0-1.0"),
)  # fmt: skip


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model's headers say; 0, "" and False where they say nothing. Texts are short and printable. `bytes`: of all its files,
    `kv_bytes`: of an f16 KV cache for one token, `fault`: why it cannot be used."""

    bytes: int = 0
    architecture: str = ""
    title: str = ""
    size_label: str = ""
    quant: str = ""
    parameters: int = 0
    tensors: int = 0
    context: int = 0
    embedding: int = 0
    blocks: int = 0
    heads: int = 0
    kv_heads: int = 0
    experts: int = 0
    experts_used: int = 0
    vocab: int = 0
    window: int = 0
    kv_bytes: int = 0
    chat_template: bool = False
    tools: bool = False
    pooling: str = ""
    licence: str = ""
    licence_link: str = ""
    author: str = ""
    origin: str = ""
    base: str = ""
    quantised_by: str = ""
    imatrix: bool = False
    fault: str = ""


def clean(text: object, limit: int = MAX_TEXT) -> str:
    """`text` on one line, without what could steer a terminal, not longer than `limit`. Pure."""
    plain = "".join(char if char.isprintable() else " " for char in str(text)[: 4 * limit])
    plain = " ".join(plain.split())
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def licence(identifier: str, name: str = "") -> str:
    """A licence as people write it, from the identifier and the name that a model card or header gives. Pure."""
    plain = clean(identifier, 80)
    if plain.lower() in ("", "other", "unknown"):
        return _LICENCES.get(clean(name, 80).lower(), clean(name, 80)) or plain.lower()
    known = _LICENCES.get(plain.lower())
    return known or (plain.upper() if plain.lower().startswith("cc-") else plain)


def licence_of_text(text: str) -> str:
    """Which licence a text is, by its title; "" when it is none that is known. Pure."""
    start = text[:20_000]
    for pattern, name in _IN_TEXT:
        if match := re.search(pattern, start, re.I):
            return match.expand(name)
    return ""


def read(files: Sequence[Path]) -> Facts:
    """The facts of a model of these files. Never raises: what is wrong with a file is the `fault`."""
    try:
        metas = [gguf.read(file) for file in files]
        gguf.check(metas[0])
        for meta in metas[1:]:
            if meta.needs > meta.bytes:
                raise gguf.GgufError(
                    f"{Path(meta.path).name} is not a usable GGUF model: it has {meta.bytes} of {meta.needs} bytes "
                    "(the file is truncated; fetch it again)."
                )
    except gguf.GgufError as error:
        return Facts(bytes=_bytes(files), fault=clean(error))
    return of(metas)


def _bytes(files: Sequence[Path]) -> int:
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


def of(metas: Sequence[gguf.Meta]) -> Facts:
    """The facts of a model whose files have these headers, the one with the metadata first. Pure."""
    first, arch = metas[0], metas[0].architecture
    values = first.values
    template = _text(values, "tokenizer.chat_template", 1 << 20)
    return Facts(
        bytes=sum(meta.bytes for meta in metas), architecture=clean(arch, 64), title=clean(first.name),
        size_label=clean(first.size_label, 40),
        quant=_quant(first), parameters=sum(meta.parameters for meta in metas), tensors=sum(meta.tensors for meta in metas),
        context=first.context, embedding=first.embedding, blocks=first.blocks, heads=_number(values, f"{arch}.attention.head_count"),
        kv_heads=_number(values, f"{arch}.attention.head_count_kv"), experts=_number(values, f"{arch}.expert_count"),
        experts_used=_number(values, f"{arch}.expert_used_count"), vocab=first.vocab,
        window=_number(values, f"{arch}.attention.sliding_window"), kv_bytes=first.kv_bytes, chat_template=first.chat_template,
        tools=re.search(r"\btools\b", template) is not None, pooling=first.pooling,
        licence=licence(_text(values, "general.license"), _text(values, "general.license.name")),
        licence_link=_text(values, "general.license.link"), author=_text(values, "general.author") or _text(values, "general.organization"),
        origin=_text(values, "general.source.url") or _text(values, "general.repo_url") or _text(values, "general.url"),
        base=_text(values, "general.base_model.0.repo_url") or _text(values, "general.base_model.0.name"),
        quantised_by=_text(values, "general.quantized_by"), imatrix="quantize.imatrix.file" in values,
        fault=_parts(first.splits, len(metas)),
    )  # fmt: skip


def _parts(stated: int, there: int) -> str:
    return "" if stated <= there else f"only {there} of its {stated} parts are there; fetch the others"


def _quant(meta: gguf.Meta) -> str:
    """By the name first: "UD-Q4_K_XL" has no number of its own in the header."""
    return hub.quant_of(Path(meta.path).name) or meta.file_type


def _text(values: Mapping[str, gguf.Value], key: str, limit: int = MAX_TEXT) -> str:
    value = values.get(key)
    return clean(value, limit) if isinstance(value, str) else ""


def _number(values: Mapping[str, gguf.Value], key: str) -> int:
    value = values.get(key, 0)
    value = max(value, default=0) if isinstance(value, list) else value
    return value if isinstance(value, int) else 0


# -- the index ----------------------------------------------------------------------------------------------------------------------------


class _Kept(msgspec.Struct, array_like=True):
    stamp: list[list[int]]  # of each file: inode, size, time of change in ns
    facts: Facts


class _File(msgspec.Struct):
    version: int
    models: dict[str, _Kept]


class Index:
    """Facts by file, read again where a file has changed. `path`: where it is kept between runs. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = _load(path)
        self._used: dict[str, _Kept] = {}
        self._changed = False

    def facts(self, files: Sequence[Path]) -> Facts:
        """The facts of the model of these files. Blocks; never raises."""
        key = str(files[0])
        try:
            stamp = [_stamp(file) for file in files]
        except OSError as error:
            return Facts(fault=clean(f"{files[0].name} cannot be read: {error.strerror}"))
        known = self._kept.get(key)
        if known is None or known.stamp != stamp:
            known = _Kept(stamp, read(files))
            self._changed = True
        self._used[key] = known
        return known.facts

    def save(self, *, whole: bool = False) -> None:
        """Keeps what was read, if anything was. `whole`: every model was asked for, so the others are gone. Blocks; does not raise: a
        folder that cannot be written costs time and no more."""
        kept = self._used if whole else {**self._kept, **self._used}
        if not self._changed and kept.keys() == self._kept.keys():
            return
        newest = dict(list(kept.items())[-MAX_KEPT:])
        with contextlib.suppress(OSError, OutputError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with Output(self._path, overwrite=True) as out:
                out.write(msgspec.json.encode(_File(_VERSION, newest)))
            self._kept, self._changed = newest, False


def _stamp(file: Path) -> list[int]:
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file")
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _load(path: Path) -> dict[str, _Kept]:
    try:
        if path.stat().st_size > MAX_INDEX:
            return {}
        found = msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, *UNREADABLE):
        return {}
    return found.models if found.version == _VERSION else {}
