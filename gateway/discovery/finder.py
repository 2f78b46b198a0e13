"""Who follows what for a fleet: one follower a backend, whose words come to the loop, one at a time and not too often."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from time import monotonic

import msgspec

from gateway.discovery.kubernetes import Follower, Seen
from gateway.discovery.slices import Endpoint, numbered, parse
from gateway.metrics import Metrics
from routing.types import Health

log = logging.getLogger("pointsman.discovery")
GAP_SECONDS = 0.1  # between two changes of one backend's replicas: each is a new generation of routes
STOP_SECONDS = 1.0
Follows = Callable[[Callable[[Seen], None], str], Follower]


class Located(msgspec.Struct, frozen=True):
    """Where a backend's servers are: what workers hear of their parent. `service` as the configuration has it, for which this holds;
    `members` by number; `health` and `reason` of a backend without members."""

    backend: str
    service: str
    members: dict[int, Endpoint] = {}
    health: Health = "loading"
    reason: str = "the Kubernetes API has not answered yet"


class _Followed:
    """One backend's follower, and what it said last."""

    def __init__(self, finder: Finder, backend: str, service: str) -> None:
        self.finder, self.backend, self.service = finder, backend, service
        self.first = asyncio.Event()  # set when anything is known, or why nothing is
        self.numbers: dict[str, int] = {}  # by URL
        self.count = {True: 0, False: 0}  # endpoints by whether they are ready
        self.stale: float | None = monotonic()  # since when nobody follows; None: somebody does
        self.trouble = self.problem = ""
        self._lock = threading.Lock()
        self._news: Seen | None = None
        self._late: asyncio.TimerHandle | None = None
        self._taken = -GAP_SECONDS
        self.follower = finder.follows(self.heard, service)
        self.follower.start()

    def heard(self, seen: Seen) -> None:
        """In the follower's thread: only the last news counts."""
        with self._lock:
            waiting, self._news = self._news is not None, seen
        if not waiting:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self.finder.loop.call_soon_threadsafe(self._soon)

    def _soon(self) -> None:
        if self._late is None:
            self._late = self.finder.loop.call_later(max(0.0, self._taken + GAP_SECONDS - monotonic()), self._take)

    def _take(self) -> None:
        self._late, self._taken = None, monotonic()
        with self._lock:
            seen, self._news = self._news, None
        if seen is None or self.finder.followed.get(self.backend) is not self:
            return
        self._tell_log(seen)
        self.first.set()
        self.finder.located(self._located(seen))

    def _located(self, seen: Seen) -> Located:
        found = seen.found
        if found is None:
            return Located(self.backend, self.service, {}, "down", f"{self.service}: {seen.trouble}")
        self.numbers = numbered(self.numbers, found.endpoints)
        self.count = {kind: sum(one.ready is kind for one in found.endpoints) for kind in (True, False)}
        members = {self.numbers[one.url]: one for one in found.endpoints}
        why = f"{self.service} has no endpoints{': ' if found.problem else ''}{found.problem}"
        return Located(self.backend, self.service, members, "down", why)

    def _tell_log(self, seen: Seen) -> None:
        problem = seen.found.problem if seen.found is not None else ""
        if seen.trouble and seen.trouble != self.trouble:
            kept = "" if seen.found is None else f"; its {len(seen.found.endpoints)} endpoints are kept as they were"
            log.warning("backend %s: %s is not followed: %s%s", self.backend, self.service, seen.trouble, kept)
        elif self.trouble and not seen.trouble:
            log.info("backend %s: %s is followed again", self.backend, self.service)
        if problem and problem != self.problem:
            log.warning("backend %s: %s: %s", self.backend, self.service, problem)
        self.trouble, self.problem = seen.trouble, problem
        if not seen.trouble:
            self.stale = None
        elif self.stale is None:
            self.stale = monotonic()

    def close(self) -> None:
        self.follower.stop()
        if self._late is not None:
            self._late.cancel()


class Finder:
    """All followers of a fleet. `located` is called on `loop` with what is known of a backend whenever that is new. Owned by the loop.

    `follows` makes a follower that is not started yet.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, located: Callable[[Located], None], follows: Follows | None = None) -> None:
        self.loop, self.located = loop, located
        self.follows = follows or (lambda tell, service: Follower(parse(service), tell))
        self.followed: dict[str, _Followed] = {}

    def follow(self, backend: str, service: str) -> None:
        """Follows a backend's Service from now on. Returns at once."""
        self.followed[backend] = _Followed(self, backend, service)

    def forget(self, backend: str) -> None:
        """Follows it no longer. Returns at once. Nothing happens when it is not followed."""
        found = self.followed.pop(backend, None)
        if found is not None:
            found.close()

    async def known(self) -> None:
        """Returns when every follower has said something, be it why it knows nothing."""
        for one in [*self.followed.values()]:
            await one.first.wait()

    def warnings(self) -> list[str]:
        """What an operator should know."""
        now = monotonic()
        return [
            f"Backend {one.backend}: {one.service} has not been followed for {now - one.stale:.0f} s: {one.trouble}."
            for one in self.followed.values() if one.trouble and one.stale is not None
        ] + [f"Backend {one.backend}: {one.service}: {one.problem}." for one in self.followed.values() if one.problem]  # fmt: skip

    def gauges(self, figures: Metrics) -> None:
        """Registers what is known and how old it is."""
        figures.callback(
            "pointsman_discovery_endpoints", "Endpoints of a backend's Kubernetes Service, by whether they are ready.",
            lambda: [
                ({"backend": one.backend, "ready": str(ready).lower()}, float(count))
                for one in self.followed.values() for ready, count in one.count.items()
            ],
        )  # fmt: skip
        figures.callback(
            "pointsman_discovery_stale_seconds", "How long a backend's endpoints have not been followed; 0: they are.",
            lambda: [
                ({"backend": one.backend}, 0.0 if one.stale is None else monotonic() - one.stale) for one in self.followed.values()
            ],
        )  # fmt: skip

    async def stop(self) -> None:
        """Ends all followers; waits for each of them a second at most."""
        followers = [one.follower for one in self.followed.values()]
        for backend in [*self.followed]:
            self.forget(backend)
        await asyncio.gather(*(asyncio.to_thread(follower.join, STOP_SECONDS) for follower in followers))
