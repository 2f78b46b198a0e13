"""A gateway's experiments, put together: the store, the analyst, and what they tell the data path. One a process.

Every process that serves calls has a store of its own on the same file, and so has the parent of workers, for the control plane. Whoever
has the control plane owns the file: it alone runs the analyst, and holds a lock that keeps other gateways away, whose analyst would pass
over our experiments.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from backends.types import Fault
from gateway.config import Config
from gateway.config_experiments import design
from gateway.experiments import shadow
from gateway.experiments import store as keeping
from gateway.experiments.analyst import Order
from gateway.experiments.api import Experiments
from gateway.experiments.feedback import Feedbacks
from gateway.experiments.keeping import Retain
from gateway.experiments.running import Running
from gateway.experiments.shadow import Shadows
from gateway.experiments.store import TrialStore
from gateway.experiments.trial import Trials
from gateway.experiments.words import State
from gateway.metrics import Metrics
from gateway.serve import Core

log = logging.getLogger("pointsman.experiments")
LAST_LOOK_SECONDS = 10.0


def file_of(config: Config) -> str:
    """The file of the experiments: as configured, else in the user's folder for state (XDG_STATE_HOME)."""
    path = config.server.experiments.path
    if path is not None:
        return str(Path(path).expanduser())
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return str(Path(state).expanduser() / "pointsman" / "experiments.db")


class Wired:
    """See the module. `owner`: this process has the control plane, or would have it. Owned by the event loop."""

    def __init__(self, *, owner: bool) -> None:
        self.owner = owner
        self.store: TrialStore | None = None
        self.analyst: Running | None = None
        self.trials: Trials | None = None
        self.shadows: Shadows | None = None
        self._lock: int | None = None

    def __repr__(self) -> str:
        return f"<Wired {self.store!r}, {self.analyst!r}>"

    @property
    def left(self) -> Mapping[tuple[str, str], int]:
        """Requests that had no part, by experiment and reason."""
        return self.trials.left if self.trials is not None else {}

    async def open(self, config: Config) -> None:
        """Opens the file when experiments are configured and it is not open. Raises `Fault` (unavailable): it cannot be used."""
        if not config.experiments or self.store is not None:
            return
        path = file_of(config)
        if self.owner:
            self._hold(path)
        store = TrialStore(path)
        store.on_states = self._states
        try:
            await store.start()
        except Fault:
            self._release()
            raise
        self.store = store
        if self.owner:
            self.analyst = Running(path)
            self.analyst.start()

    def follow(self, config: Config, core: Core | None, experiments: Experiments, feedback: Feedbacks) -> None:
        """Makes the experiments of `config` those in force. `core`: what serves calls here, with its generation made; None in a parent of
        workers. The file is open if there are any."""
        designs = tuple(design(name, one) for name, one in config.experiments.items())
        there = self.store if designs else None
        experiments.follow(there, designs)
        feedback.follow(there, designs)
        if self.analyst is not None:
            kept = config.server.experiments
            starts = {name: one.began for name, one in config.experiments.items() if one.start is not None}
            self.analyst.follow(Order(designs, starts, Retain(age=kept.age_seconds, bytes=kept.bytes)))
        if core is not None:
            self._serve(core, there, any(one.shadow is not None for one in config.experiments.values()))
        if self.store is not None:
            self._states(self.store.states)

    def _serve(self, core: Core, store: TrialStore | None, mirrors: bool) -> None:
        if self.store is not None:  # also for requests that began with experiments
            core.recorder.hears, self.store.hurry = self.store.plain, core.recorder.catch_up
        if store is None:
            self.trials = None
            core.run_trials(None)
        elif self.trials is None:
            self.trials = Trials(store)
            core.run_trials(self.trials)
        if mirrors and store is not None and self.shadows is None:
            self.shadows = core.shadows = Shadows(core, store.pair)

    def _states(self, states: Mapping[str, State]) -> None:
        if self.trials is not None:
            self.trials.follow(states)
        if self.shadows is not None:
            self.shadows.heed(states)

    async def stop(self) -> None:
        """Ends what is mirrored, writes what waits, lets the analyst look once more. Idempotent."""
        if self.shadows is not None:
            await self.shadows.stop()
        store, self.store = self.store, None
        if store is not None:
            await store.stop()
        analyst, self.analyst = self.analyst, None
        if analyst is not None:
            if analyst.starts or (store is not None and store.written):
                with contextlib.suppress(TimeoutError):
                    await analyst.look(LAST_LOOK_SECONDS)
            await analyst.stop()
        self._release()

    def _hold(self, path: str) -> None:
        try:
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            why = f"The file '{path}' for experiments is in use by another gateway; name another one in server.experiments.path."
            raise Fault("unavailable", why) from None
        except OSError as e:
            self._release()
            raise Fault("unavailable", f"The file '{path}' for experiments cannot be used: {e}.") from e

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def gauges(figures: Metrics, wired: Wired) -> None:
    """Registers what experiments count in this process."""
    keeping.gauges(figures, lambda: wired.store)
    shadow.gauges(figures, lambda: wired.shadows)
    figures.callback(
        "pointsman_experiment_left_out_total", "Requests that had no part in an experiment of their route, by reason.",
        lambda: [({"experiment": e, "reason": why}, n) for (e, why), n in [*wired.left.items()]], kind="counter",
    )  # fmt: skip
