"""The link to a llama.cpp engine of ours that owns its slots: every request is told which to take, and KV moves where that is quicker.

What becomes of a request (`place`):
1. A short one, or one for whom that is not worth it, takes the idle slot that holds most of its prompt.
2. One whose prefix is being computed waits for that, if that is predicted to be no later than computing it itself (`group`).
3. One whose prefix is in the store has it restored, if that is quicker.
4. One whose prefix lies in an idle slot of another replica has it saved there and restored here, if that is quicker.
5. One whose prefix is in a busy slot, which cannot be saved, is the second of several: its prompt is computed, saved, and then it goes.
6. Before a slot loses a long prompt that is not in the store, it is saved, as llama.cpp itself would do in its own cache.
No idle slot: it waits here, in order. llama.cpp would do the same, but without knowing which slot is best.

All of it is guessed from text and learned times; whatever fails is left out, and the request goes as it would have gone. Requests whose
slot must not be chosen (several choices, images, `id_slot` of their own, embeddings) pass as they are.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec

from backends.engines import sizing
from backends.openai import Guard, OpenAILink
from backends.slots import table
from backends.slots.group import Group
from backends.slots.line import Line
from backends.slots.moves import Moves, within
from backends.slots.ride import Ride, Truth
from backends.slots.shared import Shared
from backends.slots.store import Kept
from backends.slots.table import Slot, Table
from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts

log = logging.getLogger("pointsman.slots")
SETTLE = 5.0  # seconds
MAX_WAITS = 3  # groups that one request may wait for


class SlotLink(OpenAILink):
    """A `routing.types.Link`. All its state belongs to the event loop."""

    __slots__ = ("bare", "batch", "line", "moves", "shared", "table", "tasks", "threads")

    def __init__(
        self,
        bare: OpenAILink,
        shared: Shared,
        slots: int,
        *,
        guard: Guard | None = None,
        context: int = sizing.DEFAULT_CONTEXT,
        threads: int = 1,
    ) -> None:
        """`bare` reaches the engine and refuses nothing: `guard` is asked here, once, when a request comes."""
        for name in OpenAILink.__slots__:  # the same address, heads and limits
            setattr(self, name, getattr(bare, name))
        self.bare, self.guard = bare, guard
        self.shared, self.table, self.threads = shared, Table(slots), threads
        self.batch = sizing.batch(context, sizing.SMALL_MODEL, False, slots)  # tokens; the smaller one until the model's size is known
        self.line = Line(self._late)
        self.moves = Moves(bare, shared)
        self.tasks: set[asyncio.Task[None]] = set()
        shared.links.add(self)
        self.spawn(self._meet(context))

    def __copy__(self) -> OpenAILink:
        """What writes the same requests without owning anything; see `backends.prepare`."""
        twin = copy.copy(self.bare)
        twin.guard = self.guard
        return twin

    # --- Link
    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight:
        """Sends the call in a slot, or keeps it until it can go. Raises `Fault` when this engine must not or cannot be asked that."""
        if self.guard is not None or self.quirks:
            call = msgspec.structs.replace(call, doc=self._guarded(call.doc))
        text = table.text_of(call.api, call.doc)
        if text is None:
            self._stranger()
            return self.bare.send(call, target, timeouts, receiver)
        if not call.private:
            self.shared.watch.see(call.model, call.tenant, text)
        ride = Ride(self, call, target, timeouts, receiver, text)
        self.place(ride)
        return ride

    def close(self) -> None:
        """Closes idle connections; flights under way finish, and so do those that wait."""
        self.shared.links.discard(self)
        self.bare.close()

    async def stop(self) -> None:
        """Closes everything, at the gateway's end. Returns when it is done."""
        await self.settled()
        self.close()
        await self.bare.stop()
        for task in [*self.tasks]:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def settled(self) -> None:
        """Waits, a few seconds at most, until what is to outlive the engine is saved. To be called before it stops."""
        if self.shared.store.lasting is not None and self.tasks:
            await asyncio.wait(self.tasks, timeout=SETTLE)

    # --- choosing
    def place(self, ride: Ride) -> None:
        """Decides what happens to a request now, and begins it. Raises `Fault` when it is sent and cannot be."""
        now, shared, text = _now(), self.shared, ride.text
        slot, kept = self.table.nearest(text, now)
        if len(text) < table.SMALL or ride.alone or not shared.moves:
            self._take_or_wait(ride, slot)
            return
        entry, held = shared.store.find(text, shared.speed.ratio)
        group, offer = self._offer(ride, now)
        choice = table.choose(len(text), kept, entry, held, offer, shared.speed)
        if choice == "wait" and group is not None and offer is not None:
            shared.counts.waited += 1
            group.join(ride, offer.shared, shared.speed.compute(len(text)))
        elif slot is None:
            self._wait(ride)
        elif choice == "restore" and entry is not None:
            self.bring([ride], entry)
        else:
            if held > kept:
                shared.speed.spurn()
            self._compute(ride, slot, kept, held, now)

    def _wait(self, ride: Ride) -> None:
        """No slot is idle: the engine would let it wait, too, and for no longer."""
        self.line.add(ride, (ride.timeouts or self.timeouts).first_byte)

    def _late(self, ride: Ride) -> None:
        seconds = (ride.timeouts or self.timeouts).first_byte
        message = f"Backend {self.pool.name} had no slot free within {seconds:g} s."
        ride.fail(Fault("timeout", message, origin="backend", code="first_byte_timeout", retry=True))

    def _take_or_wait(self, ride: Ride, slot: Slot | None) -> None:
        if slot is None:
            self._wait(ride)
        else:
            self._go(ride, self.table.take(slot))

    def _offer(self, ride: Ride, now: float) -> tuple[Group | None, table.Computing | None]:
        """The group that is computing most of what `ride` needs."""
        if ride.waits >= MAX_WAITS:
            return None, None
        found = [(group, group.offer(ride.text, self, now)) for group in self.shared.groups]
        found = [each for each in found if each[1].shared >= table.SIMILAR]
        return max(found, key=lambda each: (each[1].shared, -each[1].left), default=(None, None))

    def _compute(self, ride: Ride, slot: Slot, kept: int, held: int, now: float) -> None:
        """No KV is at hand but what `slot` keeps: `ride` computes the rest, and it is seen to that others need not."""
        speed, text = self.shared.speed, ride.text
        best = max(kept, held)
        if self._borrow(ride, best, now):
            return
        seen = max(link.table.sibling(text) for link in self.shared.links | {self})
        again = (
            seen >= table.SMALL and held < table.BOILERPLATE * seen and speed.pays(seen)
        )  # a prefix of several, which is not in the store
        self.table.take(slot)
        if again and seen <= kept < len(slot.text):
            self._lead(Group(self, ride, slot, slot.text, now, 0.0)).save()
        elif again and kept < table.BOILERPLATE * seen:
            self.shared.counts.primes += 1
            self._lead(Group(self, ride, slot, text, now, speed.compute(len(text) - kept))).save(prime=True)
        elif self.shared.losing(slot, kept):
            self._lead(Group(self, ride, slot, slot.text, now, 0.0)).save()
        else:
            self._go(ride, slot)
            if not ride.over and speed.pays(len(text) - kept):
                ride.leads = self._lead(Group(self, ride, slot, text, now, speed.compute(len(text) - kept)))

    def _lead(self, group: Group) -> Group:
        self.shared.groups.add(group)
        return group

    def _borrow(self, ride: Ride, best: int, now: float) -> bool:
        """Lets an idle slot of another replica be saved for `ride`, if that spares more than `best` bytes and pays."""
        speed = self.shared.speed
        for link in self.shared.links - {self}:
            slot, there = link.table.nearest(ride.text, now)
            if slot is not None and there > best and speed.pays(there - best) and ride.waits < MAX_WAITS:
                link.table.take(slot)
                group = self._lead(Group(link, None, slot, slot.text, now, 0.0))
                group.save()
                group.join(ride, there, speed.compute(len(ride.text)))
                return True
        return False

    def delay(self, group: Group, now: float) -> float:
        """Seconds until a leader may be called back with the shared part computed. A prompt of one batch is computed whole in any case."""
        speed = self.shared.speed
        if speed.tokens(len(group.text)) <= self.batch:
            return 0.0
        notice = 0.0 if group.leader is not None and group.leader.call.stream else table.NOTICE / 2
        return max(0.0, group.began + speed.compute(group.shared) - notice - now)

    # --- doing
    def _go(self, ride: Ride, slot: Slot) -> None:
        """Sends `ride` in `slot`, which is taken. Raises `Fault`."""
        ride.quiet = sum(each.busy for each in self.table.slots) == 1
        call = msgspec.structs.replace(ride.call, doc=within(ride.call.doc, slot, ride.text))
        slot.hold(ride.text, ride.call.private)
        try:
            ride.flight = self.bare.send(call, ride.target, ride.timeouts, ride)
        except Fault:
            self._free(slot)
            raise
        ride.slot = slot
        if ride.paused:
            ride.flight.pause()

    def again(self, ride: Ride) -> None:
        """`place` for one that has waited: a fault goes to its receiver."""
        if not ride.over:
            try:
                self.place(ride)
            except Fault as fault:
                ride.fail(fault)

    def _go_late(self, ride: Ride, slot: Slot) -> None:
        """`_go` for one that has waited, if it is still wanted; else the slot is let go."""
        if ride.over:
            self._free(slot)
            return
        try:
            self._go(ride, slot)
        except Fault as fault:
            ride.fail(fault)

    def serve(self, rides: Sequence[Ride], kept: Kept | None) -> None:
        """Requests of this link whose group is through."""
        rides = [ride for ride in rides if not ride.over]
        if kept is not None and rides:
            self.bring(rides, kept)
            return
        for ride in rides:
            asyncio.get_running_loop().call_soon(self.again, ride)

    def after(self, leader: Ride | None, slot: Slot | None) -> None:
        """A group is through; `slot`, if it had one, goes on to its leader."""
        if leader is not None:
            leader.leads = None
        if slot is None:
            return
        if leader is None:
            self._free(slot)
        else:
            self._go_late(leader, slot)

    def bring(self, rides: Sequence[Ride], entry: Kept) -> None:
        """Restores `entry` for requests that go together when all have it: their own parts are then computed in one batch."""
        wave: list[tuple[Ride, Slot]] = []
        for ride in rides:
            slot = self.table.spare(_now())
            if slot is None:
                self._wait(ride)
            else:
                wave.append((ride, self.table.take(slot)))
        if wave:
            self.spawn(self._wave(wave, entry))

    async def _wave(self, wave: Sequence[tuple[Ride, Slot]], entry: Kept) -> None:
        entry.pins += 1
        done: Sequence[bool] = [False] * len(wave)
        try:
            await asyncio.gather(*(self.moves.rescue(slot, entry.text) for _, slot in wave))
            if await self.shared.store.ready(entry, self.shared.speed):
                done = await asyncio.gather(*(self.moves.restore(slot, entry) for _, slot in wave))
                if not any(done):
                    await self.shared.store.refuse(entry)
            else:
                self.shared.counts.failed += 1
        finally:
            entry.pins -= 1
            for (ride, slot), good in zip(wave, done, strict=True):
                ride.expected = table.common(entry.text, ride.text) if good else 0
                self._go_late(ride, slot)

    async def _meet(self, context: int) -> None:
        """How large the model is, is the first guess of how long it computes."""
        found = await self.moves.parameters()
        if found > 0:
            self.shared.speed.expect(found, self.threads)
            self.batch = sizing.batch(context, found, False, len(self.table.slots))

    # --- from rides
    def headed(self, ride: Ride, status: int) -> bool:
        """A leader's prompt is computed: its answer begins, or (`status` 0) is over. True when nobody may see it: others wait for what the
        slot holds now, so the leader is called back."""
        group = ride.leads
        if group is None:
            return False
        if status == 200 and group.members:
            group.call_back()
            return True
        ride.leads = None
        group.disband()
        return False

    def ended(self, ride: Ride, told: Truth | None) -> None:
        """A request is through."""
        slot, ride.slot = ride.slot, None
        self.moves.learn(ride.text, told, quiet=ride.quiet)
        if told is not None and ride.expected:
            self.shared.judged(told.cached, self.shared.speed.tokens(ride.expected))
            if not self.shared.moves:
                log.warning("engine %s: restored KV was computed again; its KV is not moved any more", self.pool.name)
        if slot is None:
            return
        if told is not None:
            slot.settle(ride.text, ride.call.private)
        if told is not None and not self.line and self.shared.lasts(slot):
            self._lead(Group(self, None, slot, slot.text, _now(), 0.0)).save()  # whoever wants it meanwhile waits for that
        else:
            self._free(slot)

    def left(self, ride: Ride) -> None:
        """A request was given up, wherever it was."""
        self.line.remove(ride)
        if ride.group is not None:
            ride.group.leave(ride)
        group, ride.leads = ride.leads, None
        slot, ride.slot = ride.slot, None
        if group is not None and group.members:
            group.save(recalled=True)  # it goes on for those who wait; the slot is the group's
            return
        if group is not None:
            group.disband()
        if slot is not None:
            self._free(slot, _now() + table.NOTICE)

    def _free(self, slot: Slot, until: float = 0.0) -> None:
        self.table.free(slot, _now(), until)
        if self.line:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Places those who wait for a slot, in order, while there is one."""
        for _ in range(len(self.line)):
            if not self.line or self.table.spare(_now()) is None:
                return
            self.again(self.line.first())

    def _stranger(self) -> None:
        """The engine chooses a slot itself, most likely the one that we would lose: it holds nothing we know of any more."""
        slot = self.table.spare(_now())
        if slot is not None:
            slot.text, slot.used = b"", _now()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `work` to its end; what it raises is a bug, and logged."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a bug: moving KV of %s", self.pool.name, exc_info=error)


def _now() -> float:
    return asyncio.get_running_loop().time()
