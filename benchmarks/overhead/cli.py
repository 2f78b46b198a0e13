"""The command line: `python -m benchmarks.overhead`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.overhead import html, install, meter, peers, policies, report, run, soak, together, tools
from benchmarks.overhead.peers import Peer, Site
from benchmarks.overhead.proc import port_in_use
from benchmarks.overhead.target import Broken

EXAMPLES = """examples:
  python -m benchmarks.overhead --install all          once: the peers that come from PyPI
  python -m benchmarks.overhead --smoke                start and check each gateway, measure nothing
  python -m benchmarks.overhead --quiet 60 --html overhead.html
  python -m benchmarks.overhead --peers direct,nginx,pointsman --rounds 1
  python -m benchmarks.overhead --report result.json --html result.html
  python -m benchmarks.overhead --soak --peers pointsman
  python -m benchmarks.overhead --together gateways.md   all up at once, measured in turns by `pointsman bench overhead`
  python -m benchmarks.overhead --policies --quiet 60  what choosing costs: weighted, kv_aware, routers' cache_aware over 8 replicas
"""
AGAIN_SECONDS = 2.0  # after a signal, should it have been lost
SOAK_PEERS = ("nginx", "pointsman")


def say(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _within(low: float, high: float) -> Any:
    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value:g} is not between {low:g} and {high:g}")
        return value

    return read


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description="What a gateway costs, side by side on this machine: loopback only, one core for the gateway, one for load and mock.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--peers", metavar="A,B", help=f"what to measure (default: all that are installed of {','.join(peers.NAMES)})")
    p.add_argument("--rounds", type=int, default=3, choices=range(1, 51), metavar="N", help="rounds over all of them (default 3)")
    p.add_argument("--secs", type=_within(1, 60), default=3.0, metavar="S", help="seconds a phase, 1 to 60 (default 3)")
    p.add_argument("--quiet", type=_within(0, 3600), default=0.0, metavar="S", help="before each, wait so long at most for idle cores")
    p.add_argument("--smoke", action="store_true", help="start and check each, measure nothing")
    p.add_argument("--soak", action="store_true", help="memory over 200,000 answers and 2,000,000 streamed chunks")
    p.add_argument("--policies", action="store_true", help=f"policies over {policies.REPLICAS} replicas: {','.join(policies.NAMES)}")
    p.add_argument("--same", action="store_true", help="policies likewise, by the one request of the other phases in place of chats")
    p.add_argument("--together", type=Path, metavar="OUT.md", help="all at once, in turns, by `pointsman bench overhead`; its tables there")
    p.add_argument("--soak-scale", type=_within(0.0001, 1), default=1.0, metavar="X", help="that part of the soak's counts (default 1)")
    p.add_argument("--list", action="store_true", help="name the gateways, and why one cannot run here")
    p.add_argument("--install", metavar="A,B", help=f"make the virtual environments of peers: {','.join(peers.ENVS)} or all")
    p.add_argument("--report", type=Path, metavar="FILE", help="tables (and --html) of an earlier result, measures nothing")
    p.add_argument("--out", type=Path, metavar="FILE", help="raw results as JSON (default: results/ in the cache folder)")
    p.add_argument("--html", type=Path, metavar="FILE", help="a report to look at, one file")
    p.add_argument("--pointsman", metavar="CMD", help="how Pointsman is called (default: the one beside this Python, or on PATH)")
    p.add_argument("--cache", type=Path, default=tools.cache_dir(), metavar="DIR", help="builds and results (default: %(default)s)")
    p.add_argument("--envs", type=Path, metavar="DIR", help="virtual environments of the peers (default: envs/ in the cache folder)")
    p.add_argument("--port", type=int, default=19100, choices=range(1024, 65300), metavar="N", help="the mock's; gateways get N+100, N+150")
    return p


def site_of(a: argparse.Namespace) -> Site:
    """The folders and ports that the options mean."""
    folder = a.cache.resolve() / f"run-{a.port}"
    folder.mkdir(parents=True, exist_ok=True)
    envs = (a.envs or a.cache / "envs").resolve()
    return Site(folder, envs, a.port + 100, a.port, peers.find_pointsman(a.pointsman))


def choose(
    wanted: Sequence[str] | None, site: Site, known: Sequence[str] = peers.NAMES, make: Callable[[str, Site], Peer | str] = peers.make
) -> tuple[dict[str, Peer | None], dict[str, str]]:
    """The gateways to run, and those that cannot with the reason. Asked for by name, one that cannot run raises Missing."""
    names = wanted or known
    unknown = [n for n in names if n not in known]
    if unknown:
        raise tools.Missing(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    found: dict[str, Peer | None] = {}
    absent: dict[str, str] = {}
    for name in names:
        made = None if name == "direct" else make(name, site)
        if isinstance(made, str):
            absent[name] = made
        else:
            found[name] = made
    if wanted and absent:
        raise tools.Missing("\n".join(f"{n}: {why}" for n, why in absent.items()))
    return found, absent


def needs(a: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """The programs that this run cannot do without."""
    found = ["cc", *(["taskset"] if len(os.sched_getaffinity(0)) > 1 else [])]
    if not (a.smoke or a.soak):
        found.append("wrk")
    if "nginx" in names:
        found.append("nginx")
    return found


def plan_of(a: argparse.Namespace) -> run.Plan:
    """Everything that a run needs, or Missing."""
    wanted = a.peers.split(",") if a.peers else list(SOAK_PEERS) if a.soak else None
    tools.require(needs(a, wanted or peers.NAMES))
    site = site_of(a)
    found, absent = choose(wanted, site)
    for name, why in absent.items():
        say(f"left out: {name}: {why}")
    files = tools.raise_file_limit()
    if files < 4096:
        say(f"only {files} open files are allowed (ulimit -Hn): the phases with many streams will lose some")
    default = a.cache / "results" / time.strftime(("soak-" if a.soak else "") + "%Y%m%d-%H%M%S.json", time.gmtime())
    return run.Plan(
        site=site,
        peers=found,
        programs=tools.build(a.cache),
        cores=meter.Cores.choose(os.sched_getaffinity(0)),
        rounds=a.rounds,
        seconds=a.secs,
        quiet=a.quiet,
        out=a.out or default,
        command=("python", "-m", "benchmarks.overhead", *sys.argv[1:]),
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    say(f"written: {path}")


def read_result(path: Path) -> Any:
    """The content of a result file of a run or a soak. Raises Missing for anything else."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise tools.Missing(f"{path} is not a result of this harness: {e}") from e
    wanted = {"soaks"} if isinstance(data, dict) and data.get("kind") == "soak" else {"rounds", "failed", "notes", "repeats"}
    if not isinstance(data, dict) or data.get("schema") != run.SCHEMA or not wanted | {"when", "machine", "command"} <= set(data):
        raise tools.Missing(f"{path} is not a result of this harness, or of another version")
    return data


