"""A slot is counted in once and out once; giving back what nobody holds is a bug that shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.lease import give, take
from tests.routing.made import replica


def test_a_slot_is_counted_in_and_out() -> None:
    one = replica()
    held = take(one)
    assert held is one and (one.inflight, one.total) == (1, 1)
    give(held)
    assert (one.inflight, one.total) == (0, 1)
    with pytest.raises(ValueError, match="no call under way"):
        give(one)
    assert (one.inflight, one.total) == (0, 1)


@given(st.lists(st.sampled_from(["take", "give"])))
def test_counters_follow_what_is_held(steps: list[str]) -> None:
    one = replica()
    held, given_back = [], 0
    for step in steps:
        if step == "take":
            held.append(take(one))
        elif held:
            give(held.pop())
            given_back += 1
        assert one.inflight == len(held) and one.total == len(held) + given_back
