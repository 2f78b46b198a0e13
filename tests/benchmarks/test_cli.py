"""Options, what is missing and how it is said, how peers are started."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.overhead import cli, install, machine, peers, soak, tools
from benchmarks.overhead.meter import Cores
from benchmarks.overhead.peers import Peer, Site
from tests.benchmarks.programs import needs_cc
from tests.benchmarks.samples import small
from tests.benchmarks.test_html import soaks


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site whose Pointsman is `/bin/pointsman`."""
    return Site(tmp_path, tmp_path / "envs", 19200, 19100, ("/bin/echo",))


def absent(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Makes programs not to be found."""
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **k: None if name in names else found(name, **k) or f"/bin/{name}")


def test_everything_missing_is_said_at_once_with_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "cc", "wrk", "nginx")
    with pytest.raises(tools.Missing) as e:
        tools.require(["cc", "wrk", "nginx", "taskset"])
    assert str(e.value) == (
        "missing: cc, wrk, nginx\n"
        "  cc: builds the mock upstream and the load generator\n"
        "  wrk: the load without streaming\n"
        "  nginx: the reference that the ratios are taken to\n"
        "install (Debian, Ubuntu): sudo apt-get install build-essential nginx wrk\n"
        "install (Fedora): sudo dnf install gcc glibc-devel nginx wrk\n"
        "install (Arch): sudo pacman -S gcc nginx wrk"
    )
    tools.require([])


def test_a_run_without_its_tools_ends_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    absent(monkeypatch, "wrk")
    assert cli.main(["--cache", str(tmp_path), "--peers", "direct"]) == 2
    assert capsys.readouterr().err.startswith("missing: wrk\n")


@pytest.mark.parametrize(
    ("arguments", "peers_wanted", "expected"),
    [
        ([], ["nginx", "direct"], {"cc", "wrk", "nginx"}),
        (["--smoke"], ["nginx"], {"cc", "nginx"}),
        (["--soak"], ["pointsman"], {"cc"}),
        ([], ["direct"], {"cc", "wrk"}),
    ],
)
def test_only_what_is_needed_is_asked_for(arguments: list[str], peers_wanted: list[str], expected: set[str]) -> None:
    assert set(cli.needs(cli.parser().parse_args(arguments), peers_wanted)) - {"taskset"} == expected


@needs_cc
def test_programs_are_built_once(tmp_path: Path) -> None:
    first = tools.build(tmp_path)
    before = {n: p.stat().st_mtime_ns for n, p in first.items()}
    assert tools.build(tmp_path) == first and {n: p.stat().st_mtime_ns for n, p in first.items()} == before
    assert sorted(first) == ["load", "mock"] and all(p.parent == tmp_path / "build" for p in first.values())
    assert tools.build(tmp_path, ("-O0",)) != first


@needs_cc
def test_a_failed_build_says_what_the_compiler_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mock.c").write_text("int main(void) { return missing; }\n")
    monkeypatch.setattr(tools, "CSRC", tmp_path)
    with pytest.raises(tools.Missing, match=r"missing.* undeclared"):
        tools.build(tmp_path)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert tools.cache_dir() == Path("/x/pointsman-benchmarks")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/a")
    assert tools.cache_dir() == Path("/home/a/.cache/pointsman-benchmarks")


def test_raising_the_file_limit_never_lowers_it() -> None:
    before = tools.raise_file_limit(16)
    assert before >= 16 and tools.raise_file_limit(16) == before


def test_pointsman_is_started_with_a_key_two_replicas_and_one_route_a_model(site: Site) -> None:
    made = peers.make("pointsman", site)
    assert isinstance(made, Peer)
    assert made.command == ("/bin/echo", "serve", "--config", str(site.run / "pointsman.yaml"), "--port", "19200")
    assert made.headers == ("Authorization: Bearer sk-bench",)
    url = {"url": "http://127.0.0.1:19100/v1"}
    assert yaml.safe_load(made.files["pointsman.yaml"]) == {
        "server": {"port": 19200, "host": "127.0.0.1", "admin": {"port": 0}, "log": {"level": "warning"}},
        "keys": [{"name": "bench", "key": "sk-bench"}],
        "backends": {"a": url, "b": url},
        "routes": {
            m: {"targets": [{"backend": b, "model": m} for b in "ab"]} for m in ("mock", "mock-64x0ms", "mock-64x20ms", "mock-paced-16x4ms")
        },
    }
    logging = peers.make("pointsman-log", site)
    assert isinstance(logging, Peer) and logging.command == made.command and "a line of JSON a request" in logging.about
    assert yaml.safe_load(logging.files["pointsman.yaml"])["server"]["log"] == {"level": "info", "format": "json"}
    asgi = peers.make("pointsman-asgi", site)
    assert isinstance(asgi, Peer) and asgi.command[1:3] == ("serve", "--asgi") and asgi.files == made.files


def test_what_cannot_run_says_why(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Site(site.run, site.envs, 19200, 19100, None)
    assert str(peers.make("pointsman", bare)).startswith("not installed: pip install pointsman")
    assert peers.make("sglang-router", bare) == "not installed: python -m benchmarks.overhead --install sglang-router"
    assert peers.make("vllm-router", bare) == "not installed: python -m benchmarks.overhead --install vllm-router"
    monkeypatch.setattr(peers, "_has", lambda python, modules: False)
    assert peers.make("uvicorn-aiohttp", bare) == peers.make("protocol-relay", bare)
    absent(monkeypatch, "nginx")
    assert peers.make("nginx", bare) == "nginx is not installed"
    with pytest.raises(KeyError):
        peers.make("nonsense", bare)


def test_nginx_gets_the_ports_and_no_mark_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find", lambda name: "/bin/echo")
    made = peers.make("nginx", site)
    assert isinstance(made, Peer)
    text = made.files["nginx.conf"]
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert not any("@" in line for line in lines)
    assert "    listen 127.0.0.1:19200 backlog=4096;" in lines and "server 127.0.0.1:19100;" in text
    assert made.command == ("/bin/echo", "-p", str(site.run), "-e", f"{site.run}/nginx.err", "-c", f"{site.run}/nginx.conf")


def test_the_rust_routers(site: Site) -> None:
    for name in ("sglang-router", "vllm-router"):
        python = site.envs / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\nexit 0\n")
        python.chmod(0o755)
        made = peers.make(name, site)
        assert isinstance(made, Peer)
        text = " ".join(made.command)
        assert "--host 127.0.0.1 --port 19200 --worker-urls http://127.0.0.1:19100 --policy round_robin" in text
        assert "--prometheus-port 19250" in text and "--disable-retries" in text


def test_finding_pointsman(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert peers.find_pointsman("python -m 'a b'") == ("python", "-m", "a b")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert peers.find_pointsman(None) is None
    (tmp_path / "pointsman").write_text("")
    assert peers.find_pointsman(None) == (str(tmp_path / "pointsman"),)


def test_installing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    class Done:
        returncode = 0

    def run(command: list[str], check: bool) -> Done:
        ran.append(command)
        done = Done()
        done.returncode = 1 if "vllm-router==0.1.17" in command else 0
        return done

    monkeypatch.setattr(subprocess, "run", run)
    said: list[str] = []
    assert install.install(tmp_path, ["sglang-router", "vllm-router"], said.append) == 1
    assert ran == [*install.commands(tmp_path, "sglang-router"), *install.commands(tmp_path, "vllm-router")]
    assert said[-1].startswith("vllm-router: FAILED: ")
    assert all("==" in p for e in peers.ENVS.values() for p in e.packages)


def test_unknown_names_end_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["--install", "all,nonsense", "--cache", str(tmp_path)]) == 2
    assert "unknown: all, nonsense; known: baselines, sglang-router, vllm-router" in capsys.readouterr().err
    with pytest.raises(tools.Missing, match="unknown: nonsense; known: direct, nginx, pointsman, "):
        cli.choose(["direct", "nonsense"], Site(tmp_path, tmp_path, 1, 2))


def test_what_is_asked_for_by_name_must_be_there(site: Site) -> None:
    bare = Site(site.run, site.envs, 19200, 19100, None)
    with pytest.raises(tools.Missing, match=r"^sglang-router: not installed"):
        cli.choose(["direct", "sglang-router"], bare)
    found, left_out = cli.choose(None, bare)
    assert next(iter(found)) == "direct" and found["direct"] is None
    assert {"pointsman", "pointsman-asgi", "sglang-router", "vllm-router"} <= set(left_out) and not set(found) & set(left_out)


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "0"], ["--rounds", "51"], ["--secs", "0.5"], ["--secs", "61"], ["--port", "80"], ["--soak-scale", "2"], ["--x"]],
)
def test_options_are_bounded(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        cli.main(arguments)
    assert e.value.code == 2 and "usage" in capsys.readouterr().err


def test_listing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    program = tmp_path / "p"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "pointsman 9.8.7"\n')
    program.chmod(0o755)
    assert cli.main(["--list", "--cache", str(tmp_path), "--pointsman", str(program)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(peers.NAMES)
    assert "pointsman: pointsman 9.8.7; auth, two replicas, metrics and records on" in lines


def test_an_earlier_result_is_shown_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(small()))
    assert cli.main(["--report", str(tmp_path / "run.json"), "--html", str(tmp_path / "new" / "run.html")]) == 0
    assert "| pointsman | 42,000 |" in capsys.readouterr().out
    assert (tmp_path / "new" / "run.html").read_text().startswith("<!doctype html>")


def test_an_earlier_soak_is_shown_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = {
        "kind": "soak",
        "when": "2026",
        "machine": {},
        "schema": 1,
        "command": [],
        "soaks": json.loads(json.dumps([vars(s) for s in soaks()], default=vars)),
    }
    assert soak.from_json(data) == soaks()
    (tmp_path / "soak.json").write_text(json.dumps(data))
    assert cli.main(["--report", str(tmp_path / "soak.json"), "--html", str(tmp_path / "soak.html")]) == 0
    assert "| pointsman | 40.0 | 50.0 | 51.5 | 52.0 | 52.2 | +1.5 | +0.2 |" in capsys.readouterr().out
    assert "Not finished: nginx" not in (tmp_path / "soak.html").read_text() and "grow?" in (tmp_path / "soak.html").read_text()


@pytest.mark.parametrize("text", ["not json", "[]", '{"schema": 99}', "{}", '{"schema": 1, "kind": "soak"}'])
def test_a_file_that_is_no_result_ends_with_2(text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    assert cli.main(["--report", str(tmp_path / "x.json")]) == 2
    assert "is not a result of this harness" in capsys.readouterr().err


def test_the_machine_is_described() -> None:
    found = machine.facts(Cores(0, 1))
    assert {"processor", "cores", "kernel", "python"} <= set(found) and all(isinstance(v, str) and v for v in found.values())
    assert machine.cpu_model("vendor_id : x\nmodel name\t: A: B\n") == "A: B" and machine.cpu_model("") == ""
    assert machine.siblings(Cores(None, None)) == "not pinned"
