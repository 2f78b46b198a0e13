"""The table of `pointsman models`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.client import plain


def table(models: Iterable[Mapping[str, Any]]) -> str:
    """One line a model: its name, state, context length and why it is not ready. `models` as /v1/models lists them."""
    rows = [("MODEL", "STATE", "CONTEXT", "")]
    rows += [_row(model) for model in models]
    if len(rows) == 1:
        return "no models are served\n"
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]), row[3]]).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def _row(model: Mapping[str, Any]) -> tuple[str, str, str, str]:
    context = model.get("context") or model.get("max_model_len") or model.get("context_length")
    return (
        plain(str(model.get("id", "?"))),
        plain(str(model.get("state") or "?")),
        str(context) if isinstance(context, int) else "-",
        plain(" ".join(str(model.get("reason") or "").split())),
    )
