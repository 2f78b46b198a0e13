"""Requests that wait for one prefix: it is computed once, by the first of them, then saved, restored for the others, and all go.

A request that comes alone is sent at once and pays nothing for any of this. When another comes that shares much of its prompt while
that is still being computed, the first is called back: its connection is closed. llama.cpp finishes the batch it is computing and keeps
in the slot what it has. Its prompt is then asked for once more, to be computed and nothing else, which waits in the engine until the slot
is free and costs one token where all is there (measured with 1,040 tokens: it is). Without that the slot would at times be saved before the
engine had begun with the first: they come to it by two of its threads. A stream notices a closed connection at its first token, a silent
request within a second (`table.NOTICE`).

A prompt of more than one batch must not be called back before its shared part is computed: then a timer does it, or its first byte.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from backends.slots.store import Kept
from backends.slots.table import Computing, Slot, common

if TYPE_CHECKING:
    from backends.slots.link import SlotLink
    from backends.slots.ride import Ride, Truth

WHOLE = 0.1  # of what was there when a leader was stopped: who computes less than that again had as good as all
LEAST, FACTOR = 30.0, 4.0  # seconds, and times what was predicted: whoever has waited longer than both goes alone


class Timer(Protocol):
    """What `loop.call_later` gives."""

    def cancel(self) -> None: ...


class Group:
    """`slot` of `link` holds, or will hold, the prefix; `members` wait. The leader computes it with its own prompt; there is none where it
    lies in an idle slot already. `shared`: bytes of text that all have in common. Its end comes once."""

    def __init__(self, link: SlotLink, leader: Ride | None, slot: Slot, text: bytes, began: float, seconds: float) -> None:
        self.link, self.leader, self.slot, self.text = link, leader, slot, text
        self.began, self.seconds = began, seconds  # monotonic; what computing is predicted to take
        self.members: dict[Ride, Timer] = {}
        self.shared = len(text)
        self.closing = self.ended = False  # closing: the leader is called back, or done; what is there is being saved
        self.timer: Timer | None = None

    def __repr__(self) -> str:
        return f"<Group of {len(self.members)} on {self.link.pool.name} slot {self.slot.id}{', closing' if self.closing else ''}>"

    def offer(self, text: bytes, link: SlotLink, now: float) -> Computing:
        """What waiting would give a request of `text` on `link`."""
        return Computing(common(self.text, text), max(0.0, self.began + self.seconds - now), link is self.link)

    def join(self, ride: Ride, shared: int, seconds: float) -> None:
        """`ride`, which would compute for `seconds` itself, waits from now on."""
        loop = asyncio.get_running_loop()
        ride.group = self
        ride.waits += 1
        self.members[ride] = loop.call_later(max(LEAST, FACTOR * (seconds + self.seconds)), self._late, ride)
        self.shared = min(self.shared, shared)
        if not self.closing and self.timer is None:
            self.timer = loop.call_later(self.link.delay(self, loop.time()), self.call_back)

    def leave(self, ride: Ride) -> None:
        """`ride` waits no longer."""
        timer = self.members.pop(ride, None)
        if timer is not None:
            timer.cancel()
        ride.group = None

    def _late(self, ride: Ride) -> None:
        """`ride` has waited for longer than anything would have taken: it goes its own way."""
        self.leave(ride)
        ride.alone = True
        ride.link.again(ride)

    def call_back(self) -> None:
        """Stops the leader where it is and saves what is there. Does nothing when it is closing already, or nobody waits."""
        self.timer = None
        if self.closing or not self.members or self.leader is None:
            return
        leader = self.leader
        flight, leader.flight, leader.head, leader.slot, leader.leads = leader.flight, None, None, None, None  # the slot is the group's
        if flight is not None:
            flight.cancel()
        self.save(recalled=True)
        self.link.shared.counts.primes += 1

    def save(self, *, prime: bool = False, recalled: bool = False) -> None:
        """From now on the slot is being saved, after the leader's prompt has been computed into it where `prime` says so or the leader was
        `recalled`, stopped while it computed; whoever joins is served by that."""
        self._close()
        self.link.spawn(self._finish(prime, recalled))

    def _close(self) -> None:
        self.closing = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    async def _finish(self, prime: bool, recalled: bool) -> None:
        """Without KV to restore each goes its own way."""
        moves, leader, kept = self.link.moves, self.leader, None
        try:
            if prime and leader is not None:
                await moves.rescue(self.slot, self.text)
            if (prime or recalled) and leader is not None:
                self._timed(leader, await moves.prime(leader, self.slot), recalled)
            kept = await moves.save(self.slot, self.text)
        finally:
            self._end(kept, alone=kept is None)

    def _timed(self, leader: Ride, told: Truth | None, recalled: bool) -> None:
        """Learns from a stream, which is stopped at its first token at the latest, where it had computed all when it was."""
        if recalled and leader.call.stream and told is not None and told.computed < WHOLE * told.cached:
            self.link.shared.speed.learn("prefill", (asyncio.get_running_loop().time() - self.began) / told.cached)

    def disband(self) -> None:
        """The leader is through, or failed, before anything was saved: whoever waits looks again."""
        if not self.closing:
            self._end(None, alone=False)

    def _end(self, kept: Kept | None, alone: bool) -> None:
        if self.ended:
            return
        saving = self.closing
        self._close()
        self.ended = True
        self.link.shared.groups.discard(self)
        members = [*self.members]
        for ride in members:
            self.leave(ride)
            ride.alone = alone
        self.link.after(self.leader, self.slot if saving else None)
        for link in {id(ride.link): ride.link for ride in members}.values():
            link.serve([ride for ride in members if ride.link is link], kept)
