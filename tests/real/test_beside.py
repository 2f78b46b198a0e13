"""What users of llama.cpp put beside a model, through the gateway, on the real engine: LoRA adapters, a projector, a model that drafts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from backends.engines.spec import Lora
from gateway.config import ConfigError, parse
from quant import builtin, fit_engine
from tests.backends.engines import beside
from tests.harness import Client, Running, running

WAIT = 120.0  # a generous bound


def toy(**backend: Any) -> dict[str, Any]:
    return {"engine": "llamacpp", "model": "builtin", "slots": 2, "context": 512, "ready_seconds": 120, **backend}


def started(backends: dict[str, dict[str, Any]]) -> Any:
    """A gateway with a route of its own for each backend."""
    return running(parse(json.dumps({
        "server": {"port": 0, "admin": {"port": None}, "log": {"level": "error"}}, "backends": backends,
        "routes": {name: {"targets": [{"backend": name}]} for name in backends},
    }), {}))  # fmt: skip


def ask(gateway: Running, model: str, content: Any = "Count to 9", **more: Any) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 40, "temperature": 0, **more}
    with Client(gateway.port, seconds=WAIT) as client:
        answer = client.ask(body)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def text(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_adapters_change_the_model_as_far_as_they_count(tmp_path: Path) -> None:
    path = str(beside.adapter(tmp_path / "style.gguf", builtin.path()))
    backends = {"plain": toy(), "all": toy(lora=[path]), "none": toy(lora=[{"path": path, "scale": 0.0}])}
    with started(backends) as gateway:
        plain, changed, same = (text(ask(gateway, name)) for name in backends)
        specs = {instance.spec.name: instance.spec for instance in gateway.gateway.fleet.instances()}
    assert plain == same == "1, 2, 3, 4, 5, 6, 7, 8, 9" != changed
    assert specs["all"].lora == (Lora(path),) and specs["none"].lora == (Lora(path, 0.0),)
    assert fit_engine.footprint(specs["all"]) - fit_engine.footprint(specs["plain"]) == Path(path).stat().st_size


def test_a_small_model_drafts_and_nothing_else_changes() -> None:
    with started({"plain": toy(), "fast": toy(draft="builtin", draft_tokens=5)}) as gateway:
        plain, fast = (ask(gateway, name) for name in ("plain", "fast"))
        specs = {instance.spec.name: instance.spec for instance in gateway.gateway.fleet.instances()}
    assert text(plain) == text(fast) and plain["usage"] == fast["usage"]
    assert fast["timings"]["draft_n_accepted"] > 10 and "draft_n" not in plain["timings"]
    assert fit_engine.footprint(specs["fast"]) - fit_engine.footprint(specs["plain"]) > builtin.path().stat().st_size


def test_a_projector_lets_a_model_see(tmp_path: Path) -> None:
    path = str(beside.projector(tmp_path / "eyes.gguf"))

    def shown(gateway: Running, colour: tuple[int, int, int]) -> Any:
        parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": beside.picture(*colour)}}]
        return ask(gateway, "eyes", parts, logprobs=True)["choices"][0]["logprobs"]["content"][0]["logprob"]

    with started({"eyes": toy(projector=path)}) as gateway:
        red, blue, again = (shown(gateway, colour) for colour in ((255, 0, 0), (0, 0, 255), (255, 0, 0)))
        assert text(ask(gateway, "eyes")) == "1, 2, 3, 4, 5, 6, 7, 8, 9", "and still reads"
    assert red == pytest.approx(again, abs=1e-4) and red != blue


@pytest.mark.parametrize(("wish", "sees"), [(True, True), (False, False)])
def test_the_projector_of_a_model_that_is_named_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: bool, sees: bool
) -> None:
    folder = tmp_path / "models" / "hf" / "me" / "Eyes-GGUF"
    folder.mkdir(parents=True)
    shutil.copyfile(builtin.path(), folder / "Eyes-Q8_0.gguf")
    eyes = beside.projector(folder / "mmproj-Eyes-F32.gguf")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "pointsman").mkdir()
    (tmp_path / "models").rename(tmp_path / "pointsman" / "models")
    with started({"m": toy(model="hf:me/Eyes-GGUF", projector=wish)}) as gateway:
        assert text(ask(gateway, "m")) == "1, 2, 3, 4, 5, 6, 7, 8, 9"
        (instance,) = gateway.gateway.fleet.instances()
        assert instance.spec.projector == (str(tmp_path / "pointsman" / eyes.relative_to(tmp_path)) if sees else "")


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (toy(lora=["/nowhere/style.gguf"]), "`lora` is /nowhere/style.gguf, and there is no such file"),
        (toy(projector="/nowhere/eyes.gguf"), "`projector` is /nowhere/eyes.gguf, and there is no such file"),
        (toy(draft="/nowhere/small.gguf"), "/nowhere/small.gguf"),
    ],
)
def test_what_is_not_there_is_said(backend: dict[str, Any], said: str) -> None:
    with started({"m": backend}) as gateway:
        gateway.until(lambda: gateway.gateway.fleet.replicas["m"][0].health == "down", "the fault")
        assert said in gateway.call(lambda: gateway.gateway.fleet.replicas["m"][0].reason)


@pytest.mark.parametrize(
    ("backend", "path", "said"),
    [
        ({"engine": "vllm", "model": "x", "lora": ["a"]}, "lora", "is not used by `engine: vllm`"),
        ({"engine": "vllm", "model": "x", "projector": "a"}, "projector", "is not used by `engine: vllm`"),
        ({"engine": "sglang", "model": "x", "draft": "a"}, "draft", "is not used by `engine: sglang`"),
        (toy(draft_tokens=3), "draft_tokens", "says nothing without `draft`"),
        ({"url": "http://127.0.0.1:1/v1", "lora": ["a"]}, "lora", "engine"),
    ],
)
def test_the_configuration_says_what_cannot_be(backend: dict[str, Any], path: str, said: str) -> None:
    document = {"backends": {"b": backend}, "routes": {"r": {"targets": [{"backend": "b", "model": "x"}]}}}
    with pytest.raises(ConfigError) as error:
        parse(json.dumps(document), {})
    assert f"$.backends.b.{path}" in str(error.value) and said in str(error.value)
