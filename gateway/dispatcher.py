"""The owner of one KV-aware scheduler (`routing.kv`): replicas by number, calls that are held, and what each of them hears.

Routes that share replicas share a `Dispatcher`, so that whatever is sent to one of them is booked, by whichever route and for whichever
reason (a hedge, the rest of an answer, another policy's choice). A reload keeps dispatchers whose replicas are still there; calls under way
keep the one that they came by. Everything here is plain and runs on the gateway's loop; `place` runs after first tokens, ends and peers'
news, once a turn of the loop, and every 10 ms while calls are held.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from backends.prompts import Hashing, Prompter
from routing import prefix
from routing.kv import Caps, Scheduler, Settings, Want
from routing.types import Replica

if TYPE_CHECKING:
    from gateway.feeds import Feeds
    from gateway.kv_route import KVPilot

TICK_SECONDS = 0.01
CAPS = Caps(held=4096, tenant_held=2048)
HASHING = Hashing(prefix.digest, prefix.text_blocks, prefix.token_blocks, prefix.salted, prefix.TEXT_BLOCK, prefix.TOKEN_BLOCK)


class Seat(msgspec.Struct, frozen=True):
    """How a replica joins: `limit` requests at once (None: any number), `learn` that from its pace, `hosted`: an API whose calls do not
    wait for each other and whose cache outlives minutes. `name`: what other gateways call it."""

    limit: int | None = None
    learn: bool = False
    hosted: bool = False
    name: int | None = None


class Dispatcher:
    """One scheduler and what it needs of the world. `name`: of its group of routes, the same on every gateway."""

    def __init__(self, name: str, prompter: Prompter, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.name, self.prompter, self.loop = name, prompter, loop
        self.scheduler = Scheduler(0, prefix.TOKEN_BLOCK, random.Random(), settings, caps=CAPS)
        self.numbers: dict[Replica, int] = {}
        self.names: dict[int, int] = {}  # what others call them -> number
        self.seats: dict[int, Seat] = {}
        self.waiting: dict[int, KVPilot] = {}  # held calls by their key
        self.feeds: Feeds | None = None
        self._keys = count(1)
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        load = self.scheduler.load
        return f"<Dispatcher {self.name}: {len(self.numbers)} replicas, {len(load)} booked, {len(self.waiting)} held>"

    # --- replicas
    def sync(self, wanted: Mapping[Replica, Seat]) -> None:
        """Its replicas from now on. Those that stay keep their numbers, caches and bookings."""
        scheduler = self.scheduler
        for replica in [r for r in self.numbers if r not in wanted]:
            number = self.numbers.pop(replica)
            self.seats.pop(number)
            if self.feeds is not None:
                self.feeds.unfollow(number)
            scheduler.leave(number)
        for replica, seat in wanted.items():
            if replica in self.numbers:
                if self.seats[self.numbers[replica]] != seat:
                    scheduler.set_limit(self.numbers[replica], seat.limit, seat.learn)
                    self.seats[self.numbers[replica]] = seat
                continue
            ttl, least = (300.0, 1024) if seat.hosted else (None, 0)
            number = scheduler.join(seat.limit, learn=seat.learn, ttl=ttl, least=least, parallel=seat.hosted)
            self.numbers[replica], self.seats[number] = number, seat
        self.names = {seat.name: number for number, seat in self.seats.items() if seat.name is not None}
        self.soon()

    def restarted(self, replica: Replica) -> None:
        """The engine behind it lost its cache."""
        number = self.numbers.get(replica)
        if number is None:
            return
        if self.feeds is not None:
            self.feeds.restarted(number)
        self.scheduler.restarted(number)

    def name_of(self, number: int) -> int | None:
        """What other gateways call a replica."""
        seat = self.seats.get(number)
        return seat.name if seat is not None else None

    def number_of(self, name: int) -> int | None:
        """The replica that all gateways call so; None where it is not one of ours."""
        return self.names.get(name)

    # --- calls
    def key(self) -> int:
        """A key for one attempt."""
        return next(self._keys)

    def soon(self) -> None:
        """Something changed: held calls are looked at once this turn of the loop is over."""
        if self.waiting and not self._soon:
            self._soon = True
            self.loop.call_soon(self._place)

    def _place(self) -> None:
        self._soon = False
        if self.waiting:
            self.go(self.scheduler.place(monotonic()))
            self.watch()

    def watch(self) -> None:
        """Looks again in 10 ms while calls are held."""
        if self.waiting and self._timer is None:
            self._timer = self.loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._place()

    def go(self, placed: Iterable[tuple[Want, int]]) -> None:
        """Sends held calls where they were placed."""
        for want, number in placed:
            pilot = self.waiting.pop(want.key, None)  # type: ignore[call-overload]
            if pilot is None:
                self.scheduler.ended(want.key, monotonic())
            else:
                pilot.placed = number
                pilot.exchange.core.send_on(pilot.exchange)

    def close(self) -> None:
        """Stops looking. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.feeds is not None:
            self.feeds.close()
            self.feeds = None
