"""A slot is counted in once and out once, however often its end is told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from routing.lease import Lease
from tests.routing.made import replica


def test_an_end_counts_once() -> None:
    one = replica()
    lease = Lease(one)
    assert (one.inflight, one.total) == (1, 1) and lease.open
    assert lease.end() is True and not lease.open
    assert lease.end() is False and lease.end() is False
    assert (one.inflight, one.total) == (0, 1)


@given(st.lists(st.sampled_from(["take", "end", "again"])))
def test_counters_follow_the_open_leases(steps: list[str]) -> None:
    one = replica()
    taken: list[Lease] = []
    ended: list[Lease] = []
    for step in steps:
        if step == "take":
            taken.append(Lease(one))
        elif step == "end" and taken:
            ended.append(taken.pop(0))
            assert ended[-1].end()
        elif step == "again" and ended:
            assert not ended[0].end()
        assert one.inflight == len(taken) and one.total == len(taken) + len(ended)
