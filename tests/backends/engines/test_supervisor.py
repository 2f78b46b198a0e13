"""The supervisor with real processes: small scripted servers, commands that fail, and llama.cpp among them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
import uvloop

from backends.engines import probe
from backends.engines.instance import Instance
from backends.engines.probe import Pace
from backends.engines.spec import EngineSpec
from tests.backends.engines.watched import SERVER, Watched, arguments, call, command, gone, llamacpp, parent, run


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


def test_an_engine_that_cannot_have_its_port_and_does_not_end_gets_another(tmp_path: Path) -> None:
    once = tmp_path / "once"
    script = f"""
import os, sys, time
if not os.path.exists({str(once)!r}):
    open({str(once)!r}, 'w').close()
    print(f"[Errno 98] error while attempting to bind on address ('127.0.0.1', {{sys.argv[1]}}): address already in use", flush=True)
    time.sleep(600)
""" + SERVER  # fmt: skip

    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([command(script=script)])
        srv = await watched.ready("srv#0")
        assert srv.restarts == 1 and any("was taken, and it did not end by itself" in line for line in srv.log.tail(400))

    run(scenario, Pace(check=0.05, timeout=0.3, grace=0.2, drain=5.0))


def test_ports_of_engines_are_not_those_of_outgoing_connections() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]) if sys.platform == "linux" else 49_152
    ports = [probe.free_port() for _ in range(50)]
    assert len(set(ports)) > 40
    assert low - probe.LOWEST_PORT <= 1000 or all(probe.LOWEST_PORT <= port < low for port in ports)
