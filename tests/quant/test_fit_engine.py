"""What engines take by their specs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from backends.engines.spec import EngineSpec
from quant import builtin, fit_card, fit_engine
from quant.fit_memory import MIB

SPEC = EngineSpec("toy", "llamacpp", model=str(builtin.path()), context=1024, slots=2)


def test_the_settings_are_those_that_the_engine_gets() -> None:
    card = fit_card.load(builtin.path())
    said = fit_engine.setup(SPEC, card, 32 << 30)
    assert (said.context, said.slots, said.key, said.value, said.prompt_cache, said.batch) == (1024, 2, "F16", "F16", 1024 * MIB, 0)
    args = ("cache_type_k=8", 'cache_type_v="q4_0"', "cache_ram_mib=5", "n_ubatch=64", "kv_unified=true", "broken")
    said = fit_engine.setup(msgspec.structs.replace(SPEC, args=args, context=None), card, 0)
    assert (said.context, said.key, said.value, said.prompt_cache, said.batch) == (4096, "Q8_0", "Q4_0", 5 * MIB, 64)
    args = ("--cache-type-k", "q8_0", "-ctv=q5_1", "--ubatch-size", "128", "--cache-ram")
    said = fit_engine.setup(msgspec.structs.replace(SPEC, kind="llama-server", args=args), card, 0)
    assert (said.key, said.value, said.batch) == ("Q8_0", "Q5_1", 128)
    assert fit_engine.setup(msgspec.structs.replace(SPEC, kind="llama-server"), card, 0).batch == fit_engine.SERVER_BATCH


def test_a_footprint_counts_every_replica_and_the_prompt_cache() -> None:
    one = fit_engine.footprint(msgspec.structs.replace(SPEC, args=("cache_ram_mib=5",)))
    assert 40 * MIB < one < 100 * MIB
    assert fit_engine.footprint(msgspec.structs.replace(SPEC, args=("cache_ram_mib=5",), replicas=3)) == 3 * one
    assert fit_engine.footprint(msgspec.structs.replace(SPEC, args=("cache_ram_mib=105",))) == one + 100 * MIB
    smaller = fit_engine.footprint(msgspec.structs.replace(SPEC, args=("cache_ram_mib=5", "cache_type_k=8", "cache_type_v=8")))
    assert smaller < one


@pytest.mark.parametrize("changes", [{"kind": "vllm"}, {"model": "none.gguf"}])
def test_nothing_tells(changes: dict[str, str]) -> None:
    assert fit_engine.footprint(msgspec.structs.replace(SPEC, **changes)) == 0


def test_a_broken_model_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(99))
    assert fit_engine.predicted(msgspec.structs.replace(SPEC, model=str(tmp_path / "x.gguf"))) is None
