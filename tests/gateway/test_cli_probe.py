"""`pointsman probe` on every kind of provider and on the scripted engine, over real sockets, and what it writes into a configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from backends.facts import facts
from backends.probe.ask import Asker
from gateway import cli_probe
from gateway.cli import main
from gateway.config import ConfigError, load, parse
from tests.fakes.answers import respond
from tests.fakes.engine import Engine
from tests.fakes.openai import respond as usual
from tests.fakes.request import Request
from tests.fakes.script import Script
from tests.gateway.provided import CASES, account

Doc = dict[str, Any]


@contextmanager
def provided(name: str, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Any]]:
    """A configuration file with this provider's scripted server as the backend `far`."""
    case = CASES[name]
    for variable, value in case.environ.items():
        patch.setenv(variable, value)
    provider = case.provider()
    with provider.serving() as root, account(folder) as paper:
        backend = {"kind": case.kind, "url": root + case.path, **case.backend} | ({"credentials": paper} if case.account else {})
        file = folder / "pointsman.yaml"
        file.write_text(
            yaml.safe_dump({"backends": {"far": backend}, "routes": {"m": {"targets": [{"backend": "far", "model": case.model}]}}})
        )
        yield file, provider


def probed(file: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> Doc:
    assert main(["probe", "far", "--config", str(file), "--yes", "--json", *flags]) == 0
    found: Doc = json.loads(capsys.readouterr().out)
    return found


# Some of the scripted servers break off where they have no path.
BESIDE = {"models", "completions", "embeddings", "dimensions", "abort", "tokenize"}
# What must come out whatever else does: verdicts by check, and facts. The scripted servers refuse what the real ones refuse.
WANTED: dict[str, tuple[Doc, Doc]] = {
    "openai": ({"n": "pass", "logprobs": "pass", "usage-unasked": "pass", "unknown-parameter": "unsupported"}, {"many": True}),
    "openai, reasoning": (
        {"temperature": "unsupported", "stop": "unsupported", "tool-named": "pass"}, {"sampling": False, "logprobs": False, "many": False},
    ),
    "azure": ({"chat": "pass", "unknown-model": "pass"}, {"json_schema": "native"}),
    "azure, dated": ({"models": "skipped", "tools-parallel": "pass"}, {"many": True}),
    "anthropic": (
        {"temperature-top-p": "unsupported", "context-limit": "pass", "audio": "unsupported", "reasoning-effort": "pass"},
        {"temperature_with_top_p": False, "late_system": False, "prefill": True, "seed": False, "documents": True},
    ),
    "gemini": ({"n": "unsupported", "audio": "pass", "tools-and-schema": "unsupported"}, {"many": False, "full_schema": True}),
    "vertex": ({"n": "unsupported", "prefill": "unsupported", "pdf": "pass"}, {"many": False, "prefill": False}),
    "vertex-anthropic": ({"chat": "pass", "image": "pass"}, {"late_system": False}),
    "vertex-endpoint": ({"chat": "pass", "models": "skipped"}, {"images": True}),
    "bedrock": ({"unknown-model": "fail", "n": "fail"}, {"many": False, "audio": False}),
    "bedrock, signed": ({"chat": "pass", "tool-results": "pass"}, {"json_schema": "native"}),
}  # fmt: skip


@pytest.mark.parametrize("name", WANTED)
def test_a_provider(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    verdicts, settled = WANTED[name]
    with provided(name, tmp_path, monkeypatch) as (file, _):
        out = probed(file, capsys, "--write", str(tmp_path / "far.yaml"))
        found = {result["name"]: result["verdict"] for result in out["results"]}
        assert {check: found[check] for check in verdicts} == verdicts
        assert {fact: out["facts"][fact] for fact in settled} == settled
        lost = [result for result in out["results"] if result["verdict"] == "error" and result["name"] not in BESIDE]
        assert not lost, lost
        assert (out["unsupported"] == []) or CASES[name].kind in ("openai", "azure")
        text = json.dumps(out) + (tmp_path / "far.yaml").read_text()
        assert not [secret for secret in CASES[name].secrets if secret in text]
        # what was found is a configuration, of the backend and of a target
        tree = yaml.safe_load(file.read_text())
        tree["backends"]["far"]["probed"] = "far.yaml"
        tree["routes"]["m"]["targets"][0]["probed"] = "far.yaml"
        file.write_text(yaml.safe_dump(tree))
        config = load(file)
        assert config.backends["far"].facts.given() == out["facts"] == config.routes["m"].targets[0].facts.given()
        assert config.backends["far"].unsupported == set(out["unsupported"])
        known = facts(CASES[name].kind, CASES[name].model, config.facts(config.routes["m"].targets[0]))
        assert all(getattr(known, fact) == value for fact, value in settled.items())


def test_nothing_is_sent_where_it_may_be_billed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with provided("anthropic", tmp_path, monkeypatch) as (file, provider):
        assert main(["probe", "far", "--config", str(file), "--only", "chat,seed"]) == 2
        said = capsys.readouterr().err
        assert "this may be billed: at most 5 calls, 300 tokens read and 160 written: about $0.0033. Add --yes" in said
        assert provider.requests == []
        assert main(["probe", "far", "--config", str(file), "--only", "chat", "--yes"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("chat  pass         'You said: ") and "1 pass" in out and "facts: none" in out
        assert len(provider.requests) == 1


# --- servers of one's own


def engine_file(folder: Path, url: str, **backend: Any) -> Path:
    file = folder / "pointsman.yaml"
    file.write_text(yaml.safe_dump({"backends": {"far": {"url": url, **backend}}}))
    return file


def asking(paths: dict[str, Any]) -> Callable[[Request], Script]:
    """The usual engine, but for GETs of some paths."""

    def reply(request: Request) -> Script:
        found = paths.get(request.path)
        if request.doc and request.doc.get("max_tokens") == 1000:  # the one that is left: it goes on for ever
            return usual(request).but(cut=1000, ending="stall")
        if found is None:
            return usual(request)
        body = found() if callable(found) else found
        return respond([body if isinstance(body, bytes) else json.dumps(body).encode()])

    return reply


@pytest.mark.parametrize(("name", "gauge", "verdict"), [
    ("/metrics", [b"vllm:num_requests_running{a=\"b\"} 1.0\n", b"vllm:num_requests_running 0.0\n"], "pass"),
    ("/metrics", [b"sglang:num_running_reqs 2\n"], "fail"),
    ("/metrics", [b"sglang:num_running_reqs x\n"], "unsupported"),
    ("/slots", [b'[{"is_processing": true}]', b'[{"is_processing": false}]'], "pass"),
])  # fmt: skip
def test_an_abort_is_seen_in_the_gauge(
    name: str, gauge: list[bytes], verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def pause(seconds: float) -> None:
        return None

    monkeypatch.setattr(cli_probe, "Asker", partial(Asker, pause=pause))
    left = [*gauge]
    none = {path: b"{}" for path in ("/slots", "/metrics") if path != name}
    with Engine(responder=asking({name: lambda: left.pop(0) if len(left) > 1 else left[0], **none})) as engine:
        found = probed(engine_file(tmp_path, engine.url), capsys, "--model", "fake", "--only", "abort")
        outcome = next(r for r in found["results"] if r["name"] == "abort")
        assert outcome["verdict"] == verdict, outcome


def test_the_first_model_that_is_listed_and_its_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = {"object": "list", "data": [{"id": "fake", "max_model_len": 2048}, {"id": "other"}]}
    with Engine(responder=asking({"/v1/models": listed})) as engine:
        found = probed(engine_file(tmp_path, engine.url, kind="vllm"), capsys, "--only", "models,usage-unasked")
        assert found["model"] == "fake" and found["facts"] == {"context": 2048} and found["kind"] == "vllm"
        assert [r["name"] for r in found["results"]] == ["chat", "usage-unasked", "models"]
    with Engine(responder=asking({"/v1/models": {"data": []}})) as engine:
        assert main(["probe", "far", "--config", str(engine_file(tmp_path, engine.url))]) == 1
        assert "`far` lists no models, so say which one: --model MODEL" in capsys.readouterr().err


def test_what_cannot_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = engine_file(tmp_path, "http://127.0.0.1:9/v1")
    command = ["probe", "--config", str(file)]
    assert main([*command, "farr"]) == 2 and "there is: far. Did you mean `far`?" in capsys.readouterr().err
    assert main([*command, "far", "--only", "made-up"]) == 2 and "there is no check 'made-up'" in capsys.readouterr().err
    assert main([*command, "far", "--model", "m", "--only", "chat"]) == 1  # nobody there: told as a table all the same
    out = capsys.readouterr().out
    assert "chat  error" in out and "127.0.0.1" in out
    file.write_text("backends: 7")
    assert main([*command, "far"]) == 2 and "backends" in capsys.readouterr().err
    file.write_text(yaml.safe_dump({"backends": {"far": {"engine": "llamacpp", "model": str(tmp_path / "none.gguf")}}}))
    assert main([*command, "far"]) == 1 and "`far` cannot be asked" in capsys.readouterr().err


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Engine() as engine:
        flags = [
            "--config",
            str(engine_file(tmp_path, engine.url)),
            "--model",
            "fake",
            "--only",
            "chat",
            "--write",
            str(tmp_path / "no" / "x"),
        ]
        assert main(["probe", "far", *flags]) == 1
        assert "cannot write" in capsys.readouterr().err


# --- what was probed, in a configuration


def configured(folder: Path, told: Any, **backend: Any) -> Any:
    (folder / "found.yaml").write_text(told if isinstance(told, str) else yaml.safe_dump(told))
    return parse(json.dumps({"backends": {"b": {"url": "http://h/v1", "probed": "found.yaml", **backend}}}), {}, folder=folder)


def test_what_the_file_says_wins_over_what_was_probed(tmp_path: Path) -> None:
    told = {"facts": {"seed": False, "context": 100}, "unsupported": ["seed", "n"]}
    backend = configured(tmp_path, told, facts={"seed": True}, unsupported=["n", "stop"]).backends["b"]
    assert backend.facts.given() == {"seed": True, "context": 100} and backend.unsupported == {"seed", "n", "stop"}


@pytest.mark.parametrize(("told", "why"), [
    ("facts: [", "cannot read .*not valid YAML"), ("[]", "was not written by"), ({"facts": {}}, "was not written by"),
    ({"facts": {}, "unsupported": [], "backends": {}}, "was not written by"), ({"facts": {"made_up": 1}, "unsupported": []}, "made_up"),
])  # fmt: skip
def test_a_probed_file_that_is_none(told: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why):
        configured(tmp_path, told)


def test_a_probed_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    def read(**backend: Any) -> Any:
        return parse(json.dumps({"backends": {"b": {"url": "http://h/v1", **backend}}}), {}, folder=tmp_path)

    with pytest.raises(ConfigError, match=r"\$\.backends\.b\.probed: cannot read .*No such file"):
        read(probed="none.yaml")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read(probed="bytes")
    (tmp_path / "good").write_text("{facts: {}, unsupported: []}")
    for wrong in ({"facts": 7}, {"unsupported": 7}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            read(probed="good", **wrong)
    with pytest.raises(ConfigError, match="probed"):
        read(probed=7)
    for routes in (7, {"m": 7}, {"m": {"targets": 7}}, {"m": {"targets": [7]}}):
        with pytest.raises(ConfigError, match="routes"):
            parse(json.dumps({"backends": {}, "routes": routes}), {})
