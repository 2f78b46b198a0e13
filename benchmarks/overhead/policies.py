"""What choosing costs: Pointsman's `weighted` and `kv_aware` and other routers' cache-aware policies, over the same replicas and under the
same chats. CPU and requests a second. All are up at once and take short turns, the others held still; the ratios are taken within a round.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.overhead import chats, machine, meter, peers, phases, stats, tools
from benchmarks.overhead.peers import KEY, MODELS, Peer, Site
from benchmarks.overhead.run import FAULTS, SCHEMA, order
from benchmarks.overhead.target import PATH, Broken, Mock, Target, body
from benchmarks.overhead.together import sites

REPLICAS = 8
MODEL = "mock-sized"  # tells a prompt's true size, and nothing of a cache: what is cached only the policy knows
CONVERSATIONS = 600
CONNECTIONS = (16, 64)
WARM_SECONDS = 3.0
CHATS, SAME = "chats of 2 to 8 KiB", "one request of 0.7 KB"
WRK = tools.CSRC / "wrk_chats.lua"
BARS = (
    ("kv_aware", "weighted", 0.65),
    ("kv_aware", "vllm-cache-aware", 4.0),
    ("experiment", "weighted", 0.9),
)  # one, the other, requests/s of the one at least so many times
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure. Seconds; `peers` by name; `same`: the one request of the other phases in place of chats."""

    site: Site
    peers: dict[str, Peer]
    programs: dict[str, Path]
    cores: meter.Cores
    rounds: int
    seconds: float
    quiet: float
    out: Path
    command: tuple[str, ...]
    same: bool = False


def urls(site: Site) -> list[str]:
    """The replicas' base URLs, without a path."""
    return [f"http://127.0.0.1:{site.upstream_port + at}" for at in range(REPLICAS)]


def config(site: Site, policy: str, tried: bool = False) -> str:
    """Pointsman's configuration: one backend of all replicas, the policy on every route, a key that is checked; `tried`: an experiment of
    two arms that every call has a part in."""
    server: dict[str, Any] = {"host": "127.0.0.1", "port": site.port, "admin": {"port": 0}, "log": {"level": "warning"}}
    backend = {"urls": [f"{url}/v1" for url in urls(site)]}
    routes = {m: {"targets": [{"backend": "gpu", "model": m}], "policy": policy} for m in (*MODELS, MODEL)}
    whole = {"server": server, "keys": [{"name": "bench", "key": KEY}], "backends": {"gpu": backend}, "routes": routes}
    if tried:
        server["experiments"] = {"path": str(site.run / "experiments.db")}
        whole["experiments"] = {"ab": {"route": MODEL, "key": "user", "arms": {"a": {}, "b": {}}}}
    return json.dumps(whole)


def _pointsman(site: Site, policy: str, tried: bool = False) -> Peer | str:
    made = peers.make("pointsman", site)
    if isinstance(made, str):
        return made
    about = f"policy {policy}{', an experiment of two arms' if tried else ''}; auth, metrics and records on"
    return replace(made, files={"pointsman.yaml": config(site, policy, tried)}, about=about)


def _router(site: Site, name: str, policy: str) -> Peer | str:
    """A Rust router over all replicas. Its flags are those of `peers`, but for the workers and the policy."""
    made = peers.make(name, site)
    if isinstance(made, str):
        return made
    flags = list(made.command)
    at = flags.index("--worker-urls")
    flags[at + 1 : at + 2] = urls(site)
    flags[flags.index("--policy") + 1] = policy
    return replace(made, command=tuple(flags), about=f"Rust; policy {policy}, its defaults; retries and circuit breaker off")


_MAKERS: dict[str, Callable[[Site], Peer | str]] = {
    "weighted": lambda site: _pointsman(site, "weighted"),
    "experiment": lambda site: _pointsman(site, "weighted", tried=True),
    "kv_aware": lambda site: _pointsman(site, "kv_aware"),
    "vllm-cache-aware": lambda site: _router(site, "vllm-router", "cache_aware"),
    "sglang-cache-aware": lambda site: _router(site, "sglang-router", "cache_aware"),
    "vllm-round-robin": lambda site: _router(site, "vllm-router", "round_robin"),
}
NAMES = tuple(_MAKERS)
NAMED = frozenset({"weighted", "experiment"})  # whose chats name their users: an experiment assigns them


def make(name: str, site: Site) -> Peer | str:
    """The gateway of that name, or a sentence saying why it cannot run here. KeyError for a name that is not known."""
    return _MAKERS[name](site)


