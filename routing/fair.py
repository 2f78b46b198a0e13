"""Fair shares between tenants by what they were served, in tokens. Plain state, no clock.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024) with slack (as deficits have it in Cao et al.,
"Locality-aware Fair Scheduling in LLM Serving", 2025): a tenant's counter grows by what it is served over its share, uncached prompt tokens
and OUTPUT_WEIGHT for each of output. The counters are read in rounds of half a quantum: of those that can be served now, whoever is in the
lowest round goes first; within a round anything else may decide. Who waits for something is never more than a quantum and one request
behind another, in tokens over shares; whoever is alone gets everything.

A tenant that had nothing waiting saved up no more than half a quantum; a new one begins level with the one of those waiting that was served
most, so that new names win nothing. Counters are lowered by nothing but corrections.
"""

from __future__ import annotations

from bisect import bisect_left, insort

OUTPUT_WEIGHT = 4.0  # what a token of output costs, in uncached prompt tokens
TENANTS_MAX = 4096  # remembered while nothing of theirs waits


class _Tenant:
    __slots__ = ("count", "name", "share", "waiting")

    def __init__(self, name: str, count: float, share: float) -> None:
        self.name, self.count, self.share = name, count, share
        self.waiting = 0


class Fair:
    """Counters of all tenants. Every method is O(log tenants) but for moving a list; those without a verb of change only read.

    A request is `arrive`d when it begins to wait, `depart`ed when it stops waiting; what it costs is `charge`d at once by prediction
    and again, either way, when more is known.
    """

    __slots__ = ("_half", "_low", "_order", "_tenants")

    def __init__(self, quantum: float) -> None:
        if not quantum > 0.0:
            raise ValueError(f"a quantum must be above 0 tokens, not {quantum}")
        self._half = quantum / 2
        self._low = 0.0  # what the least served of those waiting had been served; only grows
        self._tenants: dict[str, _Tenant] = {}
        self._order: list[tuple[float, str]] = []  # of those that wait, least served first

    def arrive(self, name: str, share: float) -> None:
        """A request of the tenant waits from now on. `share`: its weight from now on, above 0."""
        if self._order:
            self._low = max(self._low, self._order[0][0])
        tenant = self._tenants.get(name)
        if tenant is None:
            if len(self._tenants) >= TENANTS_MAX:
                self._forget()
            tenant = self._tenants[name] = _Tenant(name, self._order[-1][0] if self._order else self._low, share)
        tenant.share = share
        tenant.waiting += 1
        if tenant.waiting == 1:
            tenant.count = max(tenant.count, self._low - self._half)
            insort(self._order, (tenant.count, name))

    def depart(self, name: str) -> None:
        """One of its requests no longer waits. KeyError when none did."""
        tenant = self._tenants[name]
        tenant.waiting -= 1
        if not tenant.waiting:
            del self._order[bisect_left(self._order, (tenant.count, name))]
            if not self._order:
                self._low = max(self._low, tenant.count)

    def through(self, name: str, share: float, tokens: float) -> None:
        """A request of the tenant goes at once while nobody's waits, and is served so many tokens: arrives, is charged and departs."""
        tenant = self._tenants.get(name)
        if tenant is None or self._order:
            self.arrive(name, share)
            self.charge(name, tokens)
            self.depart(name)
            return
        tenant.share = share
        count = tenant.count = max(tenant.count, self._low - self._half) + tokens / share
        if count > self._low:
            self._low = count

    def charge(self, name: str, tokens: float) -> None:
        """It is served so many tokens more, or fewer where a charge was too high. One that is not remembered is passed over."""
        tenant = self._tenants.get(name)
        if tenant is None:
            return
        if tenant.waiting:
            del self._order[bisect_left(self._order, (tenant.count, name))]
        tenant.count += tokens / tenant.share
        if tenant.waiting:
            insort(self._order, (tenant.count, name))

    def served(self, name: str) -> float:
        """Its counter: tokens over shares. 0.0 for one that is not known."""
        tenant = self._tenants.get(name)
        return 0.0 if tenant is None else tenant.count

    def round(self, name: str) -> int:
        """The lower, the sooner its turn. 0 for one that is not known."""
        tenant = self._tenants.get(name)
        return 0 if tenant is None else int(tenant.count // self._half)

    def waiting(self) -> list[str]:
        """Those for whom something waits, the least served first."""
        return [name for _, name in self._order]

    def weight(self, name: str, share: float) -> float:
        """How many times over a tenant of this share must wait while all that wait now are served beside it: 1.0 when it is alone."""
        others = sum(self._tenants[other].share for _, other in self._order if other != name)
        return (others + share) / share

    def check(self) -> None:
        """AssertionError when the order is not that of the counters. For tests."""
        assert self._order == sorted((t.count, t.name) for t in self._tenants.values() if t.waiting), (
            "the order is not that of the counters"
        )
        assert all(t.waiting >= 0 for t in self._tenants.values()), "fewer than no requests wait"

    def _forget(self) -> None:
        """Makes room: half of those for whom nothing waits, those that have least to lose by it first."""
        idle = sorted((t for t in self._tenants.values() if not t.waiting), key=lambda t: t.count)
        for t in idle[: len(idle) // 2 + 1]:
            del self._tenants[t.name]
