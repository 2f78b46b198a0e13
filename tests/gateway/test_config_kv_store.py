"""`kv_store`: what is refused, what reaches the engine's slots, and what metrics tell of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.slots.keeper import Keeper
from backends.slots.shared import Shared
from backends.slots.store import Limits, Store
from gateway import kv_figures
from gateway.config import Config, ConfigError, parse
from gateway.metrics import Metrics
from tests.harness import running


def config(store: dict[str, Any], **engine: Any) -> Config:
    backend = {"engine": "llamacpp", "model": "builtin", "kv_store": store, **engine}
    server = {"port": 0, "admin": {"port": None}, "log": {"level": "error"}}
    return parse(json.dumps({"server": server, "backends": {"m": backend}, "routes": {"m": {"targets": [{"backend": "m"}]}}}), {})


@pytest.mark.parametrize(
    ("store", "engine", "problem"),
    [
        ({"keep": True}, {}, r"kv_store.path: is needed for `keep: true`"),
        ({"keep": True, "path": "kv", "disk": None}, {}, r"kv_store.disk: must be a size"),
        ({"keep": True, "path": "kv"}, {"engine": "vllm"}, r"kv_store.keep: is only for `engine: llamacpp`"),
        ({"keep": True, "path": "kv"}, {"kv_transfer": False}, r"kv_store.keep: needs `kv_transfer: true`"),
        ({"private": True}, {}, r"kv_store.private: .* needs `keep: true`"),
    ],
)
def test_what_makes_no_sense_is_said(store: dict[str, Any], engine: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config(store, **engine)


def test_what_is_configured_reaches_the_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Limits] = []

    async def prepare(self: Keeper, spec: Any, limits: Limits) -> Any:
        asked.append(limits)
        raise OSError("this is as far as the test goes")

    monkeypatch.setattr(Keeper, "prepare", prepare)
    found = config({"keep": True, "path": str(tmp_path), "disk": "10GiB", "private": True, "memory": "1GiB"})
    with running(found) as gateway:
        gateway.until(lambda: bool(asked), "an engine being prepared")
    assert asked == [Limits(1 << 30, 10 << 30, str(tmp_path), True, True)]


def test_metrics(tmp_path: Path) -> None:
    store = Store(tmp_path / "near", None, 0, 0, b"m")
    shared = Shared(store)
    shared.counts.restores, shared.counts.tokens_saved = 3, 4500
    figures = Metrics()
    kv_figures.gauges(figures, lambda: {"m": shared.figures()})
    told = figures.render()
    assert 'pointsman_kv_restores_total{backend="m"} 3' in told and 'pointsman_kv_saved_tokens_total{backend="m"} 4500' in told
    assert 'pointsman_kv_disk_bytes{backend="m"} 0' in told
    store.close()
