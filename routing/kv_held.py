"""The requests that wait here: in lanes, so that each tenant's can be seen however many another has. Plain state, no clock.

A lane is one priority band, tenant and mask of usable replicas: what differs in one of these must not be hidden behind the rest.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import islice

from routing.fair import Fair
from routing.kv_want import Want

Lane = dict[Hashable, Want]  # in order of arrival


class Sums:
    """What waits of one tenant in one band: requests, prompt tokens, seconds of prefill."""

    __slots__ = ("count", "seconds", "tokens")

    def __init__(self) -> None:
        self.count, self.tokens, self.seconds = 0, 0, 0.0

    def add(self, w: Want, sign: int) -> None:
        """One more, or one less."""
        self.count += sign
        self.tokens += sign * w.tokens
        self.seconds = self.seconds + sign * w.least if self.count else 0.0  # no rounding is carried on


class Held:
    """Owner of the requests that wait. `add` and `remove` are O(1) but for the fair order."""

    __slots__ = ("_lanes", "_skip", "_sums", "all", "fair", "tokens")

    def __init__(self, fair: Fair) -> None:
        self.fair = fair
        self.all: dict[Hashable, Want] = {}
        self.tokens = 0
        self._lanes: dict[int, dict[str, dict[int, Lane]]] = {}  # band -> tenant -> usable
        self._sums: dict[int, dict[str, Sums]] = {}
        self._skip = 0  # lanes that were looked at in vain

    def __len__(self) -> int:
        return len(self.all)

    def __bool__(self) -> bool:
        return bool(self.all)

    def add(self, w: Want) -> None:
        """The request waits. ValueError when one of its key does already."""
        if w.key in self.all:
            raise ValueError(f"request {w.key!r} is waiting already; end it before it is asked for again")
        self.all[w.key] = w
        self.tokens += w.tokens
        self._lanes.setdefault(w.band, {}).setdefault(w.tenant, {}).setdefault(w.usable, {})[w.key] = w
        self._sums.setdefault(w.band, {}).setdefault(w.tenant, Sums()).add(w, 1)
        self.fair.arrive(w.tenant, w.share)

    def remove(self, key: Hashable) -> Want | None:
        """It no longer waits; None when it did not."""
        w = self.all.pop(key, None)
        if w is None:
            return None
        self.tokens -= w.tokens
        tenants, sums = self._lanes[w.band], self._sums[w.band]
        masks = tenants[w.tenant]
        lane = masks[w.usable]
        del lane[key]
        sums[w.tenant].add(w, -1)
        if not lane:
            del masks[w.usable]
        if not masks:
            del tenants[w.tenant], sums[w.tenant]
        if not tenants:
            del self._lanes[w.band], self._sums[w.band]
        self.fair.depart(w.tenant)
        return w

    def window(self, most: int) -> list[Want]:
        """At most `most` requests to be looked at, two at least of each lane for which there is room: high bands first, within a band the
        least served tenants. Of a lane that is too long half of its part are the oldest and half the newest. When nothing of the last
        window could go (`looked`), the lanes after those have their turn."""
        if len(self.all) <= most:
            return list(self.all.values())
        lanes = list(islice(self._by_turn(), self._skip, self._skip + most // 2))
        if not lanes:
            self._skip = 0
            lanes = list(islice(self._by_turn(), most // 2))
        out: list[Want] = []
        for k, lane in enumerate(lanes):
            part = (most - len(out)) // (len(lanes) - k)
            if len(lane) <= part:
                out += lane.values()
            else:
                half = part // 2
                out += [*islice(lane.values(), half), *islice(reversed(lane.values()), part - half)]
        return out

    def looked(self, lanes: int, found: bool) -> None:
        """To be told: something in the last window, of at most so many `lanes`, could go, or nothing."""
        self._skip = 0 if found else self._skip + lanes

    def oldest(self, tenant: str | None = None) -> Want | None:
        """Who has waited longest, of all or of one tenant. O(lanes) for one tenant."""
        if tenant is None:
            return next(iter(self.all.values()), None)
        firsts = [next(iter(lane.values())) for tenants in self._lanes.values() for lane in tenants.get(tenant, {}).values()]
        return min(firsts, key=lambda w: w.at, default=None)

    def of(self, tenant: str) -> Sums:
        """What waits of one tenant, over all bands. O(bands)."""
        out = Sums()
        for sums in self._sums.values():
            if tenant in sums:
                mine = sums[tenant]
                out.count, out.tokens, out.seconds = out.count + mine.count, out.tokens + mine.tokens, out.seconds + mine.seconds
        return out

    def seconds(self) -> float:
        """Seconds of prefill that wait in all. O(bands * tenants)."""
        return sum(s.seconds for sums in self._sums.values() for s in sums.values())

    def ahead(self, w: Want) -> tuple[float, float]:
        """Requests and seconds that go before a request, held already or not: all of higher bands, and of its own as many as fair shares
        let pass while those of its own tenant that came before it go. O(bands * tenants + requests of its own)."""
        waits = w.key in self.all
        own, mine = self.own(w) if waits else self.mine(w.band, w.tenant), (int(waits), w.least if waits else 0.0)
        times = self.fair.weight(w.tenant, w.share)
        above, same = [0, 0.0], [0, 0.0]
        for band, sums in self._sums.items():
            if band >= w.band:
                to = same if band == w.band else above
                for s in sums.values():
                    to[0] += s.count
                    to[1] += s.seconds
        count = above[0] + min(same[0] - mine[0], own[0] * times)
        return count, above[1] + min(max(0.0, same[1] - mine[1]), own[1] * times)

    def own(self, w: Want) -> tuple[int, float]:
        """Requests and seconds of its own tenant and band that came before a request that waits. O(those)."""
        count, seconds = 0, 0.0
        for lane in self._lanes[w.band][w.tenant].values():
            for other in lane.values():
                if other is w or other.at > w.at:
                    break
                count, seconds = count + 1, seconds + other.least
        return count, seconds

    def mine(self, band: int, tenant: str) -> tuple[int, float]:
        """Requests and seconds that wait of a tenant in a band."""
        sums = self._sums.get(band, {}).get(tenant)
        return (0, 0.0) if sums is None else (sums.count, sums.seconds)

    def check(self) -> None:
        """AssertionError when lanes, sums or fair order do not hold just what waits. For tests."""
        lanes = [lane for tenants in self._lanes.values() for masks in tenants.values() for lane in masks.values()]
        assert all(lanes) and {k: w for lane in lanes for k, w in lane.items()} == self.all, "the lanes do not hold what waits"
        assert self.tokens == sum(w.tokens for w in self.all.values()), "tokens that wait do not add up"
        for band, tenants in self._sums.items():
            for tenant, s in tenants.items():
                mine = [w for w in self.all.values() if (w.band, w.tenant) == (band, tenant)]
                assert (s.count, s.tokens) == (len(mine), sum(w.tokens for w in mine)), f"{tenant!r} in band {band} does not add up"
                assert abs(s.seconds - sum(w.least for w in mine)) < 1e-6, f"seconds of {tenant!r} in band {band} do not add up"
        assert sorted(self.fair.waiting()) == sorted({w.tenant for w in self.all.values()}), "those that wait in fair order are others"
        self.fair.check()

    def _by_turn(self) -> Iterator[Lane]:
        order = self.fair.waiting()
        for band in sorted(self._lanes, reverse=True):
            tenants = self._lanes[band]
            for name in order:
                if name in tenants:
                    yield from tenants[name].values()
