"""The shapes in which residency is told to operators."""

from __future__ import annotations

import msgspec


class ResidentView(msgspec.Struct):
    """One engine of ours. Bytes and seconds; `bytes`: what is set aside for it, `held`: what it held when last looked at, `idle`: since
    its last call, `unload_in`: None where it does not go by time. `always`: it has no `resident` and is never unloaded."""

    name: str
    models: list[str]
    state: str
    bytes: int
    held: int
    idle: float | None
    unload_in: float | None
    load_seconds: float | None
    pinned: bool
    always: bool
    busy: int
    waiting: int
    loads: int
    reason: str = ""


class ResidencyView(msgspec.Struct):
    """All of them. `budget`: bytes, None: no limit. `set_aside`: of it, by what is in memory, comes or goes."""

    budget: int | None = None
    set_aside: int = 0
    engines: list[ResidentView] = []
