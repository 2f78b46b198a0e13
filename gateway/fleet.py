"""Everything that can answer: remote servers, engines of our own, and the models that discovery finds on them. Lives through reloads:
what did not change keeps its replicas, with their counters and connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from backends.batched import BatchedLink, batching
from backends.carriers import Signs
from backends.dialects.sidecar import Sidecar
from backends.engines import gguf, guards
from backends.engines.instance import Instance
from backends.engines.spec import LLAMA_CPP, EngineSpec
from backends.engines.supervisor import Supervisor
from backends.http import Clients
from backends.native import ProviderLink
from backends.openai import OpenAILink
from backends.slots.keeper import Keeper
from backends.slots.link import SlotLink
from backends.slots.store import Limits
from backends.translate import TranslatedLink
from gateway import config_kv, hidden, links, logs, model_files
from gateway.config import BackendConfig, Config
from gateway.config_kv import KvEvents
from gateway.discovery.finder import Located
from gateway.discovery.models import listed
from gateway.discovery.places import Places
from gateway.engine_truths import Truths
from gateway.fleet_types import EngineState, Found, NoLink, same
from gateway.model_files import LLAMA
from gateway.residency_keeper import Keeper as Residents
from routing.pace import Paces
from routing.types import Health, Link, Replica

log = logging.getLogger("pointsman.fleet")
LOOK_SECONDS, RETRY_SECONDS = 30.0, 2.0
_HEALTH: Mapping[str, Health] = {"ready": "ready", "starting": "loading", "restarting": "loading"}


class Fleet:
    """The replicas by backend. `on_health` is called when a replica's health has changed, `on_models` when there is another model
    or another fact of one.

    With `follows` it runs no engine and looks for no model: the parent process does, and says what it finds through `follow`.
    """

    def __init__(
        self, clients: Clients, on_health: Callable[[Replica], None], on_models: Callable[[], None], *, follows: bool = False
    ) -> None:
        self.clients, self.on_health, self.on_models, self.follows = clients, on_health, on_models, follows
        self.sidecar = Sidecar()  # what providers want back, for clients that do not know of it
        self.states: dict[str, EngineState] = {}
        self.configs: dict[str, BackendConfig] = {}
        self.replicas: dict[str, tuple[Replica, ...]] = {}
        self.found: dict[str, tuple[Found, ...]] = {}
        self.contexts: dict[str, int | None] = {}  # tokens, of engines
        self.paces = Paces()  # what was learned of their speed
        self.slots = Keeper()  # of engines whose slots are ours
        self.supervisor = Supervisor(self._changed, drain=self._drained)
        self._signers: dict[str, dict[Replica, Signs]] = {}  # by backend: credentials that end with it
        self._leaving: dict[str, Replica] = {}  # of engines that are about to stop
        self._specs: dict[str, EngineSpec] = {}
        self._vocab: dict[str, int | None] = {}
        self._apart: dict[str, bool] = {}
        self._alone = True
        self.elastic: frozenset[str] = frozenset()  # backends whose engines come and go as they are needed
        self.keeper = None if follows else Residents(self)
        self.truths = Truths()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.places = Places(self)  # of backends whose servers Kubernetes tells

    # --- configuration
    async def apply(self, config: Config) -> None:
        """Makes the fleet what `config` says. Engines start in the background; a model that must be fetched is fetched there too."""
        several = config.server.workers > 1  # each with a sidecar of its own: then ids must do
        self.sidecar.mode = "both" if several and config.server.tool_state == "sidecar" else config.server.tool_state
        self._alone = not several  # slots of one engine are owned by one process
        new, old = config.backends, self.configs
        self.slots.keep(new)
        self.places.keep(new)
        for name in [n for n in old if not same(new.get(n), old[n])]:
            self._remove(name)
        self.configs = dict(new)
        self.elastic = frozenset(name for name, backend in new.items() if backend.resident is not None)
        if self.keeper is not None:
            self.keeper.configure(config)
        for name, backend in new.items():
            if name not in self.replicas:
                self._add(name, backend)
        if self.keeper is not None:
            await self.supervisor.apply(self.keeper.wanted())

    def _remove(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
        for signs in self._signers.pop(name, {}).values():
            signs.close()
        self.places.removed(name)
        for replica in self.replicas.pop(name, ()):
            replica.link.close()
            if replica.managed:
                self._leaving[replica.name] = replica
        for table in (self.found, self._specs, self._vocab, self._apart, self.contexts):
            table.pop(name, None)
        if self.keeper is not None:
            self.keeper.removed(name)

    def _add(self, name: str, backend: BackendConfig) -> None:
        if backend.engine is not None:
            hidden.hide(backend)
            self.replicas[name] = tuple(
                Replica(f"{name}#{i}", name, "", NoLink(), health="loading", managed=True) for i in range(backend.replicas)
            )
            if not self.follows:
                self._tasks[name] = asyncio.create_task(self._start_engine(name, backend))
            for state in self.states.values():
                if state.backend == name:
                    self._take(state)
            return
        if backend.service is not None:
            self.places.added(name, backend.service)
        else:
            urls = backend.all_urls
            names = [name] if len(urls) == 1 else [f"{name}#{i}" for i in range(len(urls))]
            self.replicas[name] = tuple(Replica(n, name, url, NoLink(), slots=backend.slots) for n, url in zip(names, urls, strict=True))
            for replica in self.replicas[name]:
                self.connect(replica, backend)
        self.look_again(name)

    def connect(self, replica: Replica, backend: BackendConfig) -> None:
        """Gives a server elsewhere its link. One whose credentials must be obtained first loads until they are there."""

        def changed() -> None:  # called in the thread that obtains credentials
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self.clients.loop.call_soon_threadsafe(self.credentials, replica)

        name = replica.backend
        try:
            replica.link, signs = links.made(name, replica.url, backend, self.clients, environ=os.environ, on_change=changed)
        except ValueError as e:
            log.error("%s", e)
            replica.link = NoLink(str(e))
            return
        if isinstance(replica.link, ProviderLink):
            replica.link.sidecar = self.sidecar
        if signs is not None:
            self._signers.setdefault(name, {})[replica] = signs
            signs.start()
            self.credentials(replica)

    def disconnect(self, replica: Replica) -> None:
        """Takes its link from a server elsewhere that is gone: calls under way finish."""
        replica.link.close()
        if (signs := self._signers.get(replica.backend, {}).pop(replica, None)) is not None:
            signs.close()

    def credentials(self, replica: Replica) -> None:
        """Makes a replica what its credentials allow, and tells whoever listens when that is news."""
        signs = self._signers.get(replica.backend, {}).get(replica)
        if signs is None:
            return  # of an earlier configuration
        health, reason = links.credentials(signs)
        if (health, reason) != (replica.health, replica.reason):
            if health == "down":
                log.warning("backend %s: %s", replica.name, reason)
            replica.health, replica.reason = health, reason
            self.on_health(replica)

    # --- engines
    async def _start_engine(self, name: str, backend: BackendConfig) -> None:
        """Finds the model's file, looks into it, and hands the engine to the supervisor."""
        try:
            spec = await asyncio.to_thread(model_files.spec, name, backend)
            if spec.kind in LLAMA_CPP:
                meta = await asyncio.to_thread(gguf.read, Path(spec.model))
                self._vocab[name] = meta.vocab or None
                # llama.cpp computes texts of several slots in parts of equal length. The mean that it pools of a generator's states is then
                # of a text's last part only. A model made for embeddings, which says how it pools, has them whole.
                self._apart[name] = not meta.pooling and spec.slots > 1
                self.contexts[name] = spec.context or (meta.context or None)
        except (ValueError, OSError, LookupError) as e:
            self._all(name, "down", str(e))
            log.error("model of backend %s: %s", name, e)
            return
        if backend.kv_transfer and self._alone:
            store = backend.kv_store
            spec = await self.slots.prepare(spec, Limits(store.memory, store.disk or 0, store.path, store.keep, store.private))
        else:
            self.slots.drop(name)
        self._specs[name] = spec
        if self.keeper is not None:
            await self.keeper.prepared(name, spec)
        self.reopen(name)  # those that went on have no change to tell

    def run_engines(self) -> None:
        """Makes the supervisor run what the keeper wants. Does not block."""
        if self.keeper is not None:
            self.supervisor.arrange(self.keeper.wanted())

    def reopen(self, name: str) -> None:
        """Tells of a backend's engine as it is."""
        for instance in self.supervisor.instances:
            if instance.spec.name == name:
                self._changed(instance)

    def shut(self, name: str, reason: str, *, asleep: bool = False, down: bool = False) -> None:
        """No new call reaches a backend's engine from now on: they wait, or with `down` are refused."""
        for replica in self.replicas.get(name, ()):
            self._take(EngineState(replica.name, name, "down" if down else "loading", reason, asleep=asleep))

    def under_way(self, name: str) -> int:
        """Calls that a backend has under way in this process."""
        return sum(replica.inflight for replica in self.replicas.get(name, ()))

    def _all(self, name: str, health: Health, reason: str) -> None:
        for replica in self.replicas.get(name, ()):
            self._take(EngineState(replica.name, name, health, reason))

    def _changed(self, instance: Instance) -> None:
        """The supervisor says that an instance's state is another."""
        name = instance.spec.name
        self.truths.changed(instance)
        worded = self.keeper.changed(instance) if self.keeper is not None else ""
        if instance in self.supervisor.instances and name in self.configs:
            health = _HEALTH.get(instance.state, "down")
            reason = "" if health == "ready" else instance.reason or worded or instance.progress
            context = instance.fact("context") or self.contexts.get(name)
            vocab = instance.fact("vocab") or self._vocab.get(name)
            together = not self._apart.get(name, False)
            kv = config_kv.told(instance.facts)
            self._take(EngineState(instance.name, name, health, reason, instance.base_url, instance.api_key, vocab, context, together, kv))

    async def _drained(self, instance: Instance) -> None:
        """Waits until an engine that is about to stop has no call left, nor KV that is being saved. The supervisor bounds the wait."""
        replica = self._leaving.pop(instance.name, None)
        if replica is not None and replica.inflight:
            idle = asyncio.Event()
            replica.on_idle = idle.set
            await idle.wait()
        stays = next((r for r in self.replicas.get(instance.spec.name, ()) if r.name == instance.name), replica)
        if stays is not None and isinstance(stays.link, SlotLink):
            await stays.link.settled()

    def _take(self, state: EngineState) -> None:
        """Makes a replica what its engine's state says, and tells whoever listens."""
        self.states[state.replica] = state
        replica = next((r for r in self.replicas.get(state.backend, ()) if r.name == state.replica), None)
        if replica is None:
            return  # of an earlier configuration
        ready = state.health == "ready"
        begins = ready and replica.health != "ready"
        if ready and (replica.health != "ready" or replica.url != state.base_url):
            replica.link.close()
            replica.url = state.base_url
            replica.link = self._engine_link(state)
            replica.failures, replica.down_until = 0, 0.0
        elif not ready and replica.health == "ready":
            replica.link.close()
        replica.health, replica.reason, replica.asleep = state.health, state.reason, state.asleep
        if begins:
            self.contexts[state.backend] = state.context
            self.on_models()  # the routes tell the context
        self.on_health(replica)

    def _engine_link(self, state: EngineState) -> Link:
        backend = self.configs[state.backend]
        logs.hide(state.api_key)  # random: no pattern would recognise it
        pool = self.clients.pool(state.base_url, state.replica)
        kind = backend.engine or "command"
        guard = partial(guards.refuse, vocab=state.vocab) if kind in LLAMA else None
        key, limits = state.api_key or None, links.batches(backend, state.together)
        if limits is None:
            link = OpenAILink(pool, kind=kind, key=key, timeouts=backend.timeouts, guard=guard)
        else:
            link = batching(BatchedLink(pool, kind=kind, key=key, timeouts=backend.timeouts, guard=guard), limits)
        return self.slots.link(link, state.backend, self._specs.get(state.backend), state.context)

    def told(self) -> tuple[list[EngineState], dict[str, tuple[Found, ...]], list[Located]]:
        """What a worker must know, for its `follow`."""
        return [*self.states.values()], self.found, [*self.places.located.values()]

    def follow(self, states: Iterable[EngineState], found: Mapping[str, tuple[Found, ...]], located: Iterable[Located] = ()) -> None:
        """Takes over what the parent process knows."""
        for one in located:
            self.places.take(one)
        for state in states:
            if self.states.get(state.replica) != state:
                self._take(state)
        if dict(found) != self.found:
            self.found = dict(found)
            self.on_models()

    # --- discovery
    async def look(self, name: str) -> str:
        """Asks a backend's servers for their models, keeps what they say, and returns why none answered ("" when one did)."""
        models, why = await listed(self.replicas.get(name, ()))
        if models and models != self.found.get(name):
            self.found[name] = models
            self.on_models()
        return "" if models else why

    async def first_look(self, seconds: float) -> None:
        """One look at every discovering backend, all at once, for at most `seconds`."""
        names = [n for n, b in self.configs.items() if b.discover and not self.follows]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.places.known(), seconds)
        if names:
            await asyncio.wait([asyncio.create_task(self.look(n)) for n in names], timeout=seconds)

    def look_again(self, name: str) -> None:
        """Looks for a backend's models from now on, where it is to be asked for them: it is new, or has new servers."""
        if (task := self._tasks.pop(name, None)) is not None:
            task.cancel()
        if self.configs[name].discover and not self.follows:
            self._tasks[name] = asyncio.create_task(self._keep_looking(name))

    async def _keep_looking(self, name: str) -> None:
        told = ""
        while True:
            why = await self.look(name)
            if why and why != told:
                log.warning("no models from backend %s yet: %s", name, why)
            told = why
            await asyncio.sleep(RETRY_SECONDS if why else LOOK_SECONDS)

    # --- the rest
    def instance(self, name: str) -> Instance | None:
        """The engine instance of that name."""
        return next((i for i in self.instances() if i.name == name), None)

    def kv_events(self, replica: Replica) -> KvEvents | None:
        """Where a replica says what becomes of its KV cache. None when it does not, or is an engine that is not ready."""
        if replica.managed:
            state = self.states.get(replica.name)
            return state.kv if state is not None and state.health == "ready" else None
        backend = self.configs[replica.backend]
        urls = backend.all_urls if backend.service is None else ((replica.url,) if replica.url else ())
        found = zip(urls, config_kv.publishers(backend.kv_events, urls), strict=False)
        return next((one for url, one in found if url == replica.url), None)

    def instances(self) -> Iterable[Instance]:
        """All engine instances."""
        return self.supervisor.instances

    def every(self) -> list[Replica]:
        """All replicas of all backends."""
        return [r for replicas in self.replicas.values() for r in replicas]

    def context(self, backend: str, model: str) -> int | None:
        """Tokens that a model takes, where its server or file says."""
        for found in self.found.get(backend, ()):
            if found.id == model:
                return found.max_model_len
        return self.contexts.get(backend)

    async def stop(self) -> None:
        """Stops looking, and every engine."""
        tasks: list[asyncio.Task[Any]] = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        await self.places.stop()
        await self.truths.stop()
        if self.keeper is not None:
            await self.keeper.stop()
        for signs in [one for signers in self._signers.values() for one in signers.values()]:
            signs.close()
        await asyncio.gather(*(r.link.stop() for r in self.every() if isinstance(r.link, OpenAILink | TranslatedLink)))
        await self.supervisor.stop()
        await asyncio.to_thread(self.slots.close)
