"""`pointsman bench overhead`: what a gateway adds to the server behind it, in turn with that server itself.

Three loads. Streams one at a time: each request to every server, one right after the other, in random order, so that a server's mood falls
out of the difference. Streams many at a time: a stage of each server in turn, rounds of them in random order. Whole small answers, many at
a time: by wrk where it is installed, since a client in Python is slower than what it measures; else by this client, and its own limit
(the same load on a server that computes nothing) stands beside the figures. What is added is the difference between percentiles, not the
percentile of differences.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.bench import added, files, pairs, wrk
from benchmarks.bench.added import Overhead
from benchmarks.bench.calm import Calm
from benchmarks.bench.client import Client
from benchmarks.bench.drive import Limits, run_stage
from benchmarks.bench.errors import BenchError
from benchmarks.bench.nullserver import MODEL as NULL_MODEL
from benchmarks.bench.nullserver import running as null_server
from benchmarks.bench.options import Options, base
from benchmarks.bench.progress import Progress
from benchmarks.bench.provenance import provenance
from benchmarks.bench.running import json_of, measured
from benchmarks.bench.session import Interrupted, Session, or_stop, prepare
from benchmarks.bench.words import SECONDS_OF_LAG, Health, Profile, Stage, Target

DIRECT, NULL = "direct", "null server"
SUFFIXES = (".json", ".md")
_BODIES = 200  # prompts that wrk sends in turn


class Party(msgspec.Struct, frozen=True):
    """One server of the comparison, and how it is called."""

    name: str
    options: Options


class Plan(msgspec.Struct, frozen=True):
    """What is measured: gateways, the server behind them, the higher of both loads, whether wrk may be used."""

    gateways: tuple[Party, ...]
    direct: Party
    concurrency: int
    rounds: int
    own: bool


def plan(
    options: Options, gateways: Sequence[str], models: Sequence[str], keys: Sequence[str], environment: Mapping[str, str], concurrency: int,
    *, own: bool,
) -> Plan:  # fmt: skip
    """The command line as a plan. Raises BenchError."""
    of_model, of_key = _named(models, "--model-of"), _named(keys, "--key-of")
    parties = []
    for number, text in enumerate(gateways):
        name, separator, url = text.partition("=")
        if not separator or "/" in name or ":" in name:
            name, url = ("gateway" if len(gateways) == 1 else f"gateway {number + 1}"), text
        parties.append((name, url))
    names = [name for name, _ in parties]
    if len({*names, DIRECT, NULL}) != len(names) + 2:
        raise BenchError(f"every gateway needs a name of its own, other than {DIRECT!r} and {NULL!r}: NAME=URL", usage=True)
    for name in {*of_model, *of_key} - {*names, DIRECT}:
        raise BenchError(f"there is no gateway {name[:60]!r}; there is {', '.join(names)}", usage=True)
    found = tuple(_party(options, name, url, of_model, of_key, environment) for name, url in parties)
    return Plan(found, _party(options, DIRECT, options.url, of_model, of_key, environment), concurrency, options.repeats, own)


def _named(pairs_: Sequence[str], option: str) -> dict[str, str]:
    found = {}
    for pair in pairs_:
        name, separator, value = pair.partition("=")
        if not separator or not name or not value:
            raise BenchError(f"{option} {pair[:80]!r} is not NAME=VALUE", usage=True)
        found[name] = value
    return found


def _party(
    options: Options, name: str, url: str, models: Mapping[str, str], keys: Mapping[str, str], environment: Mapping[str, str]
) -> Party:  # fmt: skip
    base(url)  # a wrong one is told before anything is sent
    key = options.key
    if name in keys:
        if not environment.get(keys[name]):
            raise BenchError(f"--key-of {name}={keys[name]}: that environment variable is not set", usage=True)
        key = environment[keys[name]]
    return Party(name, msgspec.structs.replace(options, url=url, model=models.get(name, options.model), key=key))


def main(plan_: Plan, outs: Sequence[Path], *, overwrite: bool, as_json: bool) -> int:
    """Measures, tells, writes; the exit code. Blocks. Raises BenchError."""
    progress = Progress(sys.stderr)
    try:
        found = measured(lambda stop: measure(plan_, progress.say, stop))
    finally:
        progress.close()
    try:
        for path in outs:
            content = added.markdown(found) if path.suffix.lower() == ".md" else json_of(found)
            files.save(path, [content.encode()], overwrite)
    finally:
        sys.stdout.write(json_of(found) if as_json else added.text(found))
        sys.stdout.flush()
    if found.interrupted:
        sys.stderr.write("pointsman bench: interrupted: these are the figures until then\n")
    answered = any(rate.sent > rate.failed for rate in found.rates if rate.party != NULL) or bool(found.added)
    if found.late:
        sys.stderr.write("pointsman bench: the client was the bottleneck: its stamps were late, see the warnings\n")
    return 0 if answered and not found.interrupted and not found.late else 1


async def measure(plan_: Plan, say: Callable[[str], None], stop: asyncio.Event) -> Overhead:
    """All three loads. `stop`: set it, and what was measured until then is the answer. Raises BenchError, Interrupted."""
    run = _Run(plan_, say, stop)
    try:
        await or_stop(run.prepare(), stop)
        await run.all()
    finally:
        await run.close()
    if not run.rows and not run.rates:
        raise Interrupted("interrupted before anything was measured")
    servers = {name: session.facts for name, session in run.sessions.items()}
    options = plan_.direct.options
    from_where = provenance(options, servers.get(DIRECT, {}), run.sessions[DIRECT].salt)
    return Overhead(run.rows, run.rates, run.whole_by, from_where, servers, run.doubts(), stop.is_set(), run.late)


class _Run:
    """One run: sessions by party, and rows as they are found."""

    def __init__(self, plan_: Plan, say: Callable[[str], None], stop: asyncio.Event) -> None:
        self.plan, self.say, self.stop = plan_, say, stop
        self.sessions: dict[str, Session] = {}
        self.rows: list[added.Added] = []
        self.rates: list[added.Rate] = []
        self.warnings: list[str] = []
        self._troubles: dict[str, Health] = {}
        self._calm = Calm(stop.is_set)
        self.whole_by = "this client" if plan_.own or wrk.installed() is None else "wrk"
        self._rng = random.Random(f"overhead {plan_.direct.options.seed}")
        self._number = itertools.count()  # of what was sent so far: no two stages have the same texts
        self._gateways = [party.name for party in plan_.gateways]
        self._names = [*self._gateways, DIRECT]

    async def prepare(self) -> None:
        """Asks every server what it can. Raises BenchError."""
        salt = self.plan.direct.options.salt
        for party in (*self.plan.gateways, self.plan.direct):
            options = msgspec.structs.replace(party.options, salt=f"{salt}/{party.name}" if salt else "")
            session = await prepare(options, self.say)
            self.sessions[party.name] = session
            self.warnings += [f"{party.name}: {warning}" for warning in session.warnings]
        if len({(session.can.exact, session.can.kept) for session in self.sessions.values()}) > 1:
            self.warnings.append("The servers do not answer equally many tokens to the same question: E2E may differ by that, too.")
        self._alike()

    def _alike(self) -> None:
        """The same lengths and fields for all: as the server itself counts tokens, and what everyone takes."""
        every = list(self.sessions.values())
        exact, continuous = all(each.can.exact for each in every), all(each.can.continuous for each in every)
        calibration = self.sessions[DIRECT].calibration
        for name, session in self.sessions.items():
            can = msgspec.structs.replace(session.can, exact=exact, continuous=continuous)
            self.sessions[name] = msgspec.structs.replace(session, can=can, calibration=calibration)

    async def close(self) -> None:
        """Closes all connections."""
        for session in self.sessions.values():
            await session.client.close()

    async def all(self) -> None:
        """The loads one after the other; what is interrupted counts as far as it is whole."""
        steps = [self._in_turn, self._crowd, *(lambda n=n: self._whole(n) for n in sorted({1, self.plan.concurrency})), self._own_limit]
        for step in steps:
            if self.stop.is_set():
                return
            await step()

    async def _in_turn(self) -> None:
        """Streams, one at a time, request by request in turn."""
        self.say("streams, one at a time, in turn")
        options, profile = self.plan.direct.options, Profile("sync")
        seconds = options.seconds * self.plan.rounds if options.seconds is not None else None
        bounds = pairs.Bounds(1, options.requests, seconds, pairs.warm(options))

        async def once() -> list[pairs.Side]:
            sides = [pairs.Side(self.sessions[name].client, self.sessions[name].asks(profile, 0, self._next())) for name in self._names]
            await pairs.measure(sides, bounds, options.seed, self.stop, lambda _: None)
            return sides

        sides = await self._calm.measure(once)
        self._judge("streams, one at a time", sides[0].health)
        seen = dict(zip(self._names, (side.timed for side in sides), strict=True))
        for gateway in self._gateways:
            self.rows += added.latencies("stream", 1, gateway, [(seen[DIRECT], seen[gateway])])

    async def _crowd(self) -> None:
        """Streams, many at a time, a stage of each server in turn."""
        await self._rounds("stream", self.plan.concurrency)

    async def _whole(self, concurrency: int) -> None:
        """Whole answers: by wrk where it is there."""
        await (self._wrk(concurrency) if self.whole_by == "wrk" else self._rounds("whole", concurrency))

    async def _rounds(self, load: str, concurrency: int) -> None:
        """Stages of each server in turn, by this client. A round that is not whole counts nowhere."""
        stages: dict[str, list[Stage]] = {name: [] for name in self._names}
        for number in range(self.plan.rounds):
            self.say(f"{load}, {concurrency} at a time, round {number + 1} of {self.plan.rounds}")
            came = {}
            for name in self._rng.sample(self._names, len(self._names)):
                came[name] = await self._stage(name, load, concurrency)
                if self.stop.is_set():
                    break
            if self.stop.is_set():
                break
            for name, stage in came.items():
                stages[name].append(stage)
        for name in self._names:
            if stages[name]:
                self.rates.append(added.rate_of_stages(name, load, concurrency, stages[name]))
        for gateway in self._gateways:
            rounds = [(a.timed, b.timed) for a, b in zip(stages[DIRECT], stages[gateway], strict=True)]
            self.rows += added.latencies(load, concurrency, gateway, rounds)

    async def _stage(self, name: str, load: str, concurrency: int) -> Stage:
        session = self.sessions[name]
        session = session if load == "stream" else session.whole()
        client = session.client if load == "stream" else Client(session.target, timeout=session.options.timeout)
        profile = Profile("concurrent", value=concurrency)
        try:
            stage = await self._calm.measure(lambda: self._sent(client, profile, session.asks(profile, 0, self._next())))
        finally:
            if client is not session.client:
                await client.close()
        self._judge(f"{name}, {added.LOADS[load]}, {concurrency} at a time", stage.health)
        return stage

    async def _sent(self, client: Client, profile: Profile, asks: pairs.Asks) -> Stage:
        options = self.plan.direct.options
        limits = Limits(requests=options.requests, seconds=options.seconds, warmup=options.warmup, max_concurrency=None)
        return await run_stage(client, profile, asks, limits, repeat=0, watch=lambda _: None, stop=self.stop, saturated=None)

    def _judge(self, what: str, health: Health) -> None:
        """Keeps the worst that the client was, by server and load."""
        known = self._troubles.get(what)
        if health.trouble and (known is None or health.lag_p99 > known.lag_p99):
            self._troubles[what] = health

    def doubts(self) -> list[str]:
        """What makes the figures doubtful, in sentences."""
        again = [words] if (words := self._calm.words()) else []
        worst = [f"{what}, at worst: {health.trouble}" for what, health in self._troubles.items()]
        return [*self.warnings, *again, *worst]

    @property
    def late(self) -> bool:
        """Whether stamps were late anywhere. A client that merely used its core up is no failure: its limit is in the table."""
        return any(health.lag_p99 > SECONDS_OF_LAG for health in self._troubles.values())

    async def _wrk(self, concurrency: int) -> None:
        told: dict[str, list[wrk.Told]] = {name: [] for name in self._names}
        seconds = self.plan.direct.options.seconds or 1.0
        for number in range(self.plan.rounds):
            self.say(f"whole answers by wrk, {concurrency} at a time, round {number + 1} of {self.plan.rounds}")
            came = {}
            for name in self._rng.sample(self._names, len(self._names)):
                try:
                    came[name] = await self._calm.measure(partial(self._wrk_once, name, concurrency, seconds))
                except Interrupted:
                    break
            if len(came) < len(self._names):
                break
            for name in self._names:
                told[name].append(came[name])
        if not told[DIRECT]:
            return
        for name in self._names:
            sent, failed = sum(each.requests for each in told[name]), sum(each.failed for each in told[name])
            self.rates.append(added.rate(name, "whole", concurrency, [each.rate for each in told[name]], [], sent, failed))
        for gateway in self._gateways:
            self.rows += added.by_wrk(concurrency, gateway, told[DIRECT], told[gateway])

    async def _wrk_once(self, name: str, concurrency: int, seconds: float) -> wrk.Told:
        """Raises Interrupted."""
        session = self.sessions[name].whole()
        asks = list(itertools.islice(session.asks(Profile("sync"), 0, self._next()), _BODIES))
        return await or_stop(wrk.run(session.target, asks, concurrency, seconds), self.stop)

    async def _own_limit(self) -> None:
        """The same loads on a server that computes nothing: what this client can send at most."""
        self.say("this client against a server that computes nothing")
        concurrency = self.plan.concurrency
        loads = [("stream", True), *([("whole", False)] if self.whole_by != "wrk" else [])]
        async with null_server() as null:
            for load, stream in loads:
                target = Target(f"http://127.0.0.1:{null.port}/v1", NULL_MODEL, stream=stream)
                session = msgspec.structs.replace(self.sessions[DIRECT], target=target)
                client = Client(target)
                profile = Profile("concurrent", value=concurrency)
                try:
                    stage = await self._sent(client, profile, session.asks(profile, 0, self._next()))
                finally:
                    await client.close()
                if stage.timed and not self.stop.is_set():
                    self.rates.append(added.rate_of_stages(NULL, load, concurrency, [stage]))

    def _next(self) -> int:
        return next(self._number)
