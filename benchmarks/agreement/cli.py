"""Whether `pointsman bench`, guidellm and aiperf tell the same of one scripted server.

All three send the same load (one at a time; 4 at a time; 10 a second, evenly) to a server whose times are known, in turn, several times
over. Each figure of the others stands beside ours twice: as the client itself says it, and by our definition, computed by our code from
its own records of requests. Exit codes: 0 when all that can be compared is within 3 % with a spread of at most 5 %, else 1; 2 for a wrong
command line. The others are installed from the package index into environments of their own, about 3 GB with guidellm's PyTorch;
PIP_CONSTRAINT may name a smaller one (torch==VERSION+cpu).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.agreement import tokenizer, tools
from benchmarks.agreement.judge import rows
from benchmarks.agreement.table import summary, tables
from benchmarks.agreement.words import OTHERS, OURS, Load, Run, Who
from benchmarks.bench.calm import Calm
from benchmarks.bench.errors import BenchError
from benchmarks.bench.nullserver import Script, running
from benchmarks.bench.words import Profile

FIRST_MS = 200  # to the first token, so that the millisecond or two which an HTTP client takes are less than what may be between clients
_CHUNKS, _ITL = 64, 0.01
_RATE = 10.0
_WARM = 4
_PROMPT = 64


def script_of(first_ms: int) -> Script:
    """What the server does, its first token after so many milliseconds."""
    return Script(chunks=_CHUNKS, ttft=first_ms / 1e3, itl=_ITL)


def loads(script: Script, names: Sequence[str], seconds: float) -> list[Load]:
    """What is sent: about `seconds` of each load, by the script's own times."""
    whole = script.ttft + script.itl * (script.chunks - 1)
    known = [
        Load("sync", Profile("sync"), max(5, round(seconds / whole)), _WARM),
        Load("concurrent=4", Profile("concurrent", 4.0), max(8, 4 * round(seconds / whole)), _WARM),
        Load("rate=10", Profile("rate", _RATE, float("inf")), max(5, round(seconds * _RATE)), _WARM),
    ]
    return [load for load in known if load.profile.name in names]


async def measure(
    script: Script, site_of: Callable[[str], tools.Site], plan: Sequence[Load], repeats: int, say: Callable[[str], None]
) -> list[Run]:
    """Every client with every load, in turn, each repeat begun by another one. RuntimeError: no server."""
    runs: list[Run] = []
    calm = Calm()
    clients: tuple[Who, ...] = (OURS, *OTHERS)
    async with running(script) as server:
        site = site_of(server.url.removesuffix("/v1"))
        for repeat in range(repeats):
            for load in plan:
                for at in range(len(clients)):
                    who = clients[(at + repeat) % len(clients)]
                    say(f"repeat {repeat + 1} of {repeats}, {load.name}: {who}")
                    runs.append(await calm.measure(partial(_once, who, site, load, repeat)))
    if calm.again:
        say(calm.words())
    return runs


async def _once(who: Who, site: tools.Site, load: Load, repeat: int) -> Run:
    """One run; one that failed is kept with its reason, so that it does not take the others with it."""
    try:
        return await tools.run(who, site, load, repeat)
    except BenchError as error:
        return Run(who, load, repeat, {}, trouble=str(error))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pointsman-benchmarks" / "agreement"
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.agreement", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("--install", action="store_true", help="install the other clients, and end")
    p.add_argument("--cache", type=Path, default=cache, metavar="DIR", help="where they and all raw results go (default: %(default)s)")
    p.add_argument("--profiles", default="sync,concurrent,rate", metavar="A,B", help="which loads (default: %(default)s)")
    p.add_argument("--repeats", type=_count, default=3, metavar="N", help="of every load and client (default: %(default)s)")
    p.add_argument("--seconds", type=_count, default=30, metavar="S", help="of one load, about (default: %(default)s)")
    p.add_argument("--first", type=_count, default=FIRST_MS, metavar="MS", help="of the server, to its first token (default: %(default)s)")
    p.add_argument("--out", type=Path, metavar="FILE.md", help="write the tables there, too")
    return p


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 3,600")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it; the exit code. Blocks."""
    parser = _parser()
    a = parser.parse_args(argv)
    script = script_of(a.first)
    plan = loads(script, a.profiles.split(","), a.seconds)
    if not plan or set(a.profiles.split(",")) - {"sync", "concurrent", "rate"}:
        parser.error(f"--profiles {a.profiles!r}: there are sync, concurrent and rate")
    try:
        return _install(a.cache) if a.install else _compare(a, script, plan)
    except (BenchError, RuntimeError) as error:
        sys.stderr.write(f"agreement: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _install(cache: Path) -> int:
    asyncio.run(tools.install(cache, tools.missing(cache), _say))
    return 0


def _compare(a: argparse.Namespace, script: Script, plan: Sequence[Load]) -> int:
    absent = tools.missing(a.cache)
    if absent:
        raise BenchError(f"{' and '.join(absent)} not installed in {a.cache}; run again with --install first")
    words = tokenizer.write(a.cache / "tokenizer")
    results = a.cache / "results" / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")

    def site(url: str) -> tools.Site:
        return tools.Site(environments=a.cache, tokenizer=words, url=url, tokens=script.chunks, prompt=_PROMPT, results=results)

    runs = asyncio.run(measure(script, site, plan, a.repeats, _say))
    found = rows(runs)
    code, told = summary(found, runs)
    text = f"{_head(script, a.repeats)}\n\n{tables(found)}\n{told}\n"
    sys.stdout.write(text)
    if a.out is not None:
        _write(a.out, text)
    _say(f"raw results: {results}")
    return code


def _head(script: Script, repeats: int) -> str:
    return (
        f"Server: {script.chunks} tokens, the first after {1e3 * script.ttft:g} ms, one each {1e3 * script.itl:g} ms. Repeats: {repeats}; "
        f"medians of them. Clients: ours, {', '.join(tools.PACKAGES.values())}."
    )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"--out {path} cannot be written: {error.strerror or error}") from None
