"""Engines and clients in simulated time around the pure `Residency`: what a fleet would do, and a judge that looks at every moment."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from gateway.residency import Residency
from gateway.residency_types import HELD, Action, Model, Rules


class Call:
    """One request: when it came, and when it was answered."""

    def __init__(self, model: str, at: float, seconds: float) -> None:
        self.model, self.at, self.seconds = model, at, seconds
        self.begun: float | None = None
        self.answered: float | None = None
        self.refused = False


class Town:
    """Models whose engines load in `load(name)` seconds, stop in a tenth and take `truth(name)` bytes. An engine answers `slots` calls at
    once. Time goes from event to event; after each, `Residency` is asked, and `check` holds."""

    def __init__(
        self, models: list[Model], budget: int | None, *, rules: Rules | None = None, slots: int = 2,
        load: Callable[[str], float] = lambda _: 1.0, truth: Callable[[str], int] | None = None, over: float = 1.0,
    ) -> None:  # fmt: skip
        self.residency = Residency(budget, rules)
        self.now, self.slots, self.load, self.over = 0.0, slots, load, over
        self.events: list[tuple[float, int, Callable[[], object]]] = []
        self.numbers = itertools.count()
        self.parked: dict[str, list[Call]] = {m.name: [] for m in models}
        self.running: dict[str, list[Call]] = {m.name: [] for m in models}
        self.open: set[str] = set()  # engines that calls reach
        self.alive: dict[str, int] = {}  # engines whose process is there, and which start of them it is
        self.calls: list[Call] = []
        self.loads: list[str] = []
        self.peak = 0
        self.truth = truth or (lambda name: self.residency.entries[name].model.bytes)
        for model in models:
            self.residency.put(model, 0.0)
        self.step()

    # --- time
    def at(self, seconds: float, do: Callable[[], object]) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.numbers), do))

    def run(self, until: float, tick: float = 0.5) -> None:
        """Plays everything up to `until`, and asks for what time alone brings every `tick` seconds."""
        self.step()
        while self.now < until:
            next_look = min(self.now + tick, until)
            if not self.events or self.events[0][0] > next_look:
                self.now = next_look
            else:
                self.now, _, do = heapq.heappop(self.events)
                do()
            self.step()

    # --- clients
    def ask(self, model: str, seconds: float = 1.0) -> Call:
        call = Call(model, self.now, seconds)
        self.calls.append(call)
        if self.residency.entries[model].state in ("refused", "failed"):
            call.refused = True
            return call
        self.parked[model].append(call)
        self.serve(model, 0)
        return call

    def serve(self, model: str, fresh: int = 0) -> None:
        """Lets as many calls through as there are slots."""
        while model in self.open and self.parked[model] and len(self.running[model]) < self.slots:
            call = self.parked[model].pop(0)
            call.begun = self.now
            self.running[model].append(call)
            fresh += 1
            self.at(call.seconds, lambda call=call, begun=self.now: self.done(call, begun))  # type: ignore[misc]
        self.tell(model, fresh)

    def done(self, call: Call, begun: float) -> None:
        if call in self.running[call.model] and call.begun == begun:
            self.running[call.model].remove(call)
            call.answered = self.now
            self.serve(call.model)

    def tell(self, model: str, fresh: int = 0) -> None:
        parked = self.parked[model]
        since = parked[0].at if parked else 0.0
        self.residency.demand(model, len(parked), since, len(self.running[model]), fresh, self.now)

    # --- engines
    def step(self) -> None:
        for action in self.residency.step(self.now):
            self.act(action)
        self.check()

    def act(self, action: Action) -> None:
        name = action.name
        if action.does == "load":
            assert name not in self.alive, "loaded twice"
            self.alive[name] = start = next(self.numbers)
            self.loads.append(name)
            self.at(self.load(name), lambda: self.ready(name, start))
        elif action.does == "close":
            self.open.discard(name)
            self.residency.closed(name, len(self.running[name]), self.now)
            self.at(0.0, lambda: None)
        elif action.does == "open":
            self.open.add(name)
            self.serve(name)
        elif action.does == "stop":
            assert not self.running[name], f"{name} was stopped while it computed"
            self.open.discard(name)
            start = self.alive[name]
            self.at(0.1, lambda: self.ended(name, start))
        elif action.does == "refuse":
            for call in self.parked[name]:
                call.refused = True
            self.parked[name].clear()
            self.tell(name)

    def ready(self, name: str, start: int) -> None:
        if self.alive.get(name) == start and self.residency.entries[name].state == "loading":
            self.residency.loaded(name, self.now)
            self.residency.measured(name, self.truth(name))
            self.open.add(name)
            self.serve(name)

    def ended(self, name: str, start: int) -> None:
        if self.alive.get(name) == start:
            del self.alive[name]
            self.residency.gone(name, self.now)

    def crash(self, name: str) -> None:
        """Its process dies; calls under way wait again, and the supervisor starts it anew."""
        if name not in self.open:
            return
        self.open.discard(name)
        self.parked[name] = self.running[name] + self.parked[name]
        self.running[name] = []
        self.residency.died(name, self.now)
        self.tell(name)
        start = self.alive[name]
        self.at(self.load(name), lambda: self.ready(name, start))

    # --- what must hold at every moment
    def check(self) -> None:
        residency = self.residency
        entries = residency.entries
        assert {n for n, e in entries.items() if e.state in HELD} == set(self.alive), (entries, self.alive)
        assert self.open <= {n for n, e in entries.items() if e.state == "resident"}, "a call could reach a model that goes"
        for name, entry in entries.items():
            assert entry.busy == len(self.running[name]) or entry.state == "closing", entry
            assert not (entry.state == "stopping" and self.running[name]), entry
        truth = sum(self.truth(name) for name in self.alive)
        self.peak = max(self.peak, truth)
        if residency.budget is not None:
            assert truth <= residency.budget * self.over, (truth, residency.budget, entries)
