"""Real vLLM and SGLang on the CPU: as backends that the gateway launches, and the same servers as remote ones.

The model is random, so texts are noise: shapes, counts and failures are what is looked at. `./scripts/test --full` installs the engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.config import Config, parse
from routing.types import Replica
from tests.engines import install
from tests.engines.launch import sglang_command, vllm_command
from tests.harness import Running, running

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
READY_SECONDS = 400.0
SLOTS = 2  # streams that an engine serves at once
STREAMS = 8  # of which it is killed in the midst


def launched(kind: str) -> Config:
    """A gateway that runs the engine itself, with the flags that it needs on a CPU."""
    root = install.default_dir()
    python, model = install.python_of(kind, root), install.model_of(root)
    if not Path(python).exists() or not Path(model).exists():
        pytest.skip(f"{kind} is not installed: python tests/engines/install.py {kind} model")
    command = vllm_command if kind == "vllm" else sglang_command
    argv, env = command(Path(python), Path(model), 0, slots=SLOTS)
    at = argv.index("--context-length" if kind == "sglang" else "--max-model-len")
    backend = {
        "engine": kind, "model": str(model), "served_name": "tiny", "python": str(python), "args": argv[at:], "env": env,
        "ready_seconds": READY_SECONDS,
    }  # fmt: skip
    config = {
        "server": {"port": 0, "admin": {"port": 0}, "wait_seconds": READY_SECONDS, "log": {"level": "error"}},
        "backends": {kind: backend}, "routes": {"m": {"targets": [{"backend": kind, "model": "tiny"}]}},
    }  # fmt: skip
    return parse(json.dumps(config), {})


@pytest.fixture(scope="module", params=["vllm", "sglang"])
def engine(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A gateway with one engine that it launched, ready."""
    with running(launched(request.param)) as gateway:
        assert _wait(gateway).health == "ready"
        yield gateway


def _wait(gateway: Running) -> Replica:
    async def until() -> Replica:
        replica = gateway.gateway.fleet.every()[0]
        for _ in range(int(READY_SECONDS * 2)):
            if replica.health != "loading":
                break
            await asyncio.sleep(0.5)  # polls a state; how long an engine takes to load is not ours to know
        assert replica.health == "ready", (replica.reason, gateway.gateway.engine_log(replica.name, 30))
        return replica

    return gateway.run(until(), READY_SECONDS + 60)


def client(gateway: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url, api_key="none", max_retries=0, timeout=120)


def ask(gateway: Running, **more: Any) -> Any:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 8, "temperature": 0}
    return client(gateway).chat.completions.create(**{**body, **more})


def test_chat_whole_and_streamed(engine: Running) -> None:
    whole = ask(engine)
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.completion_tokens <= 8
    chunks = list(ask(engine, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage is not None and chunks[-1].choices == []
    assert sum(1 for c in chunks if c.choices and c.choices[0].finish_reason) == 1
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content  # greedy: the same tokens


def test_usage_is_recorded_though_not_asked_for(engine: Running) -> None:
    chunks = list(ask(engine, stream=True))
    assert all(c.usage is None for c in chunks)
    engine.call(lambda: engine.gateway.recorder.drain())
    record = engine.call(lambda: engine.gateway.recent(1))[0]
    assert record.usage is not None and record.usage.output > 0


def test_logprobs_and_schema(engine: Running) -> None:
    logprobs = ask(engine, logprobs=True, top_logprobs=2).choices[0].logprobs
    assert len(logprobs.content[0].top_logprobs) == 2
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    answer = ask(engine, max_tokens=64, response_format=wanted)
    if answer.choices[0].finish_reason == "stop":
        assert json.loads(answer.choices[0].message.content)["a"] in ("x", "y")


def test_errors_are_the_engines_own_in_our_envelope(engine: Running) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(engine, messages=[{"role": "user", "content": "word " * 4000}])
    error = caught.value.response.json()["error"]
    assert error["origin"] == "backend"
    assert "2048" in error["message"]


def test_tokenize(engine: Running) -> None:
    answer = engine.ask({"model": "m", "prompt": "hello there"}, "/tokenize")
    assert answer.status == 200, answer.body
    assert json.loads(answer.body)["count"] == len(json.loads(answer.body)["tokens"])


def test_as_a_remote_server(engine: Running) -> None:
    """The same engine once more behind a second gateway, found by its model list."""
    url = engine.call(lambda: engine.gateway.fleet.every()[0].url)
    key = next(iter(engine.gateway.fleet.instances())).api_key
    config = {
        "server": {"port": 0, "admin": {"port": 0}, "log": {"level": "error"}},
        "backends": {"far": {"url": f"{url}/v1", "key": key, "discover": True}},
    }  # fmt: skip
    with running(parse(json.dumps(config), {})) as second:
        assert [m.id for m in client(second).models.list().data] == ["tiny"]
        answer = client(second).chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=4)
        assert answer.usage is not None and answer.usage.completion_tokens <= 4


def test_a_killed_engine_ends_streams_with_an_error_and_comes_back(engine: Running) -> None:
    """Far more than the engine can do at once is asked of it, so that much is unfinished when the first chunk is seen."""
    instance = next(iter(engine.gateway.fleet.instances()))
    before = instance.restarts
    group = _group(instance.pid)
    _keep_to_one_core(group)
    begun = threading.Event()
    with ThreadPoolExecutor(STREAMS) as pool:
        ends = [pool.submit(_end_of_a_stream, engine, begun) for _ in range(STREAMS)]
        assert begun.wait(120)
        for pid in group:
            os.kill(pid, signal.SIGKILL)
        seen = [end.result(READY_SECONDS + 60) for end in ends]  # those not begun may wait for the engine that comes next
    assert "broken" in seen, seen
    assert set(seen) <= {"length", "error", "broken"}, seen  # none just stops
    assert _back(engine, before)
    assert ask(engine).usage.completion_tokens > 0


def _end_of_a_stream(engine: Running, begun: threading.Event) -> str | None:
    """The finish reason of one long stream; where the client was told of an error, "broken" in its midst, else "error"."""
    reason, seen = None, False
    try:
        for chunk in ask(engine, stream=True, max_tokens=1400, extra_body={"ignore_eos": True}):
            seen = True
            begun.set()
            reason = chunk.choices[0].finish_reason or reason
    except openai.APIError:
        return "broken" if seen else "error"
    return reason


def _group(pid: int | None) -> list[int]:
    """The engine's process and all below it."""
    assert pid is not None
    found = [pid]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += _group(int(entry.name))
    return found


def _keep_to_one_core(group: list[int]) -> None:
    """vLLM's processes wait for each other in a loop that never sleeps. With one of them on each of two cores, everybody else, this
    process included, was seen to stand still until the engine had nothing left to do: there was no stream left to break."""
    core = {min(os.sched_getaffinity(0))}
    for pid in group:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # a thread that has ended
                os.sched_setaffinity(int(task.name), core)


def _back(gateway: Running, before: int) -> bool:
    async def until() -> bool:
        for _ in range(int(READY_SECONDS * 2)):
            instance = next(iter(gateway.gateway.fleet.instances()))
            if instance.restarts > before and instance.state == "ready":
                return True
            await asyncio.sleep(0.5)  # polls a state, as above
        return False

    return gateway.run(until(), READY_SECONDS + 60)
