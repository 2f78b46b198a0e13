"""`POST /v1/explain`: what it tells is what is then done, nothing is sent or counted by it, and it never shows a credential."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.cli_explain import text
from tests.fakes.engine import Engine
from tests.fakes.providers.brain import WEATHER
from tests.gateway.provided import CASES
from tests.gateway.test_providers import PRICES, placed
from tests.harness import Running, both_ways, chat, config_for, running

Doc = dict[str, Any]
TOOL: Doc = {"type": "function", "function": {"name": WEATHER.name, "description": WEATHER.description, "parameters": WEATHER.schema}}
KEY = "canary-client-key-0123456789"


def explained(gateway: Running, doc: Any, status: int = 200, key: str = "") -> Doc:
    answer = gateway.ask(doc, "/v1/explain", {"authorization": f"Bearer {key}"} if key else None)
    assert answer.status == status, answer.body
    found: Doc = json.loads(answer.body)
    return found


def fates(told: Doc) -> dict[str, str]:
    return {note["param"]: note["fate"] for note in told["parameters"]}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_is_explained_is_what_is_sent(name: str, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with placed(name, tmp_path, monkeypatch) as place:
        fleet = place.gateway.gateway.fleet
        place.gateway.until(lambda: all(replica.health == "ready" for replica in fleet.every()), "credentials")
        doc = chat("What is the weather in Paris?", tools=[TOOL], max_completion_tokens=500, stream=stream)
        told = explained(place.gateway, doc)
        assert place.provider.requests == [] and place.records() == []
        assert told["error"] is None and told["decision"]["replica"] == "far" and told["decision"]["model"] == place.case.model
        assert told["estimate"]["input_tokens"] > 10 and told["estimate"]["most_output_tokens"] == 500
        assert place.gateway.ask(doc).status == 200
        (sent,), (said,) = place.provider.requests, told["requests"]
        assert said["method"] == sent.method and sent.target.endswith(said["path"]) and said["path"].startswith("/")
        assert said["body"] == json.loads(sent.body)
        assert sorted(said["headers"]) == sorted(name for name, _ in sent.headers)
        place.hides(json.dumps(told))


@pytest.mark.parametrize("name", ["anthropic", "openai", "gemini"])
@pytest.mark.parametrize("surface", ["messages", "responses"])
def test_other_surfaces(name: str, surface: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"messages": {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 300}, "responses": {"input": "Say hello."}}
    body = {"model": "m", **asked[surface]}
    with placed(name, tmp_path, monkeypatch) as place:
        told = explained(place.gateway, {"path": f"/v1/{surface}", "body": body})
        native = (name, surface) == ("anthropic", "messages") or (name, surface) == ("openai", "responses")
        assert (told["native"], told["api"], told["error"]) == (native, surface, None)
        assert told["estimate"]["input_tokens"] > 3 and "refused" not in fates(told).values()
        assert place.provider.requests == []
        if native:
            assert told["requests"][0]["path"].endswith(f"/{surface}") and fates(told)["model"] == "mapped"
        else:
            place.gateway.ask(body, f"/v1/{surface}")
            assert told["requests"][0]["body"] == json.loads(place.provider.requests[0].body)


def test_the_parameter_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = chat(temperature=1.7, seed=4, n=2, user="me", presence_penalty=0)
    with placed(
        "anthropic", tmp_path, monkeypatch, routes={"m": {"on_unsupported": "warn"}}, backends={"far": {"prices": PRICES}}
    ) as place:
        told = explained(place.gateway, odd)
        assert [note["param"] for note in told["parameters"]][:2] == ["model", "messages"]
        found = fates(told)
        assert (found["temperature"], found["seed"], found["n"]) == ("clamped", "dropped", "emulated")
        assert (found["model"], found["messages"]) == ("mapped", "sent") and all(
            note["why"] for note in told["parameters"] if note["fate"] != "sent"
        )
        assert len(told["requests"]) == 2
        read, most = told["estimate"]["input_tokens"], told["estimate"]["most_output_tokens"]
        assert told["estimate"]["input_cost"] == pytest.approx(2 * read * 3 / 1e6)
        assert told["estimate"]["most_cost"] == pytest.approx(2 * (read * 3 + most * 15) / 1e6)
    with placed("anthropic", tmp_path, monkeypatch) as place:
        told = explained(place.gateway, odd)
        assert told["requests"] == [] and told["error"]["status"] == 400 and told["error"]["param"] in odd
        assert fates(told)[told["error"]["param"]] == "refused"


def test_a_relay_and_what_its_kind_of_server_needs() -> None:
    with (
        Engine() as engine,
        running(config_for([engine], backend={"kind": "mistral", "key": KEY}, route={"on_unsupported": "drop"})) as gateway,
    ):
        told = explained(gateway, chat(seed=3, logit_bias={"1": 2}, store=False, metadata={"a": 1}))
        assert fates(told) == {
            "model": "mapped", "messages": "sent", "seed": "mapped", "logit_bias": "dropped", "store": "dropped", "metadata": "sent",
        }  # fmt: skip
        whys = {note["param"]: note["why"] for note in told["parameters"]}
        assert whys["seed"] == "sent as random_seed" and "no more than its absence" in whys["store"]
        assert told["requests"][0]["body"]["random_seed"] == 3 and "logit_bias" not in told["requests"][0]["body"]
        assert engine.requests == [] and KEY not in json.dumps(told)


@both_ways
def test_every_candidate_and_nothing_counted(asgi: bool) -> None:
    with Engine() as one, Engine() as two:
        config = config_for([one, two], route={"concurrency": 1}, more={
            "backends": {"other": {"url": one.url}},
            "routes": {"m": {"targets": [{"backend": "fake", "model": "a", "weight": 3}, {"backend": "other", "model": "b"}]}},
            "keys": [{"name": "k", "key": KEY, "routes": ["m"]}],
        })  # fmt: skip
        with running(config, asgi) as gateway:
            before = gateway.call(gateway.gateway.snapshot)
            for _ in range(5):
                told = explained(gateway, chat(), key=KEY)
            shares = {(c["replica"], c["model"]): c["share"] for c in told["candidates"]}
            assert shares == {("fake#0", "a"): 0.375, ("fake#1", "a"): 0.375, ("other", "b"): 0.25}
            assert [c["replica"] for c in told["candidates"] if c["chosen"]] == [told["decision"]["replica"]]
            after = gateway.call(gateway.gateway.snapshot)
            assert [r.total for r in after.replicas] == [r.total for r in before.replicas] and after.inflight_total == 0
            assert gateway.gateway.core.generation.routes["m"].inflight == 0
            assert one.requests == two.requests == []
            gateway.gateway.recorder.drain()
            assert gateway.call(lambda: gateway.gateway.recorder.recent(9)) == []


def test_who_may_not_ask_and_what_is_no_request() -> None:
    more = {"keys": [{"name": "k", "key": KEY, "routes": ["other"]}], "routes": {"other": {"targets": [{"backend": "fake"}]}}}
    with Engine() as engine, running(config_for([engine], more=more)) as gateway:
        assert explained(gateway, chat(), 401)["error"]["type"] == "authentication_error"
        assert explained(gateway, chat(), 404, KEY)["error"]["code"] == "model_not_found"
        assert explained(gateway, {"messages": []}, 400, KEY)["error"]["code"] == "missing_model"
        assert '"path"' in explained(gateway, {"model": "other", "input": "x"}, 400, KEY)["error"]["message"]
        assert explained(gateway, {"path": "/v1/files", "body": {}}, 400, KEY)["error"]["param"] == "path"
        assert explained(gateway, {"path": "/v1/rerank", "body": []}, 400, KEY)["error"]["param"] == "body"
        assert explained(gateway, b"{", 400, KEY)["error"]["type"] == "invalid_request_error"
        missing = {"path": "/v1/responses", "body": {"model": "other", "input": "x", "previous_response_id": "resp_none"}}
        assert explained(gateway, missing, 400, KEY)["error"]["param"] == "previous_response_id"
        told = explained(gateway, {"path": "responses", "body": {"model": "other", "input": 7}}, 200, KEY)
        assert told["error"]["param"] == "input" and told["route"] == "other" and told["candidates"]
        answer = gateway.get("/v1/explain", {"authorization": f"Bearer {KEY}"})
        assert answer.status == 405 and engine.requests == []


def test_nobody_can_take_it() -> None:
    with Engine() as engine, running(config_for([engine], backend={"slots": 1})) as gateway:
        (replica,) = gateway.gateway.fleet.replicas["fake"]

        def change(health: Any, inflight: int) -> None:
            replica.health, replica.inflight, replica.reason = health, inflight, "it sleeps"

        gateway.call(lambda: change("down", 0))
        told = explained(gateway, chat())
        assert told["error"]["code"] == "no_replica" and told["decision"] is None and "wait" not in told["error"]["message"]
        assert told["candidates"][0]["reason"] == "it sleeps" and not told["candidates"][0]["available"]
        gateway.call(lambda: change("ready", 1))
        assert "It would wait" in explained(gateway, chat())["error"]["message"]
        gateway.call(lambda: change("ready", 0))


@pytest.mark.parametrize(("api", "body", "tokens"), [
    ("completions", {"prompt": "four words of text"}, (3, 8)), ("completions", {"prompt": [1, 2, 3]}, (3, 3)),
    ("embeddings", {"input": ["one", "two"]}, (2, 6)), ("rerank", {"query": "a", "documents": ["b", {"text": "c"}]}, (2, 6)),
])  # fmt: skip
def test_other_calls(api: str, body: Doc, tokens: tuple[int, int]) -> None:
    with Engine() as engine, running(config_for([engine])) as gateway:
        told = explained(gateway, {"path": f"/v1/{api}", "body": {"model": "m", **body}})
        assert tokens[0] <= told["estimate"]["input_tokens"] <= tokens[1] and told["requests"][0]["path"] == f"/{api}"


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps(chat("hello", max_tokens=5)))
    with Engine() as engine, running(config_for([engine])) as gateway:
        assert main(["explain", str(asked), "--url", gateway.url]) == 0
        out = capsys.readouterr().out
        assert "chat call of model 'm'" in out and "goes to fake, model fake: weighted" in out and '"max_tokens": 5' in out
        asked.write_text(json.dumps({"model": "m", "input": "hello"}))
        assert main(["explain", str(asked), "--path", "/v1/embeddings", "--url", gateway.url]) == 0
        assert "POST /embeddings" in capsys.readouterr().out
        assert main(["explain", str(asked), "--url", gateway.url]) == 1
        assert "Say which endpoint" in capsys.readouterr().err
    for content, why in ((b"{", "is not JSON"), (b"[]", "no JSON object"), (b"\xff", "is not JSON")):
        asked.write_bytes(content)
        assert main(["explain", str(asked)]) == 2 and why in capsys.readouterr().err
    assert main(["explain", str(tmp_path / "none")]) == 2 and "No such file" in capsys.readouterr().err


def test_the_text_of_a_refusal_and_of_a_cost() -> None:
    told = {
        "api": "chat", "model": "m\x1b", "route": "m", "candidates": [
            {"replica": "a", "model": "x", "share": 1.0, "inflight": 0, "health": "down", "available": False, "reason": "gone"},
        ],
        "parameters": [{"param": "seed", "fate": "refused", "why": "no"}], "error": {"message": "No seed.", "code": "c"},
        "estimate": {"input_tokens": 9, "input_cost": 0.5, "most_cost": 1.0},
    }  # fmt: skip
    shown = text(told)
    assert "\x1b" not in shown and "it would fail: No seed. (c)" in shown and "seed: refused, no" in shown
    assert "down, not available (gone)" in shown and "about 9 tokens read, $0.500000 to read, at most $1.000000 in all" in shown
