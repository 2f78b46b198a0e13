"""The supervisor with real processes: the real llama.cpp child, small scripted servers, and commands that fail."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from backends.engines.instance import Instance
from backends.engines.probe import Pace
from backends.engines.spec import EngineSpec
from backends.engines.supervisor import Supervisor
from tests.backends.engines import tiny

QUICK = Pace(check=0.05, timeout=0.3, grace=2.0, drain=5.0)
# Answers /health with 200; /hang makes it deaf, /die kills it. What it was given is at /seen.
SERVER = """
import http.server, json, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        if self.path == '/die': os._exit(9)
        if self.path == '/hang': import time; [time.sleep(1) for _ in iter(int, 1)]
        body = json.dumps({'argv': sys.argv, 'env': dict(os.environ), 'auth': self.headers['Authorization']}).encode()
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
print('serving', os.environ['POINTSMAN_API_KEY'], flush=True)
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()
"""


class Watched:
    """A supervisor whose changes can be awaited."""

    def __init__(self, pace: Pace = QUICK, drain: Callable[[Instance], Awaitable[None]] | None = None) -> None:
        self.changed = asyncio.Event()
        self.states: list[tuple[str, str]] = []
        self.supervisor = Supervisor(self._on_change, pace=pace, drain=drain)

    def _on_change(self, instance: Instance) -> None:
        if not self.states or self.states[-1] != (instance.name, instance.state):
            self.states.append((instance.name, instance.state))
        self.changed.set()

    def __getitem__(self, name: str) -> Instance:
        return next(instance for instance in self.supervisor.instances if instance.name == name)

    async def until(self, name: str, good: Callable[[Instance], bool]) -> Instance:
        async with asyncio.timeout(60):
            while True:
                for instance in self.supervisor.instances:
                    if instance.name == name and good(instance):
                        return instance
                self.changed.clear()
                await self.changed.wait()

    async def ready(self, name: str) -> Instance:
        return await self.until(name, lambda instance: instance.state == "ready")

    async def failed(self, name: str) -> Instance:
        return await self.until(name, lambda instance: instance.state == "failed")


def run(scenario: Callable[[Watched], Coroutine[Any, Any, None]], pace: Pace = QUICK) -> None:
    async def main() -> None:
        watched = Watched(pace)
        try:
            await scenario(watched)
        finally:
            await watched.supervisor.stop()
            assert watched.supervisor.instances == ()

    asyncio.run(main())


def command(name: str = "srv", script: str = SERVER, **fields: Any) -> EngineSpec:
    return EngineSpec(name, "command", command=(sys.executable, "-c", script, "{port}"), **fields)


def llamacpp(model: Path, name: str = "toy", **fields: Any) -> EngineSpec:
    return EngineSpec(name, "llamacpp", model=str(model), threads=1, **fields)


def _call(instance: Instance, path: str, body: object | None = None, key: str | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {instance.api_key if key is None else key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(instance.base_url + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


async def call(instance: Instance, path: str, body: object | None = None, key: str | None = None) -> tuple[int, Any]:
    return await asyncio.to_thread(_call, instance, path, body, key)


def gone(pid: int | None) -> bool:
    assert pid is not None
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def parent(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def arguments(pid: int | None) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


# -- llama.cpp ------------------------------------------------------------------------------------------------


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


# -- any command ------------------------------------------------------------------------------------------------


def test_the_key_is_in_the_environment_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_API_KEY", "sk-not-for-engines")
    monkeypatch.setenv("HF_TOKEN", "for-downloads")

    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([command(env={"OTHER": "{api_key}", "MY_SECRET": "hush-hush"})])
        srv = await watched.ready("srv#0")
        _, seen = await call(srv, "/seen")
        key = srv.api_key
        assert seen["env"]["POINTSMAN_API_KEY"] == key == seen["env"]["OTHER"] and seen["auth"] == f"Bearer {key}"
        assert not any(key in word for word in seen["argv"])
        assert not seen["env"].get("CLOUD_API_KEY") and seen["env"]["HF_TOKEN"] == "for-downloads"
        assert seen["env"]["MY_SECRET"] == "hush-hush"
        await watched.until("srv#0", lambda instance: any("serving" in line for line in instance.log.tail()))
        assert not any(key in line for line in srv.log.tail(400)), "the log hides it"
        assert key not in repr(srv) and key not in repr(srv.spec) and "hush" not in repr(srv.spec)
        for pid in (parent(srv.pid), srv.pid):
            assert key not in arguments(pid)

    run(scenario)


def test_a_hanging_engine_is_restarted(tmp_path: Path) -> None:
    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([command()])
        srv = await watched.ready("srv#0")
        pid = srv.pid or 0
        os.kill(pid, signal.SIGSTOP)
        await watched.until("srv#0", lambda instance: instance.restarts == 1 and instance.state == "ready")
        assert gone(pid) and any("did not answer 3 health probes" in line for line in srv.log.tail(400))

    run(scenario)


BUSY = SERVER.replace("http.server.HTTPServer((", "import threading; S = http.server.HTTPServer((").replace(
    ".serve_forever()", "; threading.Thread(target=S.serve_forever, daemon=True).start()\nimport signal, time\n"
    "def spin(*a):\n  end = time.monotonic() + 2.0\n  sys.setswitchinterval(100)\n  while time.monotonic() < end: pass\n"
    "signal.signal(signal.SIGUSR1, spin)\nwhile True: signal.pause()",
)  # fmt: skip


def test_a_busy_engine_is_only_slow() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([command(script=BUSY)])
        srv = await watched.ready("srv#0")
        pid = srv.pid
        os.kill(pid or 0, signal.SIGUSR1)  # computes for 2 s with every other thread locked out
        started = time.monotonic()
        status, _ = await call(srv, "/seen")
        assert status == 200 and time.monotonic() - started > 0 and srv.pid == pid and srv.restarts == 0 and srv.state == "ready"

    run(scenario)


def test_commands_that_cannot_run() -> None:
    async def scenario(watched: Watched) -> None:
        specs = [
            EngineSpec("none", "command", command=("no-such-program-here", "{port}")),
            EngineSpec("quits", "command", command=("sh", "-c", "echo Error: no luck today >&2; exit 4")),
            EngineSpec("silent", "command", command=("sh", "-c", "exit 5")),
            EngineSpec("abort", "command", command=("sh", "-c", "kill -ABRT $$")),
            EngineSpec("vllm", "vllm", model="m", python=sys.executable),
            EngineSpec("slow", "command", command=("sleep", "1000"), ready_seconds=0.2),
        ]
        await watched.supervisor.apply(specs)
        expected = {
            "none": "no-such-program-here cannot be run: No such file or directory", "quits": "exited with code 4; no luck today",
            "silent": "exited with code 5.", "abort": "ended by SIGABRT", "vllm": "the Python module vllm is not installed",
            "slow": "was not ready within 0.2 s",
        }  # fmt: skip
        for name, says in expected.items():
            instance = await watched.failed(f"{name}#0")
            assert says in instance.reason and instance.reason.endswith("."), instance.reason
        assert watched["none#0"].restarts == 0 and watched["quits#0"].restarts == 2

    run(scenario)


def test_a_taken_port_is_changed() -> None:
    first_is_taken = (
        "import os, sys, socket\nflag = os.environ['FLAG']\n"
        "if not os.path.exists(flag):\n    open(flag, 'w').close(); s = socket.socket(); t = socket.socket()\n"
        "    s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); t.bind(('127.0.0.1', int(sys.argv[1])))\n"
    ) + SERVER

    async def scenario(watched: Watched, flag: str) -> None:
        await watched.supervisor.apply([command(script=first_is_taken, env={"FLAG": flag})])
        srv = await watched.ready("srv#0")
        assert srv.restarts == 1 and any("Address already in use" in line for line in srv.log.tail(400))

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run(lambda watched: scenario(watched, folder + "/flag"))


def test_too_much_memory_is_named() -> None:
    hungry = SERVER.replace("print('serving'", "x = bytearray(300 << 20); print('serving'")

    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([command(script=hungry, memory=100 << 20)])
        srv = await watched.until("srv#0", lambda instance: bool(instance.reason))
        assert re.search(r"it used \d+ MiB of the 100 MiB it may have; give it more with `memory`", srv.reason)

    run(scenario)


def test_apply_changes_only_what_changed() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([command("a"), command("b"), command("c")])
        pids = {name: (await watched.ready(name)).pid for name in ("a#0", "b#0", "c#0")}
        await watched.supervisor.apply([command("a"), command("b", env={"X": "1"}), command("d")])
        await watched.ready("b#0")
        await watched.ready("d#0")
        assert [instance.name for instance in watched.supervisor.instances] == ["a#0", "b#0", "d#0"]
        assert watched["a#0"].pid == pids["a#0"] and watched["b#0"].pid != pids["b#0"] and gone(pids["b#0"])
        with pytest.raises(ValueError, match="same name"):
            await watched.supervisor.apply([command("a"), command("a")])
        with pytest.raises(KeyError):
            watched.supervisor.restart("nobody#0")

    run(scenario)


def test_stop_lets_requests_end_first() -> None:
    async def main() -> None:
        order: list[str] = []

        async def drain(instance: Instance) -> None:
            assert instance.state == "stopping" and not gone(instance.pid)
            order.append((await call(instance, "/seen"))[0])  # type: ignore[arg-type]

        watched = Watched(drain=drain)
        await watched.supervisor.apply([command()])
        srv = await watched.ready("srv#0")
        pid = srv.pid
        await watched.supervisor.stop()
        assert order == [200] and gone(pid) and srv.state == "stopped" and srv.pid is None

    asyncio.run(main())


def test_works_on_uvloop_and_leaves_nothing(model: Path) -> None:
    pids: list[int] = []

    async def main() -> None:
        watched = Watched()
        stubborn = command("stubborn", "import signal; signal.signal(15, signal.SIG_IGN)\n" + SERVER)
        await watched.supervisor.apply([llamacpp(model), stubborn])
        pids.extend(instance.pid or 0 for instance in (await watched.ready("toy#0"), await watched.ready("stubborn#0")))
        await watched.supervisor.stop()

    uvloop.run(main())
    assert len(pids) == 2 and all(gone(pid) for pid in pids)


def test_stop_while_starting() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([command(), EngineSpec("slow", "command", command=("sleep", "1000"))])

    run(scenario)


BUILTIN = Path(__file__).resolve().parents[3] / "quant" / "builtin" / "pointsman-toy.gguf"


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
