"""What a configured engine will take, by its spec: for whoever has to know it before the engine runs. Blocks on the disk for the header."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence

import msgspec

from backends.engines import sizing
from backends.engines.gguf import GgufError
from backends.engines.spec import EngineSpec
from quant import calibrate, fit_card, hardware
from quant.fit_card import Card
from quant.fit_memory import CACHE_KINDS, MIB, Parts, Setup, predict
from quant.fit_speed import kind
from quant.ggml import NAMES, GgmlError
from quant.hardware import Machine
from quant.tensors import TensorError

KINDS = ("llamacpp", "llama-server")
SERVER_BATCH = 512  # llama-server's own, which our rows leave as it is
_FLAGS = {"-ctk": "cache_type_k", "-ctv": "cache_type_v", "-ub": "n_ubatch", "-cram": "cache_ram_mib"}
_LONG = {"cache-type-k": "cache_type_k", "cache-type-v": "cache_type_v", "ubatch-size": "n_ubatch", "cache-ram": "cache_ram_mib"}


def setup(spec: EngineSpec, card: Card, memory: int) -> Setup:
    """The settings that matter for memory, as the engine will have them with `memory` bytes free when it starts. Pure."""
    said = _named(spec.args) if spec.kind == "llamacpp" else _flags(spec.args)
    kept = card.kv_bytes("F16", "F16")
    limit = said.get("cache_ram_mib", "")
    cache = int(limit) if limit.isdigit() else sizing.prompt_cache_mib(memory)
    batch = said.get("n_ubatch", "")
    return Setup(
        context=sizing.context(spec.context, card.context, spec.slots, kept, memory), slots=spec.slots,
        key=_kind(said.get("cache_type_k", "")), value=_kind(said.get("cache_type_v", "")), prompt_cache=cache * MIB,
        batch=int(batch) if batch.isdigit() else SERVER_BATCH if spec.kind == "llama-server" else 0,
    )  # fmt: skip


def known(spec: EngineSpec) -> tuple[Card, Setup, Machine] | None:
    """The model, the engine's settings as they will be, and this machine without its cards (an engine on the processor does not use them);
    None where nothing tells. Blocks."""
    if spec.kind not in KINDS:
        return None
    try:
        card = fit_card.load(spec.model)
        machine = hardware.look(tool=_no_tool)
        found = setup(spec, card, sizing.machine_memory())
        if not card.takes(found.key, found.value):
            found = msgspec.structs.replace(found, key="F16", value="F16")
        predict(card, found, machine.features)
        return card, found, machine
    except (GgufError, TensorError, GgmlError):
        return None


def predicted(spec: EngineSpec) -> Parts | None:
    """Memory by part of one replica, not corrected; None where nothing tells. Blocks."""
    found = known(spec)
    return predict(found[0], found[1], found[2].features) if found is not None else None


def footprint(spec: EngineSpec) -> int:
    """Bytes that all replicas of a llama.cpp engine will hold with full slots and a full prompt cache, corrected by what was measured on
    this machine; 0 where nothing tells. Blocks."""
    found = known(spec)
    if found is None:
        return 0
    card, settings, machine = found
    parts = predict(card, settings, machine.features)
    book = calibrate.load(calibrate.place(), machine.fingerprint)
    needs = parts.needs(book.factors(kind(card, msgspec.structs.replace(machine, bandwidth=book.bandwidth))))
    if spec.kind != "llamacpp":
        # What llama-server keeps of finished prompts by default (8 GiB) is no plan of ours: only what its slots leave there is counted.
        needs -= parts.most - parts.total
    return (needs + _beside(spec)) * spec.replicas


def _beside(spec: EngineSpec) -> int:
    """Bytes of a replica's adapters, its projector (with as much again to compute on), and the model that drafts in as long a context."""
    found = sum(_size(one.path) for one in spec.lora) + 2 * _size(spec.projector)
    if spec.draft:
        parts = predicted(msgspec.structs.replace(spec, model=spec.draft, draft="", projector="", lora=()))
        found += parts.total - parts.process if parts is not None else _size(spec.draft)
    return found


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size if path else 0
    except OSError:
        return 0


def _named(args: Sequence[str]) -> dict[str, str]:
    """`name=JSON` arguments, the last one of a name, values as text."""
    found = {}
    for item in args:
        name, _, text = item.partition("=")
        with contextlib.suppress(ValueError):
            found[name.strip()] = str(json.loads(text))
    return found


def _flags(args: Sequence[str]) -> dict[str, str]:
    """llama-server's flags, `--name value` and `--name=value`."""
    found = {}
    for place, word in enumerate(args):
        name, equals, text = word.partition("=")
        known = _FLAGS.get(name) or _LONG.get(name.removeprefix("--"))
        if known:
            found[known] = text if equals else args[place + 1] if place + 1 < len(args) else ""
    return found


def _kind(said: str) -> str:
    """A type of the cache by ggml's number or name; F16 where it is neither."""
    name = NAMES.get(int(said), "") if said.isdigit() else said.upper()
    return name if name in CACHE_KINDS else "F16"


def _no_tool(words: Sequence[str]) -> str:
    """Graphics cards are not asked for: an engine on the processor does not use them."""
    return ""
