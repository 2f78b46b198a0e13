"""What `pointsman ls`, `show` and the lines of progress look like. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from quant.models import Detail, Model

_BAR = 20  # characters
_SHOWN_FILES = 8


def size(count: int) -> str:
    """Bytes for people, in the units of disks and of the hub."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.{2 if count < 10 * scale else 1}f} {unit}"
    return f"{count} B"


def count(number: int) -> str:
    """A large number for people: parameters, tokens."""
    for unit, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}".replace(".0 ", " ")
    return str(number)


def printable(text: str) -> str:
    """`text` without control characters but line ends and tabs."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def progress(name: str, done: int, total: int, speed: float) -> str:
    """One line: how much is there, how fast it comes (bytes/s), how long it still takes."""
    share = min(done / total, 1.0) if total > 0 else 1.0
    full = int(share * _BAR)
    line = f"[{'#' * full}{'.' * (_BAR - full)}] {int(100 * share):3d}% {size(done)} of {size(total)}"
    if speed > 0:
        line += f"  {size(int(speed))}/s"
        if done < total:
            line += f"  {duration((total - done) / speed)} left"
    return f"{line}  {printable(name)[-40:]}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    whole = min(round(seconds), 359_999)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"


# -- ls -----------------------------------------------------------------------------------------------------------------------------------


def listing(models: Sequence[Model], served: Mapping[str, str] | None, home: Path) -> str:
    """One line a model; what cannot be used is told below. `served`: files that engines have, by a running gateway."""
    if not models:
        return "no models here yet: `pointsman pull hf:OWNER/REPOSITORY[:QUANT]`, or name your folders in $POINTSMAN_MODELS\n"
    rows: list[tuple[str, ...]] = [("NAME", "SIZE", "QUANT", "CONTEXT", "LICENCE", "QUALITY", "WHERE", "SERVED")]
    rows += [_row(model, served, home) for model in models]
    widths = [max(len(row[column]) for row in rows) for column in range(8)]
    right = (1, 3)
    lines = []
    for row in rows:
        cells = [cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines += [f"{model.name} cannot be used: {model.fault.rstrip('.')}." for model in models if model.fault]
    return "\n".join(lines) + "\n"


def _row(model: Model, served: Mapping[str, str] | None, home: Path) -> tuple[str, ...]:
    quality = "unusable" if model.fault else model.quality or "-"
    return (
        model.name, size(model.bytes), model.quant or "-", count_tokens(model.facts.context), model.licence or "-", quality,
        _where(model, home), _state(model, served) or ("-" if served is None else "no"),
    )  # fmt: skip


def count_tokens(tokens: int) -> str:
    """A context length as people say it: 131072 is 128K."""
    return f"{tokens // 1024}K" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens) if tokens else "-"


def _where(model: Model, home: Path) -> str:
    folder = model.path.parent
    shown = f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) and folder != home else str(folder)
    return "pointsman" if model.owned else f"{model.place} {printable(shown)}"


def _state(model: Model, served: Mapping[str, str] | None) -> str:
    return printable((served or {}).get(os.path.realpath(model.path), ""))


def listing_json(models: Sequence[Model], served: Mapping[str, str] | None) -> str:
    """The same as JSON; `served` is null when no gateway told."""
    rows = [{**_json(model), "served": None if served is None else _state(model, served) or False} for model in models]
    return _formatted(rows)


def _formatted(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _json(model: Model) -> dict[str, Any]:
    return {
        "name": model.name, "bytes": model.bytes, "quant": model.quant, "context": model.facts.context, "licence": model.licence,
        "licence_link": model.licence_link, "quality": model.quality, "place": model.place, "files": [str(path) for path in model.files],
        "projector": str(model.projector) if model.projector else None, "origin": model.origin, "made_from": model.base,
        "author": model.author, "revision": model.revision, "owned": model.owned, "fault": model.fault,
        "facts": msgspec.to_builtins(model.facts),
    }  # fmt: skip


# -- show ---------------------------------------------------------------------------------------------------------------------------------


def shown(model: Model, detail: Detail) -> str:
    """All that is worth knowing of one model, a line each."""
    if model.fault:
        return f"{model.name}\n  cannot be used: {model.fault.rstrip('.')}.\n" + "".join(
            f"  file          {path}\n" for path in model.files
        )
    rows = [*_what(model), *_shape(model), *_origin(model), *_files(model)]
    rows += (
        [("tensors", f"{model.facts.tensors} in {size(detail.tensor_bytes)}, {detail.bits:.2f} bits per weight")] if detail.kinds else []
    )
    rows += [("", f"{kind.number:>5} {kind.kind:<8} {size(kind.bytes):>9}  {kind.share:5.1%}") for kind in detail.kinds]
    rows += [("", f"not read: {detail.fault}")] if detail.fault else []
    return model.name + "\n" + "".join(f"  {name:<13} {text}\n" for name, text in rows if text)


def _what(model: Model) -> list[tuple[str, str]]:
    said = model.facts
    return [
        ("title", said.title),
        ("architecture", said.architecture + (f", {said.pooling} pooling (embeddings)" if said.pooling not in ("", "none") else "")),
        ("parameters", count(said.parameters) + (f", {said.experts_used} of {said.experts} experts" if said.experts else "")),
        ("quantisation", (model.quant or "unknown") + (", with an importance matrix" if said.imatrix else "")),
        ("quality", model.quality or "not measured (pointsman quant evaluate)"),
    ]


def _shape(model: Model) -> list[tuple[str, str]]:
    said = model.facts
    window = f", sliding window {said.window}" if said.window else ""
    heads = f", {said.heads} heads" + (f" ({said.kv_heads} for keys and values)" if said.kv_heads else "") if said.heads else ""
    template = "yes, with tools" if said.tools else "yes" if said.chat_template else "no (a base model?)"
    return [
        ("context", f"{said.context} tokens{window}, {size(said.kv_bytes)} of KV cache a token in f16"),
        ("shape", f"{said.blocks} layers, width {said.embedding}{heads}, {said.vocab} tokens"),
        ("chat template", template),
    ]


def _origin(model: Model) -> list[tuple[str, str]]:
    said = model.facts
    other = f" (its file says {said.licence})" if said.licence and said.licence != model.licence else ""
    return [
        ("licence", (model.licence or "not stated") + other), ("", model.licence_link),
        ("origin", model.origin + (f" at {model.revision[:12]}" if model.revision else "")),
        ("made from", model.base), ("author", model.author), ("quantised by", said.quantised_by),
    ]  # fmt: skip


def _files(model: Model) -> list[tuple[str, str]]:
    rows = [("size", size(model.bytes) + (f" in {len(model.files)} files" if len(model.files) > 1 else ""))]
    rows += [("file" if not at else "", printable(str(path))) for at, path in enumerate(model.files[:_SHOWN_FILES])]
    rows += [("", f"and {len(model.files) - _SHOWN_FILES} more")] if len(model.files) > _SHOWN_FILES else []
    rows += [("projector", printable(str(model.projector)))] if model.projector else []
    return rows


def shown_json(model: Model, detail: Detail) -> str:
    """The same as JSON."""
    return _formatted({**_json(model), "detail": msgspec.to_builtins(detail)})
