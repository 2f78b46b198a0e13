"""Experiments over the control plane: the list, the result, the report, and what may be done to one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast, get_args

import httpx
import msgspec
import pytest

from backends.types import Fault
from gateway.admin.app import create
from gateway.admin.guard import Access, key_check
from gateway.experiments.api import ACTIONS, Action, Experiments, after, blank, view
from gateway.experiments.tables import Tables
from gateway.experiments.words import State
from routing.experiments.words import Audit, Design, Ratio, Result, Status
from tests.gateway.admin import fake

T = TypeVar("T")
DESIGN = Design("mini", "m", ("control", "small"), (3.0, 1.0), primary="ttft")
OTHER = Design("other", "m", ("a", "b"), (1.0, 1.0))


class Shelf:
    """What a store knows, as attributes; what was done is in `acts`."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.results: dict[str, Result] = {}
        self.acts: list[tuple[str, State, str, str, str]] = []
        self.fault: Fault | None = None

    def state(self, name: str) -> State | None:
        return self.states.get(name)

    def result(self, name: str) -> Result | None:
        return self.results.get(name)

    def audit(self, name: str) -> list[Audit]:
        return [Audit(1.0, actor, action, detail) for done, _, actor, action, detail in self.acts if done == name]

    async def read(self, ask: Callable[[Tables], T]) -> T:
        if self.fault is not None:
            raise self.fault
        await asyncio.sleep(0)  # where a real one waits for its thread
        return ask(cast(Tables, self))

    async def act(self, name: str, state: State, actor: str, action: str, detail: str) -> None:
        if self.fault is not None:
            raise self.fault
        await asyncio.sleep(0)  # where a real one waits for its thread
        self.acts.append((name, state, actor, action, detail))
        self.states = {**self.states, name: state}


def analysed(**more: Any) -> Result:
    """A result that has something in it."""
    found = blank(DESIGN, State("mini", started=1.0), fake.NOW - 3)
    return msgspec.structs.replace(found, units=4310, requests=9000, headline="small answers 12 % faster.", status="running", **more)


@pytest.fixture
def shelf() -> Shelf:
    found = Shelf()
    found.states, found.results = {"mini": State("mini", started=1.0)}, {"mini": analysed()}
    return found


@pytest.fixture
def http(shelf: Shelf) -> Iterator[httpx.Client]:
    state = fake.busy()
    state.experiments.follow(shelf, [DESIGN, OTHER])
    with fake.served(create(state)) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


