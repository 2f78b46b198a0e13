"""A server that was asked what it can do, ready to be measured; and the requests of each stage."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import msgspec

from benchmarks.bench import server
from benchmarks.bench.bodies import body
from benchmarks.bench.client import Client
from benchmarks.bench.fetch import FetchError, ask
from benchmarks.bench.options import Options
from benchmarks.bench.prompts import Calibration, calibrate
from benchmarks.bench.traces import Cut
from benchmarks.bench.words import Ask, Profile, Target
from benchmarks.bench.workload import Lengths, Workload, parse_length

T = TypeVar("T")
_MOST_CONTEXT = 1 << 24


class Interrupted(Exception):
    """Ctrl-C before anything was measured."""


class Session(msgspec.Struct, frozen=True):
    """A server that was asked what it can, ready to be measured. Owns the client's connections."""

    options: Options
    target: Target
    client: Client
    can: server.Abilities
    calibration: Calibration
    salt: str
    facts: dict[str, str]
    warnings: list[str]
    null: dict[int, tuple[float, float]] = {}  # the client's own p50 and p99 in seconds, by connections

    def whole(self) -> Session:
        """The same without streams: for answers that come in one."""
        return msgspec.structs.replace(self, target=msgspec.structs.replace(self.target, stream=False))

    def workload(self, name: object) -> Workload:
        """What a stage sends; texts of its own for each `name`, unless caches are meant to find them."""
        options = self.options
        texts = self.calibration.texts(options.seed, self.salt)
        if not options.same_prompts:
            texts = texts.part(name)
        most = _context(self.facts)
        return Workload(
            self.target, lengths(options, most), texts, exact=self.can.exact, continuous=self.can.continuous,
            cut=Cut(*options.part, context=most, clip=options.clip, jitter=options.jitter), fresh=not options.same_prompts,
        )  # fmt: skip

    def asks(self, profile: Profile, repeat: int, number: int, workload: Workload | None = None) -> Iterator[Ask]:
        """A stage's requests, the same for the same seed and salt; new texts in each stage, unless caches are meant to find them.
        `number`: which level; `workload`: where what became of a trace's lines is counted."""
        chosen = workload or self.workload((number, repeat))
        return chosen.asks(profile, scheduled(self.options, profile), random.Random(f"{self.options.seed}/{number}/{repeat}"))


def scheduled(options: Options, profile: Profile) -> int | None:
    """How many requests an open loop's schedule has: so many that its mean rate is the wanted one, whatever chance says, in every repeat.
    None: other profiles end when the stage does."""
    if profile.name != "rate":
        return None
    fit = max(1, round(profile.value * options.seconds)) if options.seconds is not None else None
    return min(each for each in (options.requests, fit) if each is not None) if fit or options.requests else None


def lengths(options: Options, most: int | None = None) -> Lengths:
    """Sizes of prompts and answers. `most`: tokens that the model takes, answers included. Raises BenchError."""
    tokens, groups = options.prefix or (0, 1)
    output = parse_length(options.output)
    longest = output.b if output.kind == "uniform" else output.a + 2 * output.b
    return Lengths(parse_length(options.input), output, tokens, groups, max(1, most - round(longest)) if most is not None else None)


def _context(facts: dict[str, str]) -> int | None:
    """How many tokens the model takes, as /models says it (vLLM's name for it, ours too); None: not told."""
    told = facts.get("model.max_model_len", "")
    return int(told) if told.isdigit() and 0 < int(told) <= _MOST_CONTEXT else None


async def prepare(options: Options, say: Callable[[str], None]) -> Session:
    """Finds the server and its model, asks what it can, counts its tokens. The caller closes the session's client. Raises BenchError."""
    say(f"asking {options.url} what it is")
    headers = server.header(options.key, options.headers)
    found = await server.find(options.url, options.model, headers)
    target = Target(found.url, found.model, options.key, options.headers, options.api, options.stream, options.extra)
    client = Client(target, timeout=options.timeout)
    try:
        salt = "same" if options.same_prompts else options.salt or secrets.token_hex(4)
        say(f"asking {found.model} what it can, and how long its tokens are")
        can = await server.abilities(client.send, lambda exact, continuous: _question(target, salt, exact, continuous))
        calibration = await calibrate(target, lambda url, data: _post(url, data, headers, options.timeout))
    except BaseException:
        await client.close()
        raise
    warnings = [*found.warnings, *server.remarks(can, target)]
    if calibration.source == "guess":
        warnings.append("The server does not count tokens: prompts are as long as a guess of one word a token makes them.")
    return Session(options, target, client, can, calibration, salt, found.facts, warnings)


def _question(target: Target, salt: str, exact: bool, continuous: bool) -> Ask:
    text = f"({salt}) Tell me in a few words what the weather is like in spring."
    return Ask(0, body(target, text, server.TOKENS, exact=exact, continuous=continuous), 0, server.TOKENS)


async def _post(url: str, data: bytes, headers: dict[str, str], patience: float) -> tuple[int, bytes]:
    try:
        reply = await ask(url, body=data, headers=headers, patience=patience)
    except FetchError:
        return 0, b""
    return reply.status, reply.body


async def or_stop(work: Awaitable[T], stop: asyncio.Event) -> T:
    """What `work` gives, or Interrupted as soon as `stop` is set."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Interrupted("interrupted before anything was measured")
    finally:
        for each in (task, stopped):
            each.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
