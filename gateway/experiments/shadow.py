"""Mirrors requests of experiments to candidates, once their users have been answered, and compares the answers.

1. `wants` puts a `Keeper` around the client's sink of a call that was drawn. When its answer is out and the client has taken all of it,
   there is one job for each candidate; jobs wait in a bounded queue of their experiment.
2. A job is sent when fewer than `concurrency` are under way, a replica of its candidate has a slot that no user waits for, and the day's
   budget has room. Nothing is tried again, and no replica's health is marked.
3. A user's call that finds no slot takes that of a mirrored one (`give_way`): its job is then left out.
4. Answers are read and compared in one thread of its own; the judge, where there is one, is asked; a `Pair` goes to the store.

One process has one `Shadows`, owned by its event loop; it outlives reloads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from backends import wire
from backends.types import Fault
from backends.wire import Doc
from gateway.experiments import judge
from gateway.experiments.beside import Beside, Own, beside
from gateway.experiments.budget import Budget, Cost
from gateway.experiments.heard import read
from gateway.experiments.keeper import Keeper, Room, size_of
from gateway.experiments.lanes import Candidate, Job, Lane, Plan, cost, free, likely, sampled
from gateway.experiments.mirror import Mirror, Sent, ask, call_for, recorded
from gateway.experiments.words import Pair, State
from gateway.metrics import Metrics
from routing.private import Near
from routing.types import Decision, Replica, Route

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.serve import Core

log = logging.getLogger("pointsman.experiments")
APIS = frozenset({"chat", "messages", "responses"})
KEEPERS = 256  # calls whose answers are being kept, and those whose clients have not taken them yet
KEPT = 64 * 1024 * 1024  # bytes of requests and answers, of calls under way and of jobs
QUEUE_SECONDS = 600.0  # that a job waits for a free replica
FORGET_SECONDS = 60.0  # after which a call that ended without an answer is forgotten
JUDGE_SECONDS = 30.0  # that a judgement waits for a free replica


class Shadows:
    """See the module. `pair` takes what was found; it never blocks. `clock` gives unix seconds. Its owner sets it at the core, which then
    tells it of new configurations, of time and of calls that wait."""

    def __init__(self, core: Core, pair: Callable[[Pair], object], clock: Callable[[], float] = time.time) -> None:
        self.core, self.pair, self.clock = core, pair, clock
        self.lanes: dict[str, Lane] = {}
        self.budgets: dict[str, Budget] = {}  # also of experiments that are gone, which may come back today
        self.halted: frozenset[str] = frozenset()  # experiments that do not run
        self.keepers: dict[Keeper, None] = {}
        self.unsent: list[Keeper] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.room = Room(KEPT)
        self.stopping = False
        self.turn: asyncio.Future[None] | None = None  # resolved at the next tick, for who waits for a replica
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self.follow(core.generation.shadows)

    def __repr__(self) -> str:
        return f"<Shadows {[*self.lanes.values()]!r}: {len(self.keepers)} kept, {len(self.unsent)} unsent>"

    # --- configuration
    def follow(self, plans: Mapping[str, Plan]) -> None:
        """Goes by these plans from now on. What was spent today stays; jobs of an experiment that is gone are left out."""
        for name, lane in [*self.lanes.items()]:
            if name not in plans:
                self._empty(lane, "stopped")
                del self.lanes[name]
        for name, plan in plans.items():
            if name in self.lanes:
                self._empty(self.lanes[name], "stopped", keep=plan)
                self.lanes[name].follow(plan)
            else:
                self.lanes[name] = Lane(plan, self.budgets.setdefault(name, Budget()))

    def heed(self, states: Mapping[str, State]) -> None:
        """Goes by what is in force: nothing more is mirrored for an experiment that does not run."""
        self.halted = frozenset(name for name, state in states.items() if state.status not in ("running", "planned"))
        for name in self.halted & self.lanes.keys():
            self._empty(self.lanes[name], "stopped")

    # --- a user's call
    def wants(self, exchange: Exchange, experiment: str) -> Keeper | None:
        """Keeps the answer of a call that was drawn to be mirrored; None: it was not, or must not be. To be asked once, when the call has
        its `call` and its tenant and before anything is laid over its document or sent. Mutates the exchange's sink."""
        lane = self.lanes.get(experiment)
        if lane is None or experiment in self.halted or self.core.leaving or exchange.api not in APIS:
            return None
        if exchange.tenant.private or isinstance(exchange.route, Near):
            return None
        config = lane.plan.config
        if not sampled(exchange.id, experiment, config.share):
            return None
        why = ""
        if size_of(exchange.call.doc) > config.bytes:
            why = "large"
        elif len(self.keepers) + len(self.unsent) >= KEEPERS or self.room.full:
            why = "queue"
        if why:
            self._leave(lane, exchange.id, lane.plan.candidates, why)
            return None
        keeper = Keeper(exchange, experiment, config.bytes, self.room, self._answered)
        self.keepers[keeper] = None
        return keeper

    def _answered(self, keeper: Keeper) -> None:
        """The gateway has written all of the answer. Called within the exchange's end: nothing is done here."""
        asyncio.get_running_loop().call_soon(self._taken, keeper)

    def _taken(self, keeper: Keeper) -> None:
        """Goes on when the client has taken all of it, else waits for that."""
        self.keepers.pop(keeper, None)
        if keeper.unsent and not self.stopping:
            self.unsent.append(keeper)
        else:
            self._offer(keeper)

    def _offer(self, keeper: Keeper) -> None:
        lane = self.lanes.get(keeper.experiment)
        if lane is None or self.stopping or keeper.experiment in self.halted:
            keeper.release()
            return
        candidates = lane.plan.candidates
        room = 0 if keeper.lost else max(0, lane.plan.config.queue - len(lane.queue))
        taken, left = candidates[:room], candidates[room:]
        self._leave(lane, keeper.id, left, keeper.lost or "queue")
        keeper.jobs = len(taken)
        if not taken:
            keeper.release()
            return
        lane.queue.extend(Job(keeper, candidate, self.core.clients.now) for candidate in taken)
        self._pump(lane)

    def give_way(self, route: Route) -> None:
        """A user's call waits for a slot of this route: ends a mirrored request that holds one. Synchronous and cheap; the slot is free in
        the loop's next turn."""
        if not self.tasks:
            return
        replicas = route.replicas
        for lane in self.lanes.values():
            for job in reversed(lane.running):
                if job.mirror is not None and job.replica in replicas and job.replica is not None and job.replica.full:
                    if not job.mirror.done.done():
                        job.mirror.give_way()
                        return

    # --- jobs
    def tick(self, now: float) -> None:
        """Every 100 ms (`now`: monotonic seconds): clients that have taken their answers, jobs that can go, those that waited too long."""
        for keeper in [*self.keepers]:
            if keeper.exchange is not None and keeper.exchange.ended:
                keeper.ended = keeper.ended or now
                if now - keeper.ended > FORGET_SECONDS:  # it failed, or its client left
                    del self.keepers[keeper]
                    keeper.release()
        ready = [k for k in self.unsent if not k.unsent]
        self.unsent = [k for k in self.unsent if k.unsent]
        for keeper in ready:
            self._offer(keeper)
        turn, self.turn = self.turn, None
        if turn is not None and not turn.done():
            turn.set_result(None)
        for lane in self.lanes.values():
            while lane.queue and now - lane.queue[0].since > QUEUE_SECONDS:
                self._drop(lane, lane.queue.popleft(), "busy")
            if lane.queue:
                self._pump(lane)

    def _pump(self, lane: Lane) -> None:
        """Sends what can go now, oldest first; a job whose candidate has no free replica lets others pass."""
        full: set[Candidate] = set()
        for job in [*lane.queue]:
            if self.stopping or len(lane.running) >= lane.plan.config.concurrency:
                return
            if job.candidate in full:
                continue
            found = free((job.candidate,), self._wanted)
            if found is None:
                full.add(job.candidate)
                continue
            lane.queue.remove(job)
            self._begin(lane, job, found[1])

    def _begin(self, lane: Lane, job: Job, decision: Decision) -> None:
        """Sends a job, unless its request cannot be sent there or there is no money for it."""
        candidate, keeper = job.candidate, job.keeper
        try:
            asked = keeper.chat()
        except Fault:  # it is no chat document, such as one with hosted tools
            self._drop(lane, job, "untranslatable")
            return
        doc = asked if candidate.changes is None else candidate.changes.apply(asked)
        doc = wire.drop(doc, decision.target.unsupported)
        expected = likely(candidate, doc)
        why = "large" if size_of(doc) > lane.plan.config.bytes else ""
        if expected is None and lane.budget.max_dollars is not None:
            why = "price"
        expected = expected or Cost()
        if not why and not lane.budget.book(expected, self.clock()):
            why = "spend"
        if why:
            self._drop(lane, job, why)
            return
        lane.running.append(job)
        task = asyncio.get_running_loop().create_task(self._run(lane, job, decision, asked, doc, expected))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _wanted(self, replica: Replica) -> bool:
        """Whether a user's call waits for the replica."""
        parked = self.core.parked
        return bool(parked) and any(replica in exchange.route.replicas for exchange in parked)

    async def _run(self, lane: Lane, job: Job, decision: Decision, asked: Doc, doc: Doc, expected: Cost) -> None:
        """One job from its sending to its pair."""
        pair: Pair | None = None
        try:
            sent = await self._send(lane, job, decision, doc, job.keeper.stream, expected)
            if sent.gave_way or sent.large:
                pair = self._pair(lane, job, "busy" if sent.gave_way else "large")
                return
            found = await self._compared(job, sent, asked)
            pair = found.pair
            if self._judged(lane, job) and sent.fault is None:
                pair = msgspec.structs.replace(pair, preferred=await self._judge(lane, job, asked, found))
        except asyncio.CancelledError:
            pair = self._pair(lane, job, "stopped")
            raise
        except Exception:
            log.exception("a bug: mirrored request %s", job.keeper.id.decode("latin-1"))
            pair = self._pair(lane, job, "bug")
        finally:
            lane.running.remove(job)
            self._done(lane, job, pair)
            self._pump(lane)

    async def _send(self, lane: Lane, job: Job, decision: Decision, doc: Doc, stream: bool, booked: Cost, arm: str = "") -> Sent:
        """Sends one request, the candidate's or the judge's, and settles what it cost."""
        candidate, clients = job.candidate, self.core.clients
        timeouts = candidate.timeouts
        call = call_for(job.keeper.id, arm or candidate.arm, doc, stream, clients.now)
        job.mirror = Mirror(decision.target.backend, lane.plan.config.bytes, asyncio.get_running_loop().create_future())
        job.replica = decision.replica
        spent = booked
        try:
            sent = await ask(self.core, job.mirror, decision, call, timeouts)
            tail = sent.tail
            usage = wire.usage(tail) if tail is not None else None
            if usage is not None:
                spent = cost(candidate, usage) or Cost()
            elif sent.fault is not None and not job.mirror.size:
                spent = Cost()  # nothing was answered
            self.core.recorder.put(recorded(call, lane.plan.counted, decision, sent, self.clock()), tail, decision.target)
            return sent
        finally:
            job.mirror = job.replica = None
            lane.budget.settle(booked, spent, self.clock())

    async def _compared(self, job: Job, sent: Sent, asked: Doc) -> Beside:
        keeper = job.keeper
        own = Own(keeper.api, keeper.stream, b"".join(keeper.parts), keeper.seconds, keeper.tail)
        schema = asked.get("response_format")
        about = Pair(self.clock(), keeper.experiment, job.candidate.arm, keeper.id.decode("latin-1"))
        price = job.candidate.at.target.price
        return await asyncio.get_running_loop().run_in_executor(self.thread, beside, about, own, sent, schema, price)

    # --- the judge
    def _judged(self, lane: Lane, job: Job) -> bool:
        config = lane.plan.config.judge
        return config is not None and bool(lane.plan.judges) and judge.drawn(job.keeper.id, config.share)

    async def _judge(self, lane: Lane, job: Job, asked: Doc, found: Beside) -> float | None:
        """What the judge says of the two answers; None where it cannot be asked, or says nothing that can be used."""
        config, judges = lane.plan.config.judge, lane.plan.judges
        assert config is not None
        first = judge.shadow_first(job.keeper.id, job.candidate.arm)
        doc = judge.question(config.prompt, asked, found.own, found.shadow, first)
        place = await self._place(judges)
        if place is None:
            return None
        at, decision = place
        doc = wire.drop(doc, decision.target.unsupported)
        expected = likely(at, doc)
        if expected is None and lane.budget.max_dollars is not None:
            return None
        expected = expected or Cost()
        if not lane.budget.book(expected, self.clock()):
            return None
        asking = Job(job.keeper, at, job.since)
        lane.running.append(asking)  # so that it gives way too
        try:
            sent = await self._send(lane, asking, decision, doc, False, expected, f"judge-{job.candidate.arm}")
        finally:
            lane.running.remove(asking)
        if sent.fault is not None:
            return None
        return judge.preferred(read("chat", False, sent.body).text, first)

    async def _place(self, candidates: tuple[Candidate, ...]) -> tuple[Candidate, Decision] | None:
        """The first free replica, waited for a little while."""
        end = self.core.clients.now + JUDGE_SECONDS
        while (found := free(candidates, self._wanted)) is None:
            if self.core.clients.now > end or self.stopping:
                return None
            if self.turn is None:
                self.turn = asyncio.get_running_loop().create_future()
            await asyncio.wait({self.turn})
        return found

    # --- ends
    def _leave(self, lane: Lane, id: bytes, candidates: Sequence[Candidate], why: str) -> None:
        """Nothing is mirrored of a request to these."""
        for candidate in candidates:
            lane.counts[candidate.arm, why] += 1
            self.pair(Pair(self.clock(), lane.plan.experiment, candidate.arm, id.decode("latin-1"), left_out=why))

    def _pair(self, lane: Lane, job: Job, why: str) -> Pair:
        return Pair(self.clock(), lane.plan.experiment, job.candidate.arm, job.keeper.id.decode("latin-1"), left_out=why)

    def _drop(self, lane: Lane, job: Job, why: str) -> None:
        """A job that waited is left out."""
        self._done(lane, job, self._pair(lane, job, why))

    def _done(self, lane: Lane, job: Job, pair: Pair | None) -> None:
        """A job has come to its end: what it kept is let go, what was found goes to the store."""
        job.keeper.jobs -= 1
        if not job.keeper.jobs:
            job.keeper.release()
        if pair is not None:
            lane.counts[job.candidate.arm, pair.left_out or ("failed" if pair.failed else "ok")] += 1
            self.pair(pair)

    def _empty(self, lane: Lane, why: str, keep: Plan | None = None) -> None:
        """Leaves out the jobs that wait, but for those whose candidates stay, which go on with the new ones."""
        names = {candidate.arm: candidate for candidate in keep.candidates} if keep is not None else {}
        waiting, lane.queue = lane.queue, type(lane.queue)()
        for job in waiting:
            if job.candidate.arm in names:
                job.candidate = names[job.candidate.arm]
                lane.queue.append(job)
            else:
                self._drop(lane, job, why)

    def cut(self) -> None:
        """Ends all that is under way, at once: the gateway stops. Idempotent."""
        self.stopping = True
        for lane in self.lanes.values():
            self._empty(lane, "stopped")
        for keeper in [*self.keepers, *self.unsent]:
            keeper.release()
        self.keepers.clear()
        self.unsent.clear()
        for task in self.tasks:
            task.cancel()

    async def stop(self) -> None:
        """As `cut`; all is given back when it returns."""
        self.cut()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.thread.shutdown(wait=False, cancel_futures=True)


def gauges(figures: Metrics, shadows: Callable[[], Shadows | None]) -> None:
    """Registers what shadows count in this process. `shadows`: where there are any now."""

    def counted() -> list[tuple[dict[str, str], float]]:
        found = shadows()
        lanes = found.lanes if found is not None else {}
        return [
            ({"experiment": name, "arm": arm, "outcome": what}, float(n))
            for name, lane in lanes.items()
            for (arm, what), n in lane.counts.items()
        ]

    def spent() -> list[tuple[dict[str, str], float]]:
        found = shadows()
        return [({"experiment": name}, lane.budget.dollars) for name, lane in found.lanes.items()] if found is not None else []

    figures.callback("pointsman_shadow_requests_total", "Requests mirrored to candidates, by what became of them.", counted, kind="counter")
    figures.callback("pointsman_shadow_spent_dollars", "What mirrored requests have cost today (UTC).", spent)