def check(target: Target) -> None:
    """Raises Broken unless a chat comes back as the mock answers it."""
    sent = next(chats.bodies(MODEL, 1))
    status, data = target.post(sent)
    try:
        answer = json.loads(data)
        good = status == 200 and answer["usage"]["prompt_tokens"] > len(sent) // 8 and answer["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as e:
        raise Broken(f"status {status}, not a chat completion: {data[:300]!r}") from e
    if not good:
        raise Broken(f"status {status}, not the mock's answer to {PATH}: {data[:300]!r}")


def run(plan: Plan, say: Say) -> dict[str, Any]:
    """Measures all; what was measured is saved after each, and one that fails is not tried again."""
    texts = {named: plan.site.run / f"chats-{'users' if named else 'plain'}.jsonl" for named in (False, True)}
    for named, text in texts.items():
        asked = chats.same(body(MODEL, False), named=named) if plan.same else chats.bodies(MODEL, CONVERSATIONS, named=named)
        text.write_text("".join(f"{one}\n" for one in asked))
    result: dict[str, Any] = {
        "schema": SCHEMA, "kind": "policies", "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()), "command": list(plan.command),
        "machine": machine.facts(plan.cores), "notes": {n: {"version": p.version, "about": p.about} for n, p in plan.peers.items()},
        "secs": plan.seconds, "load": SAME if plan.same else CHATS, "rounds": {n: [] for n in plan.peers}, "failed": {},
    }  # fmt: skip
    with Mock(plan.programs["mock"], plan.site, plan.cores.load, REPLICAS) as mock, ExitStack() as stack:
        bench = phases.Bench(plan.programs, plan.site.run, plan.cores, mock, plan.seconds)
        measuring = _Measuring(plan, bench, result, texts, say)
        for name, site in sites(plan.site, list(plan.peers)).items():
            measuring.start(name, site, stack)
        for turn in range(plan.rounds):
            measuring.round(turn)
            plan.out.parent.mkdir(parents=True, exist_ok=True)
            plan.out.write_text(json.dumps(result, indent=1))
    if result["rounds"].get("experiment"):  # all is written by now
        site = sites(plan.site, list(plan.peers))["experiment"]
        result["written"] = {"answered": measuring.answered["experiment"], "in_file": written(site)}
        plan.out.write_text(json.dumps(result, indent=1))
    return result


def written(site: Site) -> int:
    """Requests in the experiment's file: what was dropped cost nothing, and must not look like a low price."""
    with closing(sqlite3.connect(f"file:{site.run / 'experiments.db'}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT coalesce(sum(count), 0) FROM chunks").fetchone()[0])


class _Measuring:
    """All gateways up at once, held still but for the one whose turn it is: a machine's speed changes over seconds, so what is compared is
    measured within seconds; and what one still does in the background, as an experiment's analysis, must slow itself and no other. A turn
    begins at rest; what is done in the background every some seconds is in turns that are longer."""

    def __init__(self, plan: Plan, bench: phases.Bench, result: dict[str, Any], texts: dict[bool, Path], say: Say) -> None:
        self.plan, self.bench, self.result, self.texts, self.say = plan, bench, result, texts, say
        self.targets: dict[str, Target] = {}
        self.answered: Counter[str] = Counter()  # requests, also those of the warm-up

    def start(self, name: str, site: Site, stack: ExitStack) -> None:
        """Starts one and warms it up; `stack` ends it."""
        site.run.mkdir(parents=True, exist_ok=True)
        for old in site.run.glob("experiments.db*"):  # of an earlier run
            old.unlink()
        made = make(name, site)
        assert not isinstance(made, str), made  # it could be made a moment ago
        target = Target(name, site, made, self.plan.cores.gateway)
        stack.callback(_stop, target)
        self.targets[name] = target
        try:
            target.start()
            check(target)
            self._load(target, CONNECTIONS[0], WARM_SECONDS)
            target.rest()
        except FAULTS as e:
            self._failed(name, e)

    def round(self, turn: int) -> None:
        """Each in turn at each number of connections."""
        found: dict[str, dict[str, Any]] = {name: {} for name in self.targets}
        if self.plan.quiet:
            meter.wait_quiet(self.plan.cores, self.plan.quiet)
        for connections in CONNECTIONS:
            for name in order(list(self.targets), turn):
                target = self.targets[name]
                try:
                    target.wake()
                    meter.drain(target.root)
                    found[name][f"c{connections}"] = self._load(target, connections, self.plan.seconds)
                    found[name]["rss"] = {"mib": target.memory()}
                    target.rest()
                except FAULTS as e:  # one gateway's failure must not end the run
                    self._failed(name, e)
        for name, phase in found.items():
            if name in self.targets:
                self.result["rounds"][name].append(phase)
                rates = " ".join(f"{c}={phase[c]['rps']:.0f}/s {phase[c].get('cpu_us_per_req', 0):.0f}us" for c in phase if c != "rss")
                self.say(f"[{turn + 1}] {name}: {rates}, load {os.getloadavg()[0]:.1f}")

    def _load(self, target: Target, connections: int, seconds: float) -> dict[str, float]:
        settings = {"BODIES_FILE": str(self.texts[target.name in NAMED])}
        phase = phases.wrk(self.bench, target, connections, seconds, WRK, settings)
        self.answered[target.name] += int(phase["requests"])
        return phase

    def _failed(self, name: str, fault: Exception) -> None:
        target = self.targets.pop(name, None)
        if target is not None:
            _stop(target)
        self.result["failed"][name] = f"{type(fault).__name__}: {fault}"
        self.say(f"{name}: FAILED: {fault}")