def error(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert found["message"][-1] in ".?"
    return found


# --- pure


@pytest.mark.parametrize("status", get_args(Status))
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_leads_to_its_state_or_is_refused(status: Status, action: Action) -> None:
    arm = "small" if action == "promote" else None
    before = State("mini", status, 3, {"control": 0.5, "small": 0.5}, None, "control" if status == "promoted" else None)
    reached = {"start": "running", "stop": "stopped", "promote": "promoted", "rollback": "rolled_back"}[action]
    try:
        state = after(DESIGN, before, action, arm, 9.0)
    except Fault as fault:
        assert fault.status == 409 and (
            status == reached or (action == "stop" and status in ("promoted", "rolled_back")) or status == "rolled_back"
        )
        return
    assert state.status == reached and state.winner == arm and (state.epoch, state.weights) == (3, before.weights)
    assert state.started == (9.0 if action == "start" else None)


def test_a_start_keeps_when_it_began() -> None:
    assert after(DESIGN, State("mini", "stopped", started=5.0), "start", None, 9.0).started == 5.0


def test_another_arm_may_be_promoted_but_not_the_same_again() -> None:
    promoted = State("mini", "promoted", winner="small")
    assert after(DESIGN, promoted, "promote", "control", 9.0).winner == "control"
    with pytest.raises(Fault, match="nothing to promote"):
        after(DESIGN, promoted, "promote", "small", 9.0)


@pytest.mark.parametrize(
    ("action", "arm", "words"),
    [
        ("promote", None, "which arm to promote; there are: control, small"),
        ("promote", "big", "no arm 'big'"),
        ("stop", "small", "takes none"),
    ],
)
def test_arms_are_checked(action: Action, arm: str | None, words: str) -> None:
    with pytest.raises(Fault, match=words) as caught:
        after(DESIGN, State("mini"), action, arm, 9.0)
    assert caught.value.param == "arm" and caught.value.status == 400


def test_a_blank_result_has_the_weights_in_force() -> None:
    found = blank(DESIGN, State("mini", weights={"control": 1.0, "small": 1.0}), 7.0)
    assert [(arm.name, arm.weight, arm.control) for arm in found.arms] == [("control", 0.5, True), ("small", 0.5, False)]
    assert [arm.weight for arm in blank(DESIGN, State("mini"), 7.0).arms] == [0.75, 0.25]
    assert found.metrics["ttft"].kind == "log" and msgspec.json.decode(msgspec.json.encode(found), type=Result) == found
    assert view(found).trusted and not view(msgspec.structs.replace(found, ratio=Ratio({}, {}, 1e-9, True))).trusted


# --- without HTTP


def test_what_was_done_since_the_analysis_is_true_at_once(shelf: Shelf) -> None:
    made = Experiments(lambda: 50.0)
    made.follow(shelf, [DESIGN])

    async def main() -> None:
        done = await made.act("mini", "promote", "small", "it is faster", "ann")
        assert (done.status, done.winner, done.units) == ("promoted", "small", 4310)
        result = await made.result("mini")
        assert (result.status, result.winner, result.started) == ("promoted", "small", 1.0)

    asyncio.run(main())
    assert shelf.acts == [("mini", State("mini", "promoted", started=1.0, winner="small"), "ann", "promote", "small: it is faster")]


def test_two_at_once_are_done_one_after_the_other(shelf: Shelf) -> None:
    made = Experiments()
    made.follow(shelf, [DESIGN])

    async def main() -> list[Any]:
        return await asyncio.gather(*(made.act("mini", "stop", None, "", who) for who in ("ann", "bob")), return_exceptions=True)

    first, second = asyncio.run(main())
    assert first.status == "stopped" and isinstance(second, Fault) and second.status == 409 and len(shelf.acts) == 1


def test_a_reload_brings_and_takes_experiments(shelf: Shelf) -> None:
    made = Experiments()
    assert len(made) == 0 and asyncio.run(made.listing()) == []
    made.follow(shelf, [DESIGN, OTHER])
    assert len(made) == 2
    made.follow(None, [DESIGN])
    assert len(made) == 0
    with pytest.raises(Fault, match="none is configured"):
        asyncio.run(made.result("mini"))


# --- over HTTP


def test_the_list_and_the_whole_result(http: httpx.Client, shelf: Shelf) -> None:
    mini, other = http.get("/api/experiments").json()["experiments"]
    assert (mini["name"], mini["status"], mini["units"], mini["headline"]) == ("mini", "running", 4310, "small answers 12 % faster.")
    assert other["units"] == 0 and other["headline"] == "Nothing has been seen yet."
    shelf.acts = [("mini", State("mini"), "ann", "start", "")]
    shelf.results["mini"] = analysed(audit=[Audit(1.0, "ann", "start")])
    assert msgspec.json.decode(http.get("/api/experiments/mini").content, type=Result) == shelf.results["mini"]


def test_unknown_ones_are_told(http: httpx.Client) -> None:
    for answer in (http.get("/api/experiments/mina"), http.get("/api/experiments/mina/report"), http.post("/api/experiments/mina/stop")):
        assert answer.status_code == 404 and "did you mean 'mini'?" in error(answer)["message"]
    assert "there are: mini, other." in error(http.get("/api/experiments/zzz"))["message"]


def test_the_report_is_a_page_in_a_sandbox_of_its_own(http: httpx.Client, shelf: Shelf) -> None:
    shelf.results["mini"] = analysed(comments=["<script>alert(1)</script>"])
    answer = http.get("/api/experiments/mini/report")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<!doctype html>" in answer.text[:100].lower() and "small answers 12 % faster" in answer.text
    assert "<script>alert" not in answer.text
    (told,) = answer.headers.get_list("content-security-policy")
    assert "sandbox allow-scripts" in told and "default-src 'none'" in told and "allow-same-origin" not in told
    assert answer.headers["x-frame-options"] == "DENY" and answer.headers["cache-control"] == "no-store"


def test_actions_are_written_with_who_and_why(http: httpx.Client, shelf: Shelf) -> None:
    stopped = http.post("/api/experiments/mini/stop", json={"reason": "enough"}, headers={"x-pointsman-client": "command line"})
    assert stopped.status_code == 200 and stopped.json()["status"] == "stopped"
    assert http.post("/api/experiments/mini/start").json()["status"] == "running"
    assert (
        http.post("/api/experiments/mini/promote", json={"arm": "small"}, headers={"x-pointsman-client": "root"}).json()["winner"]
        == "small"
    )
    assert http.post("/api/experiments/mini/rollback").json()["status"] == "rolled_back"
    assert [act[2:] for act in shelf.acts] == [
        ("command line", "stop", "enough"), ("admin API", "start", ""), ("admin API", "promote", "small"), ("admin API", "rollback", ""),
    ]  # fmt: skip


def test_the_actor_is_the_keys_name(shelf: Shelf) -> None:
    state = fake.busy()
    state.experiments.follow(shelf, [DESIGN])
    state.keys = {"secret-1": "ann"}
    app = create(state, access=Access(frozenset(), key_check(["secret-1"])))
    with fake.served(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        for path in ("/api/experiments", "/api/experiments/mini", "/api/experiments/mini/report"):
            assert client.get(path).status_code == 401
        assert client.post("/api/experiments/mini/stop").status_code == 401 and shelf.acts == []
        headers = {"authorization": "Bearer secret-1", "x-pointsman-client": "command line"}
        assert client.post("/api/experiments/mini/stop", headers=headers).status_code == 200
    assert shelf.acts[0][2] == "ann" and "secret-1" not in repr(shelf.acts)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "must be a JSON object"),
        (b'{"arm": 1}', 400, "`$.arm`"),
        (b'{"why": "x"}', 400, "`why`"),
        (b'{"reason": "%b"}' % (b"x" * 1001), 400, "longer than 1000"),
        (b'{"arm": "small"}', 400, "takes none"),
        (b"[" * 50_000, 400, "must be a JSON object"),
    ],
)
def test_bodies_that_are_none(http: httpx.Client, shelf: Shelf, body: bytes, status: int, words: str) -> None:
    answer = http.post("/api/experiments/mini/stop", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status and words in error(answer)["message"] and shelf.acts == []


def test_what_cannot_be_done(http: httpx.Client, shelf: Shelf) -> None:
    assert http.post("/api/experiments/mini/explode").status_code == 400
    assert http.post("/api/experiments/mini/stop").status_code == 200
    again = http.post("/api/experiments/mini/stop")
    assert again.status_code == 409 and "has been stopped" in error(again)["message"]
    evil = http.post("/api/experiments/mini/start", headers={"origin": "https://evil.example"})
    assert evil.status_code == 403 and len(shelf.acts) == 1
    shelf.fault = Fault("unavailable", "The file cannot be read.", retry_after=2.0)
    for answer in (http.get("/api/experiments"), http.get("/api/experiments/mini"), http.post("/api/experiments/mini/start")):
        assert answer.status_code == 503 and error(answer)["message"] == "The file cannot be read." and answer.headers["retry-after"] == "2"


def test_the_document_lists_it(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert "/api/experiments/{name}/report" in document["paths"] and "post" in document["paths"]["/api/experiments/{name}/{action}"]
    schema = cast(Any, document["components"]["schemas"])
    assert {"headline", "comparisons"} <= set(schema["Result"]["properties"]) and "trusted" in schema["ExperimentView"]["properties"]
