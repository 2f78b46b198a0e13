"""A secret that expires: got without waiting, renewed ahead of its end, and what is told while there is none."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from backends.auth.renewed import Renewed, Unobtainable
from backends.types import Fault

LONG = 20.0  # seconds that nothing here takes


class Source:
    """A fetch that is told what to give: it waits for its next outcome, as a slow server would."""

    def __init__(self) -> None:
        self.outcomes: queue.Queue[tuple[str, float | None] | Exception] = queue.Queue()
        self.told: queue.Queue[None] = queue.Queue()
        self.begun: queue.Queue[None] = queue.Queue()
        self.now = 1000.0

    def __call__(self) -> tuple[str, float | None]:
        self.begun.put(None)
        outcome = self.outcomes.get(timeout=LONG)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def give(self, outcome: tuple[str, float | None] | Exception) -> None:
        """Lets the fetch under way end so, and returns when its outcome is told."""
        self.outcomes.put(outcome)
        self.told.get(timeout=LONG)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def secret(source: Source) -> Iterator[Renewed[str]]:
    one = Renewed("cloud", source, clock=lambda: source.now, on_change=lambda: source.told.put(None))
    yield one
    one.close()
    source.outcomes.put(("end", None))  # a fetch under way ends, and the thread with it
    thread = one._thread
    if thread is not None:
        thread.join(LONG)
        assert not thread.is_alive()


def refused(secret: Renewed[str]) -> Fault:
    with pytest.raises(Fault) as e:
        secret.get()
    assert (e.value.kind, e.value.status, e.value.retry) == ("unavailable", 503, True)
    return e.value


def test_pending_then_there(source: Source, secret: Renewed[str]) -> None:
    fault = refused(secret)  # starts the thread
    assert (fault.code, fault.retry_after) == ("credentials_pending", 1.0)
    assert "'cloud'" in fault.message
    assert secret.state == "pending"
    source.give(("one", 4600.0))
    assert (secret.get(), secret.state, secret.problem) == ("one", "fresh", None)


def test_renewed_ahead_without_anybody_waiting(source: Source, secret: Renewed[str]) -> None:
    secret.start()
    source.give(("one", 4600.0))
    source.begun.get(timeout=LONG)
    source.now = 4400.0
    secret.renew()  # what the timer does, 300 s before the end
    source.begun.get(timeout=LONG)  # a fetch is under way …
    assert secret.get() == "one"  # … and requests go on with what is valid
    source.give(("two", 8000.0))
    assert secret.get() == "two"


def test_what_is_valid_serves_while_renewing_fails(source: Source, secret: Renewed[str]) -> None:
    secret.start()
    source.give(("one", 4600.0))
    secret.renew()
    source.give(Unobtainable("The token server is gone; start it."))
    assert (secret.get(), secret.problem, secret.state) == ("one", "The token server is gone; start it.", "fresh")
    source.now = 4600.0
    fault = refused(secret)
    assert (fault.code, fault.message, fault.retry_after) == ("credentials_failed", "The token server is gone; start it.", 1.0)
    assert secret.state == "failed"


def test_an_end_that_no_timer_saw(source: Source, secret: Renewed[str]) -> None:
    """The machine slept: the request that finds the secret expired has it renewed at once."""
    secret.start()
    source.give(("one", 4600.0))
    source.begun.get(timeout=LONG)
    source.now = 9000.0
    assert refused(secret).code == "credentials_pending"
    source.begun.get(timeout=LONG)
    source.give(("two", 12000.0))
    assert secret.get() == "two"


@pytest.mark.parametrize(("expires", "rest"), [(4600.0, 3300.0), (1200.0, 100.0), (1000.5, 1.0), (900.0, 1.0), (None, 300.0)])
def test_when_it_is_renewed(source: Source, expires: float | None, rest: float) -> None:
    """`ahead` of the end, or at half of a short life; what tells no end is read again now and then."""
    one = Renewed("cloud", source, clock=lambda: source.now)
    source.outcomes.put(("x", expires))
    assert one._step() == rest


def test_failures_wait_longer_and_longer(source: Source) -> None:
    one = Renewed("cloud", source)
    for _ in range(9):
        source.outcomes.put(Unobtainable("No."))
    assert [one._step() for _ in range(9)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    source.outcomes.put(("x", None))
    one._step()
    source.outcomes.put(Unobtainable("No."))
    assert one._step() == 1.0


def test_programs_may_wait_for_it(source: Source, secret: Renewed[str]) -> None:
    source.outcomes.put(("one", None))
    assert secret.wait(LONG)
    assert secret.get() == "one"


def test_a_failure_ends_the_waiting_too(source: Source, secret: Renewed[str]) -> None:
    source.outcomes.put(Unobtainable("No."))
    assert not secret.wait(LONG)


def test_closed_it_fetches_no_more(source: Source, secret: Renewed[str]) -> None:
    secret.start()
    source.give(("one", None))
    thread = secret._thread
    assert thread is not None
    secret.close()
    thread.join(LONG)
    secret.start()
    assert secret._thread is None
    assert secret.get() == "one"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_that_nobody_foresaw_is_survived(source: Source, secret: Renewed[str]) -> None:
    source.outcomes.put(ZeroDivisionError())
    assert not secret.wait(LONG)
    for thread in threading.enumerate():
        if thread.name == "credentials cloud":
            thread.join(LONG)
    assert refused(secret).code == "credentials_pending"  # and another thread tries
    source.give(("one", None))
    assert secret.get() == "one"


def test_the_repr_has_no_secret(source: Source, secret: Renewed[str]) -> None:
    secret.start()
    source.give(("canary-token", None))
    assert repr(secret) == "<Renewed cloud: fresh>"
