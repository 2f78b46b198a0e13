"""What ends a benchmark's processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.overhead import proc


@pytest.fixture
def asked() -> Iterator[None]:
    """An interrupt has come and will come again, in a minute."""
    before, _ = signal.setitimer(signal.ITIMER_REAL, 60)  # the test's own time limit
    yield
    signal.setitimer(signal.ITIMER_REAL, before)


def idler() -> subprocess.Popen[bytes]:
    return proc.spawn([sys.executable, "-c", "import signal; signal.alarm(60); signal.pause()"], subprocess.DEVNULL)


def test_an_interrupt_that_was_lost_comes_again(asked: None) -> None:
    process = idler()
    proc.stop(process)
    assert process.returncode == -signal.SIGTERM and signal.getitimer(signal.ITIMER_REAL)[0] > 0


def test_one_that_brought_us_here_does_not(asked: None) -> None:
    process = idler()
    with pytest.raises(KeyboardInterrupt):
        try:
            raise KeyboardInterrupt
        finally:
            proc.stop(process)
            left = signal.getitimer(signal.ITIMER_REAL)[0]
    assert process.returncode == -signal.SIGTERM and left == 0
