"""A world whose route `m` has experiments, and the tuples that its requests leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic, time
from typing import Any

from backends import wire
from backends.types import Target
from gateway.experiments.arms import ArmRoute, Arms, Changes, Experiment
from gateway.experiments.ended import Ended, seen
from gateway.experiments.keys import reader
from gateway.experiments.plain import ended_of
from gateway.experiments.trial import Trials
from gateway.experiments.words import unit_of
from gateway.record import Columns, Plain
from gateway.serve import Generation
from routing.experiments.assign import Split
from routing.experiments.words import Seen
from routing.types import Arm, Replica, Route
from tests.gateway.parts import FakeLink, World

EVER = (float("-inf"), 1.0)


class FakeStore:
    def __init__(self) -> None:
        self.ended: list[Ended] = []

    def put(self, ended: Ended) -> None:
        self.ended.append(ended)

    # --- gateway.recorder.Hears
    def add(self, columns: Columns, told: Sequence[wire.Told | None], *, priced: bool) -> bool:
        for plain in zip(*columns, strict=True):
            self.ended += ended_of(plain, time() - monotonic())
        return True

    def missed(self, plain: Plain) -> None:
        raise AssertionError

    def lasting(self, batch: list[Plain]) -> list[Plain]:
        return batch

    @property
    def seen(self) -> list[Seen]:
        return [seen(ended) for ended in self.ended]

    @property
    def one(self) -> Seen:
        (one,) = self.seen
        return one


class Tried(World):
    """Replicas as in `World` (control's), and one named `arm` for the arm `new`. `more`: fields of the experiment `e`."""

    def __init__(self, replicas: int = 1, *, key: Any = "user", changes: Changes | None = None, own: bool = True, **more: Any) -> None:
        world = {name: more.pop(name) for name in ("slots", "retries", "concurrency", "keys") if name in more}
        super().__init__(replicas, **world)
        self.link = FakeLink("arm")
        self.links.append(self.link)
        replica = Replica("arm", "arm", "", self.link)
        self.replicas.append(replica)
        self.way = ArmRoute(self.route, Route("m", (Arm(Target("arm", "new"), (replica,)),), retries=1)) if own else None
        self.experiment = self.make("e", key, (self.way,), (changes,), **more)
        self.store = self.recorder.store = FakeStore()
        self.trials = Trials(self.store)
        self.go(self.experiment)

    def make(self, name: str, key: Any, ways: tuple[Any, ...], changes: tuple[Any, ...], **more: Any) -> Experiment:
        weights = more.pop("weights", (1.0,) * (len(ways) + 1))
        names = ("old", *("new", "newer")[: len(ways)])
        split = Split(name, names, weights, holdout=more.pop("holdout", 0.0))
        given: dict[str, Any] = {"shares": (EVER,), "began": float("-inf"), "exclude": None, "history": True}
        given |= more
        return Experiment(
            name=name, route=self.route, split=split, key=reader(key, "x-pointsman-session"), ways=(None, *ways),
            changes=(None, *changes), **given,
        )  # fmt: skip

    def go(self, *experiments: Experiment) -> None:
        """From now on these are configured."""
        routes = {"m": self.route, "other": Route("other", ())}
        self.core.swap(Generation(2, self.core.server, self.core.door, routes, arms=Arms(experiments)))
        self.core.run_trials(self.trials)

    def user_of(self, arm: str, experiment: Experiment | None = None, tenant: str = "") -> str:
        """A user who is in an arm."""
        split = (experiment or self.experiment).split
        end = split.end(1.0)
        return next(u for u in map(str, range(1000)) if split.arms[split.arm(unit_of(tenant, u.encode()), end)] == arm)

    def tell(self, arm: str, doc: Mapping[str, Any] | None = None, **more: Any) -> Any:
        """A request of a user of that arm, started."""
        return self.ask({"user": self.user_of(arm), **(doc or {})}, **more)
