"""A secret that expires, renewed by a thread of its own ahead of that, so that no request waits for it.

The libraries that obtain such secrets block; so they run in the thread, and requests read what was left for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from backends.types import Fault

T = TypeVar("T")
_FIRST_WAIT, _LAST_WAIT = 1.0, 60.0  # seconds between tries that fail, doubled from the one to the other
_UNCHANGING = 300.0  # seconds after which a secret that tells no expiry is read again: somebody may have put another in its place
_LEAST = 1.0  # seconds between renewals, whatever expiry is told


class Unobtainable(Exception):
    """A secret could not be obtained: one sentence for the operator, with what to do and without any secret."""


class Renewed(Generic[T]):
    """Holds a secret and keeps it fresh. Thread-safe: one thread of its own writes, any thread reads.

    `fetch` blocks, runs in the thread only, and gives the secret and when it expires (seconds since 1970; None: it does not say). It raises
    `Unobtainable`. `ahead`: seconds before expiry at which it is renewed, or half of its life when that is shorter. `on_change` is called
    in the thread after each outcome.
    """

    def __init__(
        self,
        name: str,
        fetch: Callable[[], tuple[T, float | None]],
        *,
        ahead: float = 300.0,
        clock: Callable[[], float] = time.time,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.name, self._fetch, self._ahead, self._clock, self._on_change = name, fetch, ahead, clock, on_change
        self._held: tuple[T, float | None] | None = None  # replaced whole: readers take no lock
        self._error: str | None = None
        self._failures = 0
        self._turn = threading.Condition()
        self._asked = self._closed = False
        self._thread: threading.Thread | None = None
        self._settled = threading.Event()

    def __repr__(self) -> str:
        return f"<Renewed {self.name}: {self.state}>"

    @property
    def state(self) -> str:
        """`fresh`, `pending` (none yet, or expired and being renewed) or `failed`."""
        if self._fresh() is not None:
            return "fresh"
        return "pending" if self._error is None else "failed"

    @property
    def problem(self) -> str | None:
        """Why the last try failed; None after one that did not. What is held may still be valid."""
        return self._error

    def get(self) -> T:
        """The secret. Never blocks. Raises `Fault`: unavailable, `credentials_pending` while it is obtained, `credentials_failed` when
        that failed; both may be tried again."""
        held = self._fresh()
        if held is not None:
            return held[0]
        self.start()
        problem = self._error
        if problem is not None:
            raise Fault("unavailable", problem, code="credentials_failed", retry=True, retry_after=_wait(self._failures))
        self.renew()
        told = f"The credentials of backend '{self.name}' are being obtained; try again in a moment."
        raise Fault("unavailable", told, code="credentials_pending", retry=True, retry_after=1.0)

    def start(self) -> None:
        """Starts the thread unless it runs. Does not block."""
        with self._turn:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name=f"credentials {self.name}", daemon=True)
                self._thread.start()

    def renew(self) -> None:
        """Has the secret obtained anew now: after an expiry that no timer saw (a suspended machine), or a refusal. Does not block."""
        with self._turn:
            self._asked = True
            self._turn.notify_all()

    def wait(self, timeout: float) -> bool:
        """Starts, and blocks until the first outcome, at most `timeout` seconds. Whether a secret is there: for programs that need one."""
        self.start()
        self._settled.wait(timeout)
        return self._fresh() is not None

    def close(self) -> None:
        """Ends the thread, which a fetch under way may delay; does not wait for it."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()

    def _fresh(self) -> tuple[T, float | None] | None:
        held = self._held
        return held if held is not None and (held[1] is None or self._clock() < held[1]) else None

    def _run(self) -> None:
        try:
            while self._rest(self._step()):
                pass
        finally:
            self._settled.set()
            with self._turn:
                self._thread = None  # had it ended by an error that nobody foresaw, the next request starts another

    def _step(self) -> float:
        """Fetches once. How long to rest, in seconds."""
        try:
            value, expires = self._fetch()
        except Unobtainable as e:
            self._error, self._failures = str(e), self._failures + 1
            rest = _wait(self._failures)
        else:
            self._held, self._error, self._failures = (value, expires), None, 0
            rest = _UNCHANGING
            if expires is not None:
                life = expires - self._clock()
                rest = max(_LEAST, life - min(self._ahead, life / 2))
        self._settled.set()
        if self._on_change is not None:
            self._on_change()
        return rest

    def _rest(self, seconds: float) -> bool:
        """Blocks for `seconds` or until asked; False when closed. While tries fail nobody hurries them."""
        with self._turn:
            self._asked = False
            self._turn.wait_for(lambda: self._closed or (self._asked and self._error is None), seconds)
            return not self._closed


def _wait(failures: int) -> float:
    return min(_LAST_WAIT, _FIRST_WAIT * 2.0 ** min(failures - 1, 10))
