"""Whether a request should be taken in at all, and how long one that waits will wait: predictions from what is held and under way.

A request waits for the work before it at the rate of the replicas it may use, and, where slots are counted, for as many ends as there are
requests too many. What goes before it is the higher bands, and of its own band at most so much as fair shares let pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from routing.kv_choice import MARGIN
from routing.kv_held import Held
from routing.kv_load import Load
from routing.kv_model import PrefillModel
from routing.kv_want import NEVER, Caps, Refusal, Want


class Outlook:
    """Predicts; changes nothing. Every method is O(replicas + bands * tenants)."""

    __slots__ = ("held", "load", "model")

    def __init__(self, held: Held, load: Load, model: PrefillModel) -> None:
        self.held, self.load, self.model = held, load, model

    def ttft(self, w: Want, replicas: Sequence[int], ahead: tuple[float, float], now: float) -> float:
        """Seconds from now to its first token on one of `replicas`, with so many requests and seconds before it; NEVER without any."""
        if not replicas:
            return NEVER
        load, count = self.load, ahead[0]
        if not count:
            error = self.model.error
            return min(load.backlog(i, now) + load.slot(i) + w.prefill[i] + MARGIN * error[i] for i in replicas)
        own = min(w.prefill[i] + MARGIN * self.model.error[i] for i in replicas)
        return max(self._work(replicas, ahead[1], now), self._slots(replicas, count)) + own

    def drain(self, replicas: Sequence[int], now: float) -> float:
        """Seconds until all that is held now has been sent; NEVER without replicas."""
        if not replicas:
            return NEVER
        return max(self._work(replicas, self.held.seconds(), now), self._slots(replicas, len(self.held)))

    def free(self, replicas: Sequence[int], hold: float, now: float) -> bool:
        """Whether one of them can take a request at once."""
        return any(not self.load.full(i) and self.load.backlog(i, now) <= hold for i in replicas)

    def capped(self, w: Want, caps: Caps, replicas: Sequence[int], now: float) -> Refusal | None:
        """The first cap that keeps it out, None when none does."""
        held, own = self.held, self.held.of(w.tenant)
        first, mine = held.oldest(), held.oldest(w.tenant)
        age, own_age = (0.0 if x is None else now - x.at for x in (first, mine))
        # cap, its value, what waits, what would with this one
        rows: tuple[tuple[str, float | None, int, int], ...] = (
            ("tenant_held", caps.tenant_held, own.count, own.count + 1),
            ("tenant_tokens", caps.tenant_tokens, own.tokens, own.tokens + w.tokens),
            ("held", caps.held, len(held), len(held) + 1),
            ("tokens", caps.tokens, held.tokens, held.tokens + w.tokens),
        )
        for cap, most, waits, would in rows:
            counted = cap.endswith("held")
            if most is not None and would > most and (counted or waits):  # one long prompt alone may wait, however long
                share = min(1.0, (would - most) / max(1, waits))
                return Refusal(cap, most, waits if counted else would, self._after(share, replicas, now))
        for cap, oldest_allowed, is_old in (("tenant_age", caps.tenant_age, own_age), ("age", caps.age, age)):
            if oldest_allowed is not None and is_old > oldest_allowed:
                return Refusal(cap, oldest_allowed, is_old, self._after(1 / len(held), replicas, now))
        return None

    def late(self, w: Want, replicas: Sequence[int], now: float) -> Refusal | None:
        """A refusal when its first token is predicted after its deadline."""
        if w.deadline is None or not replicas:
            return None
        took = max(0.0, now - w.at) + self.ttft(w, replicas, self.held.ahead(w), now)
        if took <= w.deadline:
            return None
        alone = min(w.prefill[i] + MARGIN * self.model.error[i] for i in replicas)
        return Refusal("deadline", w.deadline, took, took - w.deadline if alone <= w.deadline else None)

    def _after(self, share: float, replicas: Sequence[int], now: float) -> float | None:
        drain = self.drain(replicas, now)
        return None if drain == NEVER else drain * share

    def _work(self, replicas: Sequence[int], seconds: float, now: float) -> float:
        return (sum(self.load.backlog(i, now) for i in replicas) + seconds) / len(replicas)

    def _slots(self, replicas: Sequence[int], count: float) -> float:
        """Seconds until `count` requests and one more have found slots; 0.0 where one of the replicas has no limit."""
        slots, used, rate = 0, 0, 0.0
        for i in replicas:
            limit = self.load.limits[i]
            if limit is None:
                return 0.0
            slots, used = slots + limit, used + self.load.inflight(i)
            rate += limit / max(1e-3, self.load.writing[i])
        return max(0.0, count + 1 - max(0, slots - used)) / rate
