"""What owned slots and their stores do, as metrics: by backend, read rather than counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from backends.slots.shared import Figures
from gateway.metrics import Metrics

_ROWS: tuple[tuple[str, str, str, Literal["gauge", "counter"]], ...] = (
    ("pointsman_kv_primes_total", "Prefixes computed once for several requests.", "primes", "counter"),
    ("pointsman_kv_saves_total", "Slots saved.", "saves", "counter"),
    ("pointsman_kv_restores_total", "Slots restored.", "restores", "counter"),
    ("pointsman_kv_saved_tokens_total", "Prompt tokens that restored KV spared.", "tokens_saved", "counter"),
    (
        "pointsman_kv_failed_total",
        "What did not work of that; requests went on without.",
        "failed",
        "counter",
    ),
    ("pointsman_kv_entries", "Saved prefixes.", "entries", "gauge"),
    ("pointsman_kv_lasting", "Saved prefixes that outlive the gateway.", "lasting", "gauge"),
    ("pointsman_kv_memory_bytes", "Saved KV in memory.", "bytes_memory", "gauge"),
    ("pointsman_kv_disk_bytes", "Saved KV on disk; the whole folder's where it outlives the gateway.", "bytes_disk", "gauge"),
)


def gauges(figures: Metrics, told: Callable[[], Mapping[str, Figures]]) -> None:
    """Registers them. A counter begins anew when a backend's store does."""
    for name, help, field, kind in _ROWS:
        figures.callback(name, help, lambda f=field: [({"backend": b}, float(getattr(one, f))) for b, one in told().items()], kind=kind)  # type: ignore[misc]
