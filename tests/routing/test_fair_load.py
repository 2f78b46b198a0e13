"""A tenant that floods, in virtual time: who else waits how long, and who is alone gets everything."""

from __future__ import annotations

import random

import pytest

from routing.kv import Scheduler, Settings, Want
from tests.routing.engine import Engine, World

REPLICAS = 8  # engines do not interrupt what they compute, so that with few of them everybody waits for the rest of a prompt
TOKENS = 1000  # of a prompt on average: half to one and a half of it


class Place:
    """Replicas that each compute `second` tokens a second, for so many seconds of virtual time."""

    def __init__(self, second: float, seconds: float, slots: int | None = None) -> None:
        s = Scheduler(0, 64, random.Random(1))
        for _ in range(REPLICAS):
            s.join(limit=slots)
        self.seconds, self.most = seconds, REPLICAS * second * seconds / TOKENS  # requests that can be computed in that time
        self.world = World(s, [Engine(1 / second, 2 / second, slots) for _ in range(REPLICAS)])

    def send(self, name: str, load: float, seed: int, weight: float = 1.0) -> None:
        """`load` times what all replicas can do, at random instants."""
        rng, rate = random.Random(seed), load * self.most / self.seconds
        t, n = rng.expovariate(rate), 0
        while t < self.seconds:
            tokens = rng.randrange(TOKENS // 2, TOKENS * 3 // 2)
            self.world.arrive(t, Want((name, n), tokens, (), t, tenant=name, output=20, share=weight))
            t, n = t + rng.expovariate(rate), n + 1

    def run(self) -> None:
        self.world.run(self.seconds)
        self.world.s.check()

    def served(self, name: str) -> int:
        return sum(key[0] == name for key in self.world.first)

    def tokens(self, name: str) -> int:
        """Of prompts that were computed; answers are all of one length."""
        return sum(self.world.tokens[key] + 4 * 20 for key in self.world.first if key[0] == name)

    def p95(self, name: str) -> float:
        """Of all its requests' times to the first token; what has none yet has waited until now at least."""
        w = self.world
        times = sorted(w.first.get(key, w.now) - came for key, came in w.came.items() if key[0] == name)
        return times[int(0.95 * (len(times) - 1))]


@pytest.mark.parametrize(
    ("second", "seconds", "slots", "more"),
    [(500.0, 60.0, None, 0.0), (1000.0, 30.0, 2, 0.0), (20_000.0, 1.0, None, Settings().small)],  # small work joins queues, so much at most
)
def test_a_flood_of_fifty_shares_leaves_another_nearly_as_alone(second: float, seconds: float, slots: int | None, more: float) -> None:
    alone, beside = Place(second, seconds, slots), Place(second, seconds, slots)
    for place in (alone, beside):
        place.send("quiet", 0.25, 1)  # half of its share
    beside.send("hog", 50 * 0.5, 2)
    alone.run()
    beside.run()
    assert beside.p95("quiet") <= 1.5 * alone.p95("quiet") + more
    assert beside.served("quiet") + beside.served("hog") >= 0.95 * beside.most  # and nothing stands idle for it


@pytest.mark.parametrize(("second", "seconds"), [(500.0, 60.0), (20_000.0, 2.0)])
def test_a_tenant_alone_gets_the_whole_capacity(second: float, seconds: float) -> None:
    place = Place(second, seconds)
    place.send("only", 2.0, 3)
    place.run()
    assert place.served("only") >= 0.95 * place.most


def test_two_that_flood_get_their_shares() -> None:
    place = Place(1000.0, 30.0)
    place.send("small", 2.0, 5)
    place.send("large", 2.0, 6, weight=3.0)
    place.run()
    assert place.tokens("large") / place.tokens("small") == pytest.approx(3.0, rel=0.1)
