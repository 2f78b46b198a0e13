"""`POST /v1/feedback`: what is taken, what is refused and why, and that an answer means it is kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.types import Fault
from gateway.app import App, safely
from gateway.config import KeyConfig
from gateway.experiments.feedback import MOST_AT_ONCE, MOST_BYTES, Feedbacks, gauges, kinds, read
from gateway.experiments.words import Feedback
from gateway.metrics import Metrics
from gateway.responses_store import ResponsesStore
from routing.experiments.words import Design, Kind, Metric
from tests.gateway.parts import World

KNOWN: dict[str, frozenset[Kind]] = {
    "thumbs": frozenset({"boolean"}), "score": frozenset({"mean"}), "seconds": frozenset({"log"}),
}  # fmt: skip
DESIGN = Design(
    "e", "m", ("a", "b"), (1.0, 1.0),
    metrics={f"feedback:{name}": Metric(f"feedback:{name}", next(iter(kind)), "higher", name) for name, kind in KNOWN.items()},
)  # fmt: skip


class Store:
    """Keeps what it is given; waits for `gate` first, raises `fault` instead."""

    def __init__(self) -> None:
        self.kept: list[Feedback] = []
        self.gate: asyncio.Event | None = None
        self.fault: Fault | None = None

    async def feedback(self, item: Feedback) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.kept.append(item)


def one(doc: Any, known: dict[str, frozenset[Kind]] = KNOWN) -> list[Feedback]:
    (found,) = read(json.dumps(doc).encode(), known, "t", 7.0, "fb_1")
    return found


def refusal(doc: Any, known: dict[str, frozenset[Kind]] = KNOWN) -> Fault:
    body = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
    with pytest.raises(Fault) as caught:
        read(body, known, "t", 7.0, "fb_1")
    assert caught.value.status == 400 and caught.value.origin == "client" and caught.value.message[-1] in ".?"
    return caught.value


@pytest.mark.parametrize(
    ("doc", "wanted"),
    [
        ({"response": "r1", "name": "thumbs", "value": True}, ("thumbs", "boolean", 1.0, "r1", "")),
        ({"request": "q1", "name": "thumbs", "value": False}, ("thumbs", "boolean", 0.0, "q1", "")),
        ({"session": "ann", "name": "score", "value": 4}, ("score", "mean", 4.0, "", "ann")),
        ({"session": "ann", "name": "score", "value": -0.5}, ("score", "mean", -0.5, "", "ann")),
        ({"response": "r1", "name": "seconds", "value": 2.5}, ("seconds", "log", 2.5, "r1", "")),
        ({"response": "r1", "comment": "too long"}, ("", "boolean", None, "r1", "")),
        ({"response": "r1", "name": "thumbs", "comment": "too long", "value": None}, ("thumbs", "boolean", None, "r1", "")),
    ],
)
def test_what_is_said_of_an_answer_or_a_session(doc: Any, wanted: tuple[Any, ...]) -> None:
    (kept,) = one(doc)
    assert (kept.name, kept.kind, kept.value, kept.response, kept.session) == wanted
    assert (kept.unix, kept.tenant, kept.id, kept.comment) == (7.0, "t", "fb_1", doc.get("comment", ""))


def test_a_comparison_is_one_for_this_and_zero_for_the_other() -> None:
    mine, other = one({"response": "r1", "name": "thumbs", "value": {"better_than": "r2"}, "comment": "shorter"})
    assert (mine.response, mine.value, mine.comment) == ("r1", 1.0, "shorter")
    assert (other.response, other.value, other.comment) == ("r2", 0.0, "")
    assert mine.kind == other.kind == "boolean" and mine.id != other.id


def test_several_at_once_have_ids_of_their_own() -> None:
    items = [{"response": f"r{n}", "name": "thumbs", "value": {"better_than": "x"}} for n in range(100)]
    found = read(json.dumps({"items": items}).encode(), KNOWN, "t", 7.0, "fb_1")
    ids = [kept.id for item in found for kept in item]
    assert len(found) == 100 and len(set(ids)) == 200 and ids[0] == "fb_1" and all(id.startswith("fb_1") for id in ids)


def test_where_nothing_is_listed_any_name_is_taken() -> None:
    assert one({"response": "r", "name": "nice", "value": True}, {})[0].kind == "boolean"
    assert one({"response": "r", "name": "stars", "value": 3}, {})[0].kind == "mean"
    assert one({"response": "r", "name": "a.b-c_1", "value": {"better_than": "q"}}, {})[1].value == 0.0
    assert refusal({"response": "r", "name": "two words", "value": 3}, {}).param == "name"


def test_a_name_of_two_kinds_is_told_by_its_value() -> None:
    both: dict[str, frozenset[Kind]] = {"x": frozenset({"boolean", "log"})}
    assert one({"response": "r", "name": "x", "value": True}, both)[0].kind == "boolean"
    assert one({"response": "r", "name": "x", "value": 2}, both)[0].kind == "log"


@pytest.mark.parametrize(
    ("doc", "param", "words"),
    [
        ({"name": "thumbs", "value": True}, "response", "none of them is there"),
        ({"response": "r", "session": "s", "name": "thumbs", "value": True}, "response", "response and session are there"),
        ({"response": "", "name": "thumbs", "value": True}, "response", "1 to 256 characters"),
        ({"response": "r" * 257, "name": "thumbs", "value": True}, "response", "1 to 256 characters"),
        ({"session": "a\0b", "name": "thumbs", "value": True}, "session", "1 to 1024 characters"),
        ({"response": "r", "value": True}, "name", "there are: score, seconds, thumbs"),
        ({"response": "r", "name": "thumb", "value": True}, "name", "did you mean 'thumbs'?"),
        ({"response": "r", "name": "zzz", "value": True}, "name", "No experiment has a metric 'zzz'; there are: score, seconds, thumbs."),
        ({"response": "r", "name": "thumbs", "value": 1}, "value", "takes true, false or a comparison"),
        ({"response": "r", "name": "score", "value": True}, "value", "takes a number"),
        ({"response": "r", "name": "score", "value": {"better_than": "q"}}, "value", "not a comparison"),
        ({"response": "r", "name": "seconds", "value": 0}, "value", "above 0"),
        ({"response": "r", "name": "score", "value": 1e300}, "value", "too large"),
        ({"response": "r", "name": "thumbs"}, "value", "or a comment alone"),
        ({"response": "r", "name": "thumbs", "value": "yes"}, "value", "Expected"),
        ({"response": "r", "name": "thumbs", "value": {"worse_than": "q"}}, "value", "worse_than"),
        ({"response": "r", "name": "thumbs", "value": {"better_than": "r"}}, "value.better_than", "the same answer"),
        ({"session": "s", "name": "thumbs", "value": {"better_than": "r"}}, "response", "not by a session"),
        ({"response": "r", "comment": "ä" * 2049}, "comment", "longer than 4096 bytes"),
        ({"response": "r", "comment": "a\0"}, "comment", "plain text"),
        ({"response": "r", "vote": 1}, None, "`vote`"),
        ({"items": []}, "items", "0 entries"),
        ({"items": [{"response": "r", "comment": "c"}] * 101}, "items", "101 entries"),
        ({"items": [{"response": "r", "comment": "c"}, {"response": "r", "name": "score", "value": True}]}, "items[1].value", "a number"),
        ({"items": [{"response": "r", "value": []}]}, "items[0].value", "Expected"),
        ({"items": [], "name": "x"}, None, "`name`"),
    ],
)
def test_mistakes_are_told_with_their_place(doc: Any, param: str | None, words: str) -> None:
    fault = refusal(doc)
    assert fault.param == param and words in fault.message


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"comment": "\xff"}', b"[" * 100_000, b'{"value":' + b"[" * 100_000])
def test_bodies_that_are_none(body: bytes) -> None:
    refusal(body)


_values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2))
_fields = st.sampled_from(["response", "request", "session", "name", "value", "comment", "items", "other"])


@given(st.dictionaries(_fields, st.one_of(_values, st.dictionaries(st.just("better_than"), _values)), max_size=5))
def test_any_body_is_taken_or_refused_as_the_clients_mistake(doc: dict[str, Any]) -> None:
    try:
        found = read(json.dumps(doc).encode(), KNOWN, "t", 7.0, "fb_1")
    except Fault as fault:
        assert fault.status == 400 and fault.origin == "client"
    else:
        assert all(bool(kept.response) != bool(kept.session) for item in found for kept in item)


def test_the_kinds_of_several_experiments_are_put_together() -> None:
    other = Design("f", "m", ("a", "b"), (1.0, 1.0), metrics={"feedback:score": Metric("feedback:score", "log", "higher", "score")})
    assert kinds([DESIGN, other]) == {**KNOWN, "score": frozenset({"mean", "log"})} and kinds([]) == {}


# --- over the app


async def ask(app: App, body: bytes, headers: dict[bytes, bytes] | None = None, method: str = "POST", path: str = "/v1/feedback") -> Any:
    """One ASGI request; the answer's status and its document."""
    sent: list[Any] = []
    given = [(b"host", b"localhost"), *(headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "headers": given, "query_string": b"", "http_version": "1.1"}

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await safely(app)(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def app(store: Store | None, *keys: KeyConfig) -> App:
    async def metrics() -> str:
        return ""

    found = App(World(keys=keys).core, metrics, ResponsesStore())
    found.feedback.clock = lambda: 7.0
    found.feedback.follow(store, [DESIGN] if store is not None else [])
    return found


THUMBS = json.dumps({"response": "r1", "name": "thumbs", "value": True}).encode()


def test_an_answer_means_that_it_is_kept() -> None:
    async def main() -> None:
        store = Store()
        store.gate = asyncio.Event()
        made = app(store)
        asked = asyncio.ensure_future(ask(made, THUMBS))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not asked.done() and "1 waiting" in repr(made.feedback)
        store.gate.set()
        status, answer = await asked
        (kept,) = store.kept
        assert status == 200 and answer == {"id": kept.id, "object": "feedback", "accepted": 1} and kept.id.startswith("fb_")
        assert kept == Feedback(7.0, "", "thumbs", "boolean", 1.0, "r1", id=kept.id)
        assert (await ask(made, b"{}"))[0] == 400 and (made.feedback.accepted, made.feedback.refused) == (1, 1)
        assert (await ask(made, THUMBS, path="/feedback"))[0] == 200

    asyncio.run(main())


def test_a_mistake_in_one_of_many_keeps_none() -> None:
    store = Store()
    body = json.dumps({"items": [json.loads(THUMBS), {"name": "thumbs"}]}).encode()
    status, answer = asyncio.run(ask(app(store), body))
    assert status == 400 and answer["error"]["param"] == "items[1].response" and store.kept == []


def test_without_an_experiment_it_says_what_to_do() -> None:
    status, answer = asyncio.run(ask(app(None), THUMBS))
    assert status == 404 and answer["error"]["code"] == "no_experiments" and "'experiments'" in answer["error"]["message"]


def test_what_the_store_cannot_keep_is_not_accepted() -> None:
    store = Store()
    store.fault = Fault("unavailable", "The disk is full.", code="store")
    made = app(store)
    status, answer = asyncio.run(ask(made, THUMBS))
    assert status == 503 and answer["error"]["message"] == "The disk is full." and made.feedback.accepted == 0


def test_only_so_many_wait_and_bodies_are_bounded() -> None:
    async def main() -> None:
        store = Store()
        store.gate = asyncio.Event()
        made = app(store)
        asked = [asyncio.ensure_future(ask(made, THUMBS)) for _ in range(MOST_AT_ONCE)]
        for _ in range(20):
            await asyncio.sleep(0)
        status, answer = await ask(made, THUMBS)
        assert status == 503 and answer["error"]["code"] == "feedback_busy"
        store.gate.set()
        assert {status for status, _ in await asyncio.gather(*asked)} == {200}
        assert (await ask(made, THUMBS))[0] == 200
        assert (await ask(made, b" " * (MOST_BYTES + 1)))[0] == 413

    asyncio.run(main())


def test_who_speaks_is_who_the_key_says() -> None:
    hashes = {name: KeyConfig(name=name, hash=f"sha256:{digest}") for name, digest in _hashed("ann", "bob")}
    store = Store()
    made = app(store, *hashes.values())
    for name in ("ann", "bob"):
        assert asyncio.run(ask(made, THUMBS, {b"authorization": b"Bearer " + name.encode()}))[0] == 200
    assert [kept.tenant for kept in store.kept] == ["ann", "bob"]
    assert asyncio.run(ask(made, THUMBS))[0] == 401 and len(store.kept) == 2


def _hashed(*keys: str) -> list[tuple[str, str]]:
    from gateway.auth import digest

    return [(key, digest(key).hex()) for key in keys]


def test_a_retry_with_its_key_has_the_same_id() -> None:
    store = Store()
    taker, figures = Feedbacks(), Metrics()
    taker.follow(store, [DESIGN])
    gauges(figures, taker)

    def ids(tenant: str, key: bytes, body: bytes = THUMBS) -> str:
        return cast(str, json.loads(asyncio.run(taker.take(body, tenant, key)))["id"])

    first = ids("t", b"k1")
    assert ids("t", b"k1") == first
    assert len({first, ids("u", b"k1"), ids("t", b"k2"), ids("t", b"k1", THUMBS + b" "), ids("t", b""), ids("t", b"")}) == 6
    with pytest.raises(Fault):
        asyncio.run(taker.take(b"{}", "t"))
    text = figures.render()
    assert "pointsman_experiment_feedback_total 7\n" in text
    assert "pointsman_experiment_feedback_refused_total 1\n" in text


def test_only_post() -> None:
    status, answer = asyncio.run(ask(app(None), b"", method="GET"))
    assert status == 405 and "takes POST" in answer["error"]["message"]