def _stop(target: Target) -> None:
    with suppress(ProcessLookupError):
        target.stop()


def ratios(result: dict[str, Any], one: str, other: str, phase: str) -> list[float]:
    """Requests a second of the one for one of the other, round by round."""
    pairs = zip(result["rounds"].get(one, ()), result["rounds"].get(other, ()), strict=False)
    return [a[phase]["rps"] / b[phase]["rps"] for a, b in pairs if b[phase]["rps"]]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third; of a single value itself. Pure."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def markdown(result: dict[str, Any]) -> str:
    """The figures: medians over the rounds, and the bars."""
    lines = [f"Measured {result['when']}, {REPLICAS} replicas, {result.get('load', CHATS)}, {result['secs']:g} s a phase.", ""]
    lines += [f"- {name}: {value}" for name, value in result["machine"].items()]
    lines += [f"- {name}: {note['version']}; {note['about']}" for name, note in result["notes"].items()]
    lines += [f"- {name}: FAILED: {why}" for name, why in result["failed"].items()]
    heads = [f"{c} {what}" for c in (f"c{n}" for n in CONNECTIONS) for what in ("req/s", "CPU µs/req", "p50 ms", "errors")]
    lines += ["", "| gateway | " + " | ".join(heads) + " | MiB | disturbed |", "| --- |" + " ---: |" * (len(heads) + 2)]
    for name, rounds in result["rounds"].items():
        if rounds:
            lines.append(f"| {name} | " + " | ".join(_cells(rounds)) + " |")
    lines.append("")
    for one, other, bar in BARS:
        for phase in (f"c{n}" for n in CONNECTIONS):
            found = ratios(result, one, other, phase)
            if found:
                middle = statistics.median(found)
                held, (low, high) = "held" if middle >= bar else "missed", quartiles(found)
                lines.append(f"{one} / {other} at {phase}: {middle:.2f} (quartiles {low:.2f} to {high:.2f}); the bar of {bar:g} is {held}.")
    if seen := result.get("written"):
        lines.append(f"experiment: {seen['in_file']:,} of {seen['answered']:,} answered requests are in its file, {_all(seen)}.")
    return "\n".join(lines) + "\n"


def _all(found: dict[str, int]) -> str:
    """Those that wrk left when its time was over may be more or fewer than it counted."""
    return "all of them" if found["in_file"] >= 0.999 * found["answered"] else "NOT ALL: its price is higher than it looks"


def _cells(rounds: Sequence[dict[str, Any]]) -> list[str]:
    cells = []
    for phase in (f"c{n}" for n in CONNECTIONS):
        all_of = [r[phase] for r in rounds]
        errors = sum(int(p["bad_status"] + p["sock_err"]) for p in all_of)
        rate, cpu, wait = (statistics.median(p.get(key, 0) for p in all_of) for key in ("rps", "cpu_us_per_req", "p50"))
        cells += [f"{rate:,.0f}", f"{cpu:.0f}", f"{wait / 1000:.2f}", str(errors)]
    disturbed = sum(not stats.clean(r[f"c{n}"]) for r in rounds for n in CONNECTIONS)
    return [*cells, f"{statistics.median(r['rss']['mib'] for r in rounds):.0f}", f"{disturbed}/{len(rounds) * len(CONNECTIONS)}"]
