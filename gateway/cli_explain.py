"""`pointsman explain`: the file that is asked about, and the explanation as text. Reads a file or standard input; sends nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.client import plain

MAX_BYTES = 32 << 20
_SHOWN = 4000  # characters of the translated body


class ExplainError(ValueError):
    """What was given cannot be asked about; the text is for the user."""


def request(name: str, path: str | None) -> bytes:
    """The body of a call of `/v1/explain` for the request in the file `name`, or on standard input for `-`. Blocks. Raises ExplainError."""
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1) if name == "-" else _read(Path(name))
    except OSError as error:
        raise ExplainError(f"cannot read {plain(name)}: {error.strerror or 'unknown reason'}") from None
    if len(data) > MAX_BYTES:
        raise ExplainError(f"{plain(name)} has more than {MAX_BYTES} bytes")
    try:
        doc = json.loads(data)
    except ValueError as error:  # UnicodeDecodeError is one
        raise ExplainError(f"{plain(name)} is not JSON: {error}") from None
    if not isinstance(doc, dict):
        raise ExplainError(f"{plain(name)} holds no JSON object")
    return data if path is None else json.dumps({"path": path, "body": doc}).encode()


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def text(told: Mapping[str, Any]) -> str:
    """The explanation for people: where it would go, what became of parameters, what would be sent."""
    lines = [f"{told['api']} call of model '{told['model']}', route '{told['route']}', policy {told.get('policy', 'weighted')}"]
    for one in told.get("experiments", ()):
        lines.append(f"experiment {one['experiment']}: {'arm ' + one['arm'] if one['arm'] else 'no part'} ({one['why']})")
    decision = told.get("decision") or {}
    if decision:
        lines.append(f"goes to {decision['replica']}, model {decision['model']}: {decision['reason']}")
        if decision.get("runner_up"):
            lines.append(f"next would be {decision['runner_up']}")
    lines += [_candidate(one) for one in told.get("candidates", ())]
    lines += [f"  {note['param']}: {note['fate']}{', ' + note['why'] if note['why'] else ''}" for note in told.get("parameters", ())]
    lines += _estimate(told.get("estimate") or {})
    lines += [f"earlier prompts: {one['note']}" for one in told.get("volatile", ())]
    if error := told.get("error"):
        lines.append(f"it would fail: {error['message']} ({error['code']})")
    for sent in told.get("requests", ()):
        lines += [f"{sent['method']} {sent['path']}", f"  headers: {', '.join(sent['headers'])}"]
        lines.append(json.dumps(sent["body"], indent=2, ensure_ascii=False)[:_SHOWN])
    return "".join(plain(line) + "\n" for line in lines)


def _candidate(one: Mapping[str, Any]) -> str:
    """One line of who it is, how it is, and what it would cost in seconds by term."""
    state = one["health"] if one["available"] else f"{one['health']}, not available"
    why = f" ({one['reason']})" if one["reason"] else ""
    line = f"  {one['replica']}  {one['model']}  {one['share']:.0%} of calls, {one['inflight']} under way, {state}{why}"
    if one.get("out"):
        return f"{line}; may not be used: {one['out']}"
    if one.get("seconds") is None:
        return line
    terms = ", ".join(f"{name} {value:.3g}{' $' if name == 'dollars' else ' s'}" for name, value in one["terms"].items())
    return f"{line}; {one['seconds']:.3g} s: {terms}"


def _estimate(estimate: Mapping[str, Any]) -> list[str]:
    if not estimate:
        return []
    cost = estimate.get("input_cost")
    most = estimate.get("most_cost")
    dollars = f", ${cost:.6f} to read" if cost is not None else ""
    return [f"about {estimate['input_tokens']} tokens read{dollars}{f', at most ${most:.6f} in all' if most is not None else ''}"]