def show(path: Path, page: Path | None) -> int:
    """Prints the tables of an earlier result and writes its page."""
    data = read_result(path)
    if data.get("kind") == "soak":
        soaks = soak.from_json(data)
        sys.stdout.write(soak.markdown(soaks))
        text = html.soak_page(data["when"], data["machine"], soaks)
    else:
        sys.stdout.write(report.markdown(data))
        text = html.page(data)
    if page is not None:
        _write(page, text)
    return 0


def measure(a: argparse.Namespace) -> int:
    """Smoke, soak or the whole run."""
    plan = plan_of(a)
    run.pin_self(plan.cores)
    if a.smoke:
        return 1 if run.smoke(plan, say) else 0
    assert plan.out is not None
    if a.soak:
        soaks = soak.run(plan, say, a.soak_scale)
        _write(plan.out, json.dumps(soak.as_json(plan, soaks), indent=1))
        failed = any(s.failed for s in soaks)
    else:
        failed = bool(run.run(plan, say)["failed"])
    show(plan.out, a.html)
    say(f"raw results: {plan.out}")
    return 1 if failed else 0


def measure_policies(a: argparse.Namespace) -> int:
    """What choosing costs; see `policies`."""
    tools.require(["cc", "wrk", *(["taskset"] if len(os.sched_getaffinity(0)) > 1 else [])])
    site = site_of(a)
    found, absent = choose(a.peers.split(",") if a.peers else None, site, policies.NAMES, policies.make)
    for name, why in absent.items():
        say(f"left out: {name}: {why}")
    tools.raise_file_limit()
    cores = meter.Cores.choose(os.sched_getaffinity(0))
    out = a.out or a.cache / "results" / time.strftime("policies-%Y%m%d-%H%M%S.json", time.gmtime())
    here = {name: peer for name, peer in found.items() if peer is not None}
    command = ("python", "-m", "benchmarks.overhead", *sys.argv[1:])
    plan = policies.Plan(site, here, tools.build(a.cache), cores, a.rounds, a.secs, a.quiet, out, command, a.same)
    for port in (*range(site.port, site.port + len(here)), *(site.upstream_port + at for at in range(policies.REPLICAS))):
        if port_in_use(port):
            raise Broken(f"port {port} is in use; choose others with --port")
    run.pin_self(cores)
    result = policies.run(plan, say)
    sys.stdout.write(policies.markdown(result))
    say(f"raw results: {out}")
    return 1 if result["failed"] else 0


def measure_together(a: argparse.Namespace) -> int:
    """All of them at once; see `together`."""
    tools.require(["cc", *(["taskset"] if len(os.sched_getaffinity(0)) > 1 else [])])
    site = site_of(a)
    found, absent = choose(a.peers.split(",") if a.peers else None, site)
    for name, why in absent.items():
        say(f"left out: {name}: {why}")
    tools.raise_file_limit()
    cores = meter.Cores.choose(os.sched_getaffinity(0))
    run.pin_self(cores)
    names = [name for name in found if name != "direct"]
    return together.run(site, names, peers.make, tools.build(a.cache)["mock"], cores, a.rounds, a.secs, a.together)


def list_peers(a: argparse.Namespace) -> int:
    """Names every gateway with its version, or why it cannot run here."""
    site = site_of(a)
    sys.stdout.write("direct: the mock itself, without a gateway\n")
    for name in peers.NAMES[1:]:
        made = peers.make(name, site)
        text = made if isinstance(made, str) else "; ".join(x for x in (made.version, made.about) if x)
        sys.stdout.write(f"{name}: {text}\n")
    return 0


def _interrupt(*_: object) -> None:
    """So that what was started is ended on SIGTERM too. Comes again until that begins: an exception that is raised while an object is being
    collected is lost."""
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0 done, 1 a gateway failed, 2 something is missing."""
    a = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if a.list:
            return list_peers(a)
        if a.install:
            names = list(peers.ENVS) if a.install == "all" else a.install.split(",")
            unknown = [n for n in names if n not in peers.ENVS]
            if unknown:
                raise tools.Missing(f"unknown: {', '.join(unknown)}; known: {', '.join(peers.ENVS)}")
            return 1 if install.install((a.envs or a.cache / "envs").resolve(), names, say) else 0
        if a.policies or a.same:
            return measure_policies(a)
        if a.together is not None:
            return measure_together(a)
        return show(a.report, a.html) if a.report else measure(a)
    except (tools.Missing, Broken) as e:
        say(str(e))
        return 2
    except KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
        say("interrupted; what this run started was ended")
        return 130
