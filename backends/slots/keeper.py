"""One a gateway: the stores of its llama.cpp engines, and the links that share them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Container

import msgspec

from backends.engines import sizing
from backends.engines.spec import EngineSpec
from backends.openai import OpenAILink
from backends.slots.files import fingerprint
from backends.slots.link import SlotLink
from backends.slots.shared import Figures, Shared
from backends.slots.store import Limits, Store
from backends.slots.volatile import Volatile

log = logging.getLogger("pointsman.slots")


class Keeper:
    """By backend. `figures` may be read at any time."""

    def __init__(self) -> None:
        self.shared: dict[str, Shared] = {}

    async def prepare(self, spec: EngineSpec, limits: Limits) -> EngineSpec:
        """Opens a store for an engine, or keeps the one it has, and returns the spec that tells it where. The same spec where its slots are
        not ours to own, or there is no room."""
        ours = spec.kind == "llamacpp" and not spec.reranking and not spec.slot_save_path
        # An engine that sees saves no slot (llama.cpp: not supported by multimodal).
        if not ours or spec.projector or (spec.slots < 2 and not limits.keep):
            self.drop(spec.name)
            return spec
        old = self.shared.get(spec.name)
        opening = asyncio.ensure_future(asyncio.to_thread(_opened, spec, limits, old.store if old is not None else None))
        try:
            store = await asyncio.shield(opening)
        except asyncio.CancelledError:  # another configuration came meanwhile
            opening.add_done_callback(lambda done: _unwanted(done.result(), old))
            raise
        if store is None:
            self.drop(spec.name)
            return spec
        if old is None or store is not old.store:
            self.drop(spec.name)
            self.shared[spec.name] = Shared(store)
        return msgspec.structs.replace(spec, slot_save_path=str(store.near))

    def link(self, bare: OpenAILink, backend: str, spec: EngineSpec | None, context: int | None) -> OpenAILink:
        """A link that owns its engine's slots and sends over `bare`; `bare` itself where `backend` has no store. Needs a running loop."""
        shared = self.shared.get(backend)
        if shared is None or spec is None:
            return bare
        guard, bare.guard = bare.guard, None
        shared.store.fits(context or 0)
        threads = sizing.threads(spec.threads, spec.replicas, sizing.machine_cores())
        return SlotLink(bare, shared, spec.slots, guard=guard, context=context or sizing.DEFAULT_CONTEXT, threads=threads)

    def drop(self, backend: str) -> None:
        """Forgets a backend; its files are removed in a thread."""
        shared = self.shared.pop(backend, None)
        if shared is not None:
            asyncio.get_running_loop().run_in_executor(None, shared.store.close)

    def keep(self, backends: Container[str]) -> None:
        """Forgets all others."""
        for backend in [name for name in self.shared if name not in backends]:
            self.drop(backend)

    def close(self) -> None:
        """Forgets all and removes their files. Blocks."""
        for shared in self.shared.values():
            shared.store.close()
        self.shared.clear()

    def volatile(self) -> list[Volatile]:
        """Lines of prompts that keep KV from being used again, of all backends."""
        return [found for shared in self.shared.values() for found in shared.watch.told(shared.speed.ratio)]

    def figures(self) -> dict[str, Figures]:
        """What was moved and what is held, by backend."""
        return {backend: shared.figures() for backend, shared in self.shared.items()}


def _opened(spec: EngineSpec, limits: Limits, old: Store | None) -> Store | None:
    """The store for an engine: `old`, where that is of the same model and limits. None where there is no folder. Blocks."""
    memory = limits.memory
    try:
        # Tried on xllamacpp 2026.10: an engine refuses what one with another number of slots has saved.
        adapters = [f"lora={one.path}:{one.scale}:{os.stat(one.path).st_mtime_ns}" for one in spec.lora]
        of = fingerprint(spec.model, (*spec.args, spec.chat_template, *adapters, f"slots={spec.slots}", _version()))
        if old is not None and (old.of, old.limits) == (of, limits):
            return old
        if memory is None:
            memory = sizing.prompt_cache_mib(sizing.machine_memory()) << 20
        store = _lasting(spec.name, memory, limits, of) or Store.open(memory, limits.disk, limits.path, of)
    except OSError as error:
        log.warning("engine %s: KV is not moved, as there is no folder for it: %s", spec.name, error.strerror or type(error).__name__)
        return None
    store.limits = limits
    return store


def _lasting(name: str, memory: int, limits: Limits, of: bytes) -> Store | None:
    """A store that lasts, where that is wanted and to be had. Blocks."""
    if not limits.keep or limits.path is None or not limits.disk:
        return None
    try:
        return Store.lasts(memory, limits.disk, limits.path, of, limits.private)
    except OSError as error:
        why = error.strerror or error
        log.warning("engine %s: KV will not outlive the gateway, as `kv_store.path` %s cannot be used: %s", name, limits.path, why)
        return None


def _unwanted(store: Store | None, old: Shared | None) -> None:
    if store is not None and (old is None or store is not old.store):
        asyncio.get_running_loop().run_in_executor(None, store.close)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # a twentieth of what a start imports, for whoever keeps prompts

    try:
        return version("xllamacpp")
    except PackageNotFoundError:
        return ""
