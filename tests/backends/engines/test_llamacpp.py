"""The real llama.cpp child under the supervisor."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backends.engines import tiny
from tests.backends.engines.watched import Watched, call, gone, llamacpp, parent, run

BUILTIN = Path(__file__).resolve().parents[3] / "quant" / "builtin" / "pointsman-toy.gguf"


def test_llamacpp_serves_chat_and_embeddings_at_once(model: Path) -> None:
    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([llamacpp(model, context=256, slots=2)])
        assert [instance.state for instance in watched.supervisor.instances] == ["starting"], "apply does not wait"
        toy = await watched.ready("toy#0")
        assert toy.facts["context"] == 256 and toy.facts["slots"] == 2 and toy.fact("vocab") == 262 and toy.reason == "" == toy.progress
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}
        replies = await asyncio.gather(
            *(call(toy, "/v1/chat/completions", chat) for _ in range(3)),
            *(call(toy, "/v1/embeddings", {"input": ["a", "he"]}) for _ in range(3)),
        )
        assert [status for status, _ in replies] == [200] * 6
        assert len({reply["choices"][0]["message"]["content"] for _, reply in replies[:3]}) == 1
        assert [len(item["embedding"]) for item in replies[3][1]["data"]] == [64, 64]
        for path in ("/v1/models", "/slots", "/props", "/health"):
            assert (await call(toy, path))[0] == 200
        assert (await call(toy, "/tokenize", {"content": "he"}))[1] == {"tokens": [260]}
        assert (await call(toy, "/v1/models", key="wrong"))[0] == 401
        assert (await call(toy, "/v1/models", key=""))[0] == 401

    run(scenario)


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(model: Path) -> None:
    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([llamacpp(model, context=250, slots=2)])
        toy = await watched.ready("toy#0")
        status, reply = await call(toy, "/v1/completions", {"prompt": "x" * 300, "max_tokens": 1})
        assert status == 400 and (reply["error"]["n_prompt_tokens"], reply["error"]["n_ctx"]) == (300, 256)
        assert toy.facts["context"] == 256
        assert "300" in reply["error"]["message"] and "256" in reply["error"]["message"]

    run(scenario)


def test_killed_engine_is_back_with_a_new_key(model: Path) -> None:
    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([llamacpp(model)])
        toy = await watched.ready("toy#0")
        pid, key, url = toy.pid, toy.api_key, toy.base_url
        assert pid is not None
        for round_ in range(1, 3):
            os.kill(toy.pid or 0, signal.SIGKILL)
            await watched.until("toy#0", lambda instance: instance.state == "restarting")
            await watched.ready("toy#0")
            assert toy.restarts == round_
        assert toy.pid != pid and toy.api_key != key and toy.base_url != url and gone(pid)
        assert (await call(toy, "/v1/completions", {"prompt": "a", "max_tokens": 1}))[0] == 200
        assert any("SIGKILL" in line for line in toy.log.tail(400))

    run(scenario)


def test_killed_wrapper_takes_the_engine_along_and_comes_back(model: Path) -> None:
    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([llamacpp(model)])
        toy = await watched.ready("toy#0")
        pid = toy.pid
        os.kill(parent(pid), signal.SIGKILL)
        await watched.until("toy#0", lambda instance: instance.restarts == 1 and instance.state == "ready")
        assert gone(pid)

    run(scenario)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path, whole: path.write_bytes(whole[: len(whole) // 2]), r"bad\.gguf is not a usable GGUF model: .* truncated"),
        (lambda path, whole: path.write_bytes(b"no model at all"), r"does not start with GGUF"),
        (lambda path, whole: None, r"bad\.gguf does not exist"),
        (lambda path, whole: tiny.write(path, {"llama.block_count": 10**6}), r"block_count is 1000000"),
        (lambda path, whole: tiny.write(path, {"general.architecture": "perceptron"}), r"could not load bad\.gguf \(.*unknown model arch"),
    ],
    ids=["truncated", "no GGUF", "missing", "hostile", "unknown architecture"],
)
def test_an_unreadable_model_fails_at_once(tmp_path: Path, model: Path, make: Callable[[Path, bytes], object], says: str) -> None:
    make(tmp_path / "bad.gguf", model.read_bytes())

    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([llamacpp(tmp_path / "bad.gguf", "bad"), llamacpp(model)])
        bad = await watched.failed("bad#0")
        assert re.search(says, bad.reason) and bad.reason.endswith(".") and "\n" not in bad.reason
        assert bad.restarts == 0 and bad.pid is None and bad.base_url == ""
        await watched.ready("toy#0")

    run(scenario)


def test_a_mended_model_is_tried_again_on_request(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "late.gguf"

    async def scenario(watched: Watched) -> None:
        spec = llamacpp(path, "late")
        await watched.supervisor.apply([spec])
        late = await watched.failed("late#0")
        shutil.copy(model, path)
        watched.supervisor.restart("late#0")
        assert (await watched.ready("late#0")) is late and late.reason == ""
        os.unlink(path)
        os.kill(late.pid or 0, signal.SIGKILL)
        await watched.failed("late#0")
        shutil.copy(model, path)
        await watched.supervisor.apply([spec])  # a reload tries failed engines again, too
        await watched.ready("late#0")

    run(scenario)


def test_bad_engine_arguments_are_one_sentence(model: Path) -> None:
    async def scenario(watched: Watched) -> None:
        for argument in ("nonsense=1", "api_keys=[]", "n_batch=x", "__class__=1", "n_batch", 'n_batch="many"'):
            await watched.supervisor.apply([llamacpp(model, args=(argument,))])
            toy = await watched.failed("toy#0")
            assert argument.partition("=")[0] in toy.reason and "engine argument" in toy.reason
            await watched.supervisor.apply([])
        await watched.supervisor.apply([llamacpp(model, args=("kv_unified=true", "sampling.top_k=5"))])
        await watched.ready("toy#0")

    run(scenario)


def test_replicas_are_separate(model: Path) -> None:
    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([llamacpp(model, replicas=2)])
        one, two = await watched.ready("toy#0"), await watched.ready("toy#1")
        assert one.pid != two.pid and one.base_url != two.base_url and one.api_key != two.api_key
        pid = one.pid
        await watched.supervisor.apply([llamacpp(model)])
        assert [instance.name for instance in watched.supervisor.instances] == ["toy#0"]
        assert watched["toy#0"] is one and one.pid == pid and one.state == "ready", "the first one was left alone"

    run(scenario)


def test_the_built_in_model_answers() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([llamacpp(BUILTIN)])
        toy = await watched.ready("toy#0")
        body = {"messages": [{"role": "user", "content": "Repeat: banana"}], "max_tokens": 16, "temperature": 0}
        status, reply = await call(toy, "/v1/chat/completions", body)
        assert status == 200 and reply["choices"][0]["message"]["content"] == "banana"
        status, reply = await call(toy, "/v1/embeddings", {"input": "banana"})
        assert status == 200 and len(reply["data"][0]["embedding"]) == toy.fact("embedding")

    run(scenario)
