"""What a fleet says of its engines and models, and what stands where nothing can be asked."""

from __future__ import annotations

import msgspec

from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts
from gateway.config import BackendConfig
from gateway.config_kv import KvEvents
from routing.types import Health


class NoLink:
    """Stands where nothing can be asked: an engine without an address yet, a backend that cannot be set up."""

    def __init__(self, reason: str = "The engine is not running.") -> None:
        self.reason = reason

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight:
        raise Fault("unavailable", self.reason, origin="backend", code="no_replica")

    def close(self) -> None:
        return None


class Found(msgspec.Struct, frozen=True):
    """One model that a server lists."""

    id: str
    max_model_len: int | None = None


class EngineState(msgspec.Struct, frozen=True):
    """What a worker must know of one engine instance that its parent runs."""

    replica: str
    backend: str
    health: Health
    reason: str
    base_url: str = ""
    api_key: str = ""
    vocab: int | None = None
    context: int | None = None
    together: bool = True  # several texts embedded at once have the vectors that each has by itself
    kv: KvEvents | None = None  # where it says what becomes of its KV cache
    asleep: bool = False  # it is not in memory and comes when it is needed

    def __repr__(self) -> str:
        return f"EngineState({self.replica} {self.health} {self.base_url or '-'})"


def _same(new: BackendConfig | None, old: BackendConfig) -> bool:
    """Whether a backend may go on as it is: when it stays in memory is no part of what it is."""
    return (
        new is not None and msgspec.structs.replace(new, resident=old.resident) == old and (new.resident is None) == (old.resident is None)
    )


def same(new: BackendConfig | None, old: BackendConfig) -> bool:
    """Whether a backend may go on as it is: when its engine is in memory is no part of what it is."""
    if new is None or (new.resident is None) != (old.resident is None):
        return False
    return msgspec.structs.replace(new, resident=old.resident) == old
