"""What is done aside, and that it takes only what others leave."""

from __future__ import annotations

import os
import threading

import pytest

from gateway.experiments.aside import Spare, here


@pytest.mark.parametrize("aside", [here, Spare()], ids=["here", "spare"])
def test_what_it_gives_and_raises_comes_back(aside: Spare) -> None:
    assert aside(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        aside(lambda: 1 // 0)


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="there is no such policy here")
def test_the_spare_thread_alone_takes_what_others_leave() -> None:
    before, spare = os.sched_getscheduler(0), Spare()
    assert spare(lambda: (os.sched_getscheduler(0), threading.get_ident() != threading.main_thread().ident)) == (os.SCHED_IDLE, True)
    assert os.sched_getscheduler(0) == before
