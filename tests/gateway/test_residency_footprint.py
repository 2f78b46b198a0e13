"""What engines take: predicted, bounded, measured, and the budget for all of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from backends.engines import sizing
from backends.engines.spec import EngineSpec
from gateway.config import ConfigError, parse
from gateway.residency_footprint import MIB, bounded, budget, footprint, measured
from quant import builtin

TOY = EngineSpec("toy", "llamacpp", model=str(builtin.path()), context=1024, slots=2)


def test_llamacpp_is_predicted_with_a_bounded_prompt_cache() -> None:
    spec = bounded(TOY)
    assert spec.args == ("cache_ram_mib=4",), "as much as its slots hold"
    assert bounded(EngineSpec("toy", "llamacpp", model=TOY.model, args=("cache_ram_mib=9",))).args == ("cache_ram_mib=9",)
    assert 30 * MIB < footprint(spec) < 100 * MIB < footprint(EngineSpec("toy", "llamacpp", model=TOY.model, context=1024, replicas=20))


def test_a_file_that_is_no_model_takes_nothing_and_changes_nothing(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(40))
    spec = EngineSpec("bad", "llamacpp", model=str(bad))
    assert footprint(spec) == 0 and bounded(spec) is spec


def test_other_engines_take_what_they_are_bounded_to_or_their_files(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "notes.txt").write_bytes(bytes(5000))
    assert footprint(EngineSpec("v", "vllm", model=str(tmp_path), replicas=2)) == 2400
    assert footprint(EngineSpec("v", "vllm", model=str(tmp_path), memory=7)) == 7
    assert footprint(EngineSpec("c", "command", command=("x",))) == 0 == footprint(EngineSpec("v", "vllm", model="org/name"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_processes_hold_is_read_by_group() -> None:
    own = os.getpgrp()
    assert measured({own})[own] > 5 * MIB
    assert measured({2**22 + 1}) == {} == measured(())


def test_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget(None) is None and budget(5) == 5
    for free, given in ((100 << 30, 90 << 30), (8 << 30, (8 << 30) - 1536 * MIB), (2 << 30, 1 << 30), (0, None)):
        monkeypatch.setattr(sizing, "machine_memory", lambda free=free: free)
        assert budget("auto") == given


def test_how_it_stands_in_the_configuration() -> None:
    def server(memory: str) -> int | str | None:
        return parse(f"server: {{memory: {memory}}}", {}).server.memory

    assert (server("auto"), server("2GiB"), server("1000"), server("null")) == ("auto", 2 << 30, 1000, None)
    with pytest.raises(ConfigError, match=r"\$\.server\.memory: 'much' is not a size"):
        server("much")
    with pytest.raises(ConfigError, match=r"\$\.backends\.b\.resident: is only for an engine that the gateway runs"):
        parse("backends: {b: {url: 'http://127.0.0.1:1', resident: {}}}", {})
    made = parse(
        "backends: {b: {engine: llamacpp, model: builtin, resident: {load: start, idle_seconds: null, pin: true, memory: 1GiB}}}", {}
    )
    own = made.backends["b"].resident
    assert own is not None and (own.load, own.idle_seconds, own.pin, own.memory) == ("start", None, True, 1 << 30)
