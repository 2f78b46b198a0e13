"""Whatever happens, in whatever order: what the scheduler counts is what is under way, nothing is stranded, and in the end all is zero."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from routing.kv import Caps, Scheduler, Settings, Want
from routing.kv_load import Load
from routing.kv_peers import SILENT_SECONDS, Foreign, Message, Peers

BLOCK = 64
TENANTS = st.sampled_from(["", "a", "b"])


class Life(RuleBasedStateMachine):
    """Requests come, are answered, fail, are cancelled; replicas come, go, restart, are trusted and not; events and peers say what they
    like."""

    @initialize(approximate=st.booleans(), window=st.sampled_from([4, 128]), seed=st.integers(0, 3))
    def begin(self, approximate: bool, window: int, seed: int) -> None:
        changed = Settings(hold=0.5, window=window)
        self.s = Scheduler(2, BLOCK, random.Random(seed), changed, 64 if approximate else 0, Caps(held=8, tenant_tokens=9000, age=20.0))
        self.peer = Peers(7, Load(8))
        self.now, self.count, self.number = 0.0, 0, 0
        self.out: dict[Any, int] = {}  # under way, as we told
        self.waits: set[Any] = set()

    def sent(self, placed: list[tuple[Want, int]]) -> None:
        s = self.s
        for w, i in placed:
            assert w.key in self.waits and w.key not in self.out and w.usable >> i & 1 and s.alive >> i & 1
            assert s.limit(i) is None or s.load.inflight(i) <= s.limit(i), "bound past the limit"
            self.waits.remove(w.key)
            self.out[w.key] = i

    def want(self, tokens: int, group: int, **more: Any) -> Want:
        self.count += 1
        return Want(f"r{self.count}", tokens, [(group, k) for k in range(tokens // BLOCK)], self.now, **more)

    @rule(
        tokens=st.integers(0, 5000), group=st.integers(0, 3), usable=st.sampled_from([-1, -1, 1, 6, 0]), band=st.integers(0, 1),
        tenant=TENANTS, share=st.sampled_from([0.5, 1.0, 4.0]), deadline=st.none() | st.floats(0, 20),
        output=st.none() | st.integers(0, 500),
        extra=st.none() | st.lists(st.floats(0, 2), max_size=3), home=st.none() | st.integers(0, 5), size=st.none() | st.floats(20, 100),
        streamed=st.booleans(), heed=st.booleans(),
    )  # fmt: skip
    def ask(self, tokens: int, group: int, heed: bool, **more: Any) -> None:
        w = self.want(tokens, group, **more)
        refusal = self.s.admit(w, self.now)
        if refusal is not None:
            assert refusal.reason and (refusal.retry_after is None or refusal.retry_after >= 0.0)
            if heed:
                return
        self.waits.add(w.key)
        self.sent(self.s.ask(w, self.now))
        place = self.s.position(w.key, self.now)
        assert (place is None) == (w.key in self.out)
        assert place is None or (1 <= place.number <= place.of and place.wait >= 0.0)

    @rule(tokens=st.integers(0, 5000), group=st.integers(0, 3), held=st.booleans(), data=st.data())
    def force(self, tokens: int, group: int, held: bool, data: st.DataObject) -> None:
        there = [i for i in range(self.s.n) if self.s.alive >> i & 1]
        if there:
            w = self.want(tokens, group, tenant="f")
            if held and self.waits:
                w = self.s.held.all[data.draw(st.sampled_from(sorted(self.waits)))]
                self.waits.remove(w.key)
            i = data.draw(st.sampled_from(there))
            self.s.force(w, i, self.now)
            self.out[w.key] = i

    @rule(step=st.floats(0, 2))
    def tick(self, step: float) -> None:
        self.now += step
        self.sent(self.s.place(self.now))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), cached=st.none() | st.integers(-5, 6000))
    def answer(self, data: st.DataObject, cached: int | None) -> None:
        self.s.answered(data.draw(st.sampled_from(sorted(self.out))), self.now, cached)

    @rule(data=st.data(), cached=st.none() | st.integers(-5, 6000), output=st.none() | st.integers(0, 900), longer=st.booleans())
    def end(self, data: st.DataObject, cached: int | None, output: int | None, longer: bool) -> None:
        key = data.draw(st.sampled_from([*sorted(self.out), *sorted(self.waits), "unknown"]))
        blocks = [(0, k) for k in range(9)] if longer else None
        b = self.s.ended(key, self.now, cached, output, blocks)
        assert (b is None) == (key not in self.out) and (b is None or b.replica == self.out[key])
        assert self.s.ended(key, self.now) is None and self.s.answered(key, self.now, 0) is None
        self.out.pop(key, None)
        self.waits.discard(key)

    @rule(
        limit=st.none() | st.integers(1, 3), learn=st.booleans(), precise=st.booleans(), ttl=st.none() | st.floats(0.1, 5),
        least=st.sampled_from([0, 1024]), tier=st.none() | st.floats(0, 1e-3), parallel=st.booleans(),
    )  # fmt: skip
    def join(self, **how: Any) -> None:
        s = self.s
        if s.alive.bit_count() < 5:
            free = [i for i in range(s.n) if not s.alive >> i & 1 and not s.load.inflight(i)]
            i = s.join(**how)
            assert i == min([*free, s.n - 1 if not free else i]) and s.index.counts[i] == 0 == s.lower.counts[i]

    def one(self, k: int) -> int:
        return k % self.s.n

    @rule(k=st.integers(0, 9))
    def leave(self, k: int) -> None:
        self.s.leave(self.one(k))

    @rule(k=st.integers(0, 9), limit=st.none() | st.integers(1, 3), learn=st.booleans())
    def set_limit(self, k: int, limit: int | None, learn: bool) -> None:
        self.s.set_limit(self.one(k), limit, learn)

    @rule(k=st.integers(0, 9), precise=st.booleans())
    def trust(self, k: int, precise: bool) -> None:
        self.s.trust(self.one(k), precise)

    @rule(k=st.integers(0, 9))
    def restart(self, k: int) -> None:
        self.s.restarted(self.one(k))

    @rule(k=st.integers(0, 9), group=st.integers(0, 3), depth=st.integers(0, 70), lower=st.booleans(), gone=st.booleans())
    def event(self, k: int, group: int, depth: int, lower: bool, gone: bool) -> None:
        i = self.one(k)
        if self.s.alive >> i & 1:
            index = self.s.lower if lower else self.s.index
            (index.remove if gone else index.add)(i, [(group, d) for d in range(depth)])

    @rule(k=st.integers(0, 9), tokens=st.integers(0, 1000), seconds=st.floats(0, 1))
    def load(self, k: int, tokens: int, seconds: float) -> None:
        self.s.loaded(self.one(k), tokens, seconds)

    @rule(
        i=st.integers(0, 9), kind=st.sampled_from(["booked", "answered", "ended", "nonsense"]), k=st.integers(0, 3), group=st.integers(0, 3)
    )
    def hear(self, i: int, kind: str, k: int, group: int) -> None:
        blocks = tuple((group, d) for d in range(20))
        self.s.peers.hear([Message(7, kind, k, i, self.now, 0.5, 1000, None, blocks)], self.now)

    @invariant()
    def adds_up(self) -> None:
        if not hasattr(self, "s"):
            return
        self.s.check()
        assert set(self.s.held.all) == self.waits
        assert {k for k in self.s.load.bookings if not isinstance(k, Foreign)} == set(self.out)
        for i in range(self.s.n):
            truth = self.s.truth(i)
            assert 0 <= truth.reported <= truth.prompt and 0.0 <= truth.p50 <= truth.p95 and 0.0 <= truth.hit_rate <= 1.0

    def teardown(self) -> None:
        if not hasattr(self, "s"):
            return
        s = self.s
        s.peers.sweep(self.now + SILENT_SECONDS + 1)
        for key in self.out:
            s.ended(key, self.now)
        self.serve_the_rest()
        s.check()
        assert len(s.load) == len(s.held) == s.held.tokens == 0 and not s._silent and not s.caches.expected.masks
        assert s.load.running == s.load.context == [0] * s.n and s.load.sums == [0.0] * s.n
        s.caches.tidy(self.now + 1000.0)
        assert not s.caches.fresh.masks

    def serve_the_rest(self) -> None:
        """With replicas that answer, everybody who may go somewhere goes: nothing is stranded."""
        self.out.clear()
        able = {k for k in self.waits if self.s.usable(self.s.held.all[k])}
        for _ in range(4 * len(able) + 4):
            self.now += 0.1
            self.sent(self.s.place(self.now))
            for key in [*self.out]:
                self.s.ended(key, self.now, output=5)
                del self.out[key]
        assert not able & self.waits, "held for ever"
        for key in self.waits:
            self.s.ended(key, self.now)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
