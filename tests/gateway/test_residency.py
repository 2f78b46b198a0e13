"""Which engines are in memory: the decisions one by one, a state machine over all, and an hour of twelve models on room for four."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.residency_types import Model, Rules, size
from tests.gateway.residents import Town


def models(count: int, **given: object) -> list[Model]:
    return [Model(f"m{i}", 100, **given) for i in range(count)]  # type: ignore[arg-type]


def states(town: Town) -> dict[str, str]:
    return {name: entry.state for name, entry in town.residency.entries.items()}


def test_the_first_call_loads_and_idleness_unloads() -> None:
    town = Town(models(1, idle=10.0), 100)
    assert states(town) == {"m0": "absent"} and not town.alive
    call = town.ask("m0", 1.0)
    town.run(0.5)
    assert states(town) == {"m0": "loading"}
    town.run(2.5)
    assert call.answered == 2.0 and states(town) == {"m0": "resident"}
    assert town.residency.entries["m0"].until() == 12.0
    town.run(11.9)
    assert states(town) == {"m0": "resident"}
    town.run(13.0)
    assert states(town) == {"m0": "absent"} and town.residency.evictions == {("m0", "idle"): 1}


def test_a_request_says_how_long_it_stays() -> None:
    town = Town(models(2, idle=10.0), 200)
    for name, seconds in (("m0", 0.0), ("m1", math.inf)):
        town.ask(name)
        town.residency.keep(name, seconds)
    town.run(3.0)
    assert states(town) == {"m0": "absent", "m1": "resident"}
    town.run(500.0)
    assert states(town)["m1"] == "resident"
    town.residency.dismiss("m1")
    town.ask("m0")
    town.run(505.0)
    assert states(town) == {"m0": "resident", "m1": "absent"}, "what an earlier request wanted ended with its residence"


def test_started_and_pinned_ones_stay() -> None:
    town = Town([Model("a", 100, idle=1.0, pinned=True, start=True), *models(2, idle=1.0)], 200)
    town.run(2.0)
    assert states(town) == {"a": "resident", "m0": "absent", "m1": "absent"}
    for name in ("m0", "m1", "m0"):
        call = town.ask(name)
        town.run(town.now + 10.0)
        assert call.answered is not None
    assert states(town)["a"] == "resident"
    town.residency.dismiss("a")
    town.run(town.now + 1.0)
    assert states(town)["a"] == "absent", "an operator may unload what is pinned"


def test_the_least_valuable_makes_room() -> None:
    town = Town(models(3), 200, load=lambda name: {"m0": 8.0}.get(name, 1.0))
    for name in ("m0", "m1"):
        town.ask(name)
    town.run(30.0)
    town.ask("m2")
    town.run(35.0)
    assert states(town) == {"m0": "resident", "m1": "absent", "m2": "resident"}, "m0 takes longest to load again"


def test_a_busy_model_is_not_evicted_but_drained_for_one_that_has_waited() -> None:
    town = Town(models(2), 100, slots=1)
    town.ask("m0", 60.0)
    town.run(3.0)
    later = town.ask("m1")
    town.run(7.9)
    assert states(town) == {"m0": "resident", "m1": "absent"}
    town.run(9.0)
    assert states(town)["m0"] == "closing"
    again = town.ask("m0")
    town.run(60.9)
    assert states(town)["m0"] == "closing" and town.calls[0].answered is None
    town.run(80.0)
    assert town.calls[0].answered == 61.0 and later.answered is not None and again.answered is not None
    assert later.answered < again.answered, "whoever was there first"


def test_a_drained_model_is_opened_again_when_nobody_waits_for_its_room() -> None:
    town = Town(models(2), 100, slots=2)
    town.ask("m0", 60.0)
    town.run(3.0)
    town.ask("m1")
    town.run(9.0)
    assert states(town)["m0"] == "closing"
    town.parked["m1"].clear()
    town.tell("m1")
    town.step()
    assert states(town)["m0"] == "resident"
    assert town.ask("m0").begun == 9.0


def test_what_can_never_fit_is_refused_until_it_can() -> None:
    town = Town([Model("big", 300), Model("pin", 100, pinned=True, start=True)], 350)
    town.run(2.0)
    call = town.ask("big")
    town.run(3.0)
    assert call.refused and states(town)["big"] == "refused"
    assert town.residency.entries["big"].reason == "it needs 300 B and the budget is 350 B, of which 100 B are pinned"
    assert town.ask("big").refused
    town.residency.dismiss("pin")
    town.run(4.0)
    call = town.ask("big")
    town.run(7.0)
    assert call.answered is not None


def test_a_small_one_may_pass_a_large_one_only_while_that_costs_nothing() -> None:
    sizes = [Model("a", 100), Model("b", 100), Model("large", 200), Model("small", 50)]
    town = Town(sizes, 250, slots=1)
    for name in ("a", "b"):
        town.ask(name, 30.0)
    town.run(3.0)
    town.ask("large")
    small = town.ask("small", 0.5)
    town.run(6.0)
    assert small.answered is not None, "there was room that nobody else could use"
    town.run(120.0)
    assert all(call.answered is not None for call in town.calls)


def test_no_thrash_between_two_that_are_wanted_without_end() -> None:
    town = Town(models(2), 100, slots=1, load=lambda _: 5.0)
    for second in range(100):
        for name in ("m0", "m1"):
            town.at(float(second), lambda name=name: town.ask(name, 0.1))  # type: ignore[misc]
    town.run(400.0)
    assert all(call.answered is not None for call in town.calls)
    assert len(town.loads) <= 12, "each stays at least as long as its load took"


def test_an_engine_that_dies_idle_is_not_there_and_one_that_is_needed_comes_back() -> None:
    town = Town(models(2, idle=100.0), 200, load=lambda _: 4.0)
    town.ask("m0")
    town.ask("m1", 30.0)
    town.run(6.0)
    town.crash("m0")
    town.crash("m1")
    town.run(9.0)
    assert states(town) == {"m0": "absent", "m1": "loading"}
    town.run(50.0)
    assert town.calls[1].answered == 40.0


def test_a_failed_load_is_told_and_tried_again_later() -> None:
    town = Town(models(1), 100, rules=Rules(rest=10.0))
    town.ask("m0")
    town.residency.step(0.0)
    town.residency.failed("m0", "the file is cut off", 0.0)
    town.alive.clear()
    town.parked["m0"].clear()
    town.tell("m0")
    entry = town.residency.entries["m0"]
    assert (entry.state, entry.reason) == ("failed", "the file is cut off") and town.ask("m0").refused
    town.run(10.5)
    call = town.ask("m0")
    town.run(13.0)
    assert call.answered is not None


def test_measured_memory_counts_and_the_cheapest_goes_when_it_is_more() -> None:
    town = Town(models(2), 200, load=lambda name: 3.0 if name == "m1" else 1.0, truth=lambda name: 130 if name == "m1" else 60, over=1.5)
    for name in ("m0", "m1"):
        town.ask(name)
    town.run(5.0)
    assert states(town) == {"m0": "absent", "m1": "resident"} and town.residency.held == 130
    assert town.residency.entries["m0"].bytes == 100, "a measure below the prediction frees nothing: pages are touched later"


def test_orders_of_an_operator() -> None:
    town = Town(models(2), 100)
    town.residency.order("m0", 0.0)
    town.run(2.0)
    assert states(town) == {"m0": "resident", "m1": "absent"}
    town.ask("m0", 10.0)
    town.residency.dismiss("m0")
    town.run(5.0)
    assert states(town)["m0"] == "closing", "its call ends first"
    town.run(13.0)
    assert states(town)["m0"] == "absent" and town.calls[0].answered == 12.0
    with pytest.raises(KeyError):
        town.residency.order("none", 0.0)


def test_a_replaced_engine_is_counted_until_it_is_gone() -> None:
    town = Town(models(1), 100)
    town.ask("m0")
    town.run(3.0)
    residency = town.residency
    residency.remove("m0", 3.0)
    residency.put(Model("m0", 80), 3.0)
    residency.forget(["m0"])
    assert residency.held == 100 and states(town) == {"m0": "stopping"}
    residency.gone("m0", 3.1)
    assert residency.held == 0 and states(town) == {"m0": "absent"} and residency.entries["m0"].bytes == 80
    residency.remove("m0", 4.0)
    residency.forget(["m0"])
    assert not residency.entries


def test_sizes_for_people() -> None:
    assert [size(n) for n in (5, 2048, 3 << 20, 300 << 20, 5 << 29)] == ["5 B", "2 KiB", "3.0 MiB", "300 MiB", "2.5 GiB"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_hour_of_twelve_models_on_room_for_four(seed: int) -> None:
    draw = random.Random(seed)
    sizes = {f"m{i}": draw.randint(50, 150) for i in range(12)}
    truths = {name: int(size * draw.uniform(0.9, 1.02)) for name, size in sizes.items()}
    budget = 4 * 150
    made = [Model(name, size, idle=draw.choice([None, 20.0, 120.0])) for name, size in sizes.items()]
    town = Town(made, budget, slots=4, load=lambda name: sizes[name] / 50, truth=truths.__getitem__, over=1.03)
    popular = draw.choices(range(12), [1 / (n + 1) for n in range(12)], k=2400)
    at = 0.0
    for number in popular:
        at += draw.expovariate(2400 / 3500)
        town.at(at, lambda n=number: town.ask(f"m{n}", draw.expovariate(1 / 2)))  # type: ignore[misc]
    town.run(3600.0)
    town.run(3900.0, tick=5.0)
    assert len(town.calls) == 2400 and all(call.answered is not None for call in town.calls), "a request was lost"
    waits = sorted(call.begun - call.at for call in town.calls if call.begun is not None)
    assert waits[-1] < 60.0, "some model was starved"
    assert town.peak > 0.8 * budget


class Machine(RuleBasedStateMachine):
    """Anything may happen at any time; `Town.check` and the judge below look after every step."""

    def __init__(self) -> None:
        super().__init__()
        made = [Model(f"m{i}", 40 + 20 * i, idle=[None, 3.0, 30.0][i % 3], pinned=i == 5, start=i in (4, 5)) for i in range(6)]
        self.town = Town(made, 300, load=lambda name: 0.5 + int(name[1:]))

    names = st.sampled_from([f"m{i}" for i in range(6)])

    @rule(name=names, seconds=st.sampled_from([0.1, 1.0, 20.0]))
    def ask(self, name: str, seconds: float) -> None:
        self.town.ask(name, seconds)
        self.town.step()

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.town.run(self.town.now + seconds)

    @rule(name=names)
    def leave(self, name: str) -> None:
        self.town.parked[name].clear()
        self.town.tell(name)
        self.town.step()

    @rule(name=names)
    def crash(self, name: str) -> None:
        self.town.crash(name)
        self.town.step()

    @rule(name=names, wanted=st.booleans())
    def order(self, name: str, wanted: bool) -> None:
        if wanted:
            self.town.residency.order(name, self.town.now)
        else:
            self.town.residency.dismiss(name)
        self.town.step()

    @rule(name=names, seconds=st.sampled_from([0.0, 5.0, math.inf]))
    def keep(self, name: str, seconds: float) -> None:
        self.town.residency.keep(name, seconds)

    @invariant()
    def pinned_ones_are_never_evicted_for_room(self) -> None:
        assert not [why for name, why in self.town.residency.evictions if name == "m5" and why in ("idle", "room")]

    @precondition(lambda self: len(self.town.calls) > 3)
    @rule()
    def everybody_is_served_in_the_end(self) -> None:
        self.town.run(self.town.now + 300.0)
        assert not any(self.town.parked.values()) and not any(self.town.running.values())
        assert not self.town.residency.queue()


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, derandomize=True, deadline=None)
TestMachine = Machine.TestCase
