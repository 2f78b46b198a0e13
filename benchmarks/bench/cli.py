"""The command line of `pointsman bench`: what is asked for, as options; who is called; what is written at the end.

Exit codes: 0; 1 when nothing was answered, when the client was the bottleneck, or when it was interrupted; 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.bench import options as words
from benchmarks.bench.errors import BenchError
from benchmarks.bench.options import DEFAULT_SECONDS, DEFAULT_URL, Options
from benchmarks.bench.words import Slo

_FILES = "FILE.html (report), FILE.json (summary) or FILE.jsonl (a line a request)"
_OVERHEAD_SECONDS = 5.0  # of a stage, where nothing is said
_EPILOG = """also:
  pointsman bench compare URL_A URL_B ...        two servers, request by request in turn: paired differences
  pointsman bench overhead GATEWAY_URL DIRECT_URL ...   what a gateway adds to the server behind it
  pointsman bench local MODEL ...                prefill and decode rates of a local model by depth, as llama-bench
(each has a --help of its own)

examples:
  pointsman bench                                            one request after the other to http://127.0.0.1:8484/v1
  pointsman bench http://127.0.0.1:8000 --profile concurrent=1,4,16
  pointsman bench URL --profile rate=5 --arrivals poisson --slo ttft:500,tpot:30 --out run.html --out run.jsonl
  pointsman bench URL --profile sweep --input 1024 --output 256 --out sweep.html
  pointsman bench URL --profile trace=mooncake.jsonl.gz --requests 500
The key is read from $POINTSMAN_KEY or $OPENAI_API_KEY, never from the command line. docs/bench.md defines every figure.
"""

_REPLAY = {"--from": "start", "--to": "stop", "--jitter": "jitter", "--clip": "clip"}


def main(argv: Sequence[str], version: str = "") -> int:
    """Runs `pointsman bench ARGV`; the exit code. `version`: of what this is part of. Blocks. Raises SystemExit (argparse)."""
    try:
        return _COMMANDS.get(argv[0] if argv else "", _bench)(list(argv), version)
    except BenchError as error:
        sys.stderr.write(f"pointsman bench: {error}\n")
        return 2 if error.usage else 1


def parse(argv: Sequence[str], version: str = "") -> tuple[Options, argparse.Namespace]:
    """The options of a plain run, and the namespace that has the rest. Raises BenchError, SystemExit."""
    parser = _parser("pointsman bench", "Measures latency and throughput of any OpenAI-compatible server.", _EPILOG)
    parser.add_argument("url", metavar="URL", nargs="?", default=DEFAULT_URL, help=f"where its API begins (default: {DEFAULT_URL})")
    load = parser.add_argument_group("load")
    load.add_argument(
        "--profile", default="sync", help="sync (default), concurrent=N[,N...], rate=R[,R...] (open loop), sweep, trace=FILE, capture=FILE"
    )
    load.add_argument("--arrivals", default="poisson", help="of an open loop: poisson (default), constant, or gamma:B (B below 1: bursts)")
    load.add_argument("--speed", type=_positive, default=1.0, metavar="X", help="replay a trace or capture X times as fast")
    load.add_argument("--from", type=_positive, dest="start", metavar="S", help="leave out a trace's or capture's first S seconds")
    load.add_argument("--to", type=_positive, dest="stop", metavar="S", help="and what comes after S seconds of it")
    load.add_argument("--jitter", type=_positive, metavar="S", help="send each of its lines up to S seconds later, by chance")
    load.add_argument("--clip", action="store_true", help="cut its prompts that are longer than the model takes, else they are left out")
    load.add_argument("--max-concurrency", type=_count, metavar="N", help="at most N requests under way in an open loop; the others wait")
    load.add_argument("--repeats", type=_count, default=3, metavar="N", help="of every level, in turn (default: 3)")
    _workload(load)
    _length(load)
    _connection(parser)
    results = _outputs(parser, _FILES)
    _levels(results)
    results.add_argument(
        "--watch-pid", type=_count, metavar="PID", action="append", default=[], help="draw this process's memory; may be repeated"
    )
    args = parser.parse_args(argv)
    _replayed(args)
    return options(args, argv, version), args


def _replayed(args: argparse.Namespace) -> None:
    """Raises BenchError for what is said of a replay where there is none, or an empty one."""
    said = [name for name in ("--from", "--to", "--jitter", "--clip") if getattr(args, _REPLAY[name])]
    if said and not args.profile.startswith(("trace=", "capture=")):
        raise BenchError(f"{said[0]} is of a replay: it needs --profile trace=FILE or capture=FILE", usage=True)
    if args.stop is not None and args.stop <= (args.start or 0.0):
        raise BenchError(f"--to {args.stop:g} leaves nothing after --from {args.start or 0.0:g}", usage=True)


def options(args: argparse.Namespace, argv: Sequence[str], version: str, url: str = "") -> Options:
    """A namespace as options. Raises BenchError."""
    from benchmarks.bench.arrivals import parse_arrivals
    from benchmarks.bench.workload import parse_length

    if args.salt and args.same_prompts:
        raise BenchError("--salt and --same-prompts exclude each other: the one makes prompts new, the other keeps them", usage=True)
    for length in (args.input, args.output):
        parse_length(length)  # a wrong one is told before anything is sent
    warm = words.warmup(args.warmup)
    if args.requests is not None and warm >= max(1, args.requests):
        raise BenchError(f"--warmup {args.warmup} leaves none of {args.requests} requests to be counted; ask for more requests", usage=True)
    shape = parse_arrivals(getattr(args, "arrivals", "poisson"))
    seconds = args.seconds if args.seconds is not None or args.requests is not None else DEFAULT_SECONDS
    return Options(
        url=url or args.url, model=args.model or "", profiles=words.profiles(args.profile, shape, getattr(args, "speed", 1.0)),
        input=args.input, output=args.output, prefix=words.prefix(args.prefix) if args.prefix else None, requests=args.requests,
        seconds=seconds, warmup=warm, repeats=args.repeats, slos=slos(getattr(args, "slo", [])), seed=args.seed,
        salt=args.salt or "", same_prompts=args.same_prompts, api=args.api, stream=not args.no_stream,
        key=words.key(os.environ, args.key_env), headers=words.headers(args.header), extra=words.extra(args.extra) if args.extra else {},
        max_concurrency=getattr(args, "max_concurrency", None), timeout=args.timeout, watch=tuple(getattr(args, "watch_pid", [])),
        part=(getattr(args, "start", None) or 0.0, getattr(args, "stop", None)), jitter=getattr(args, "jitter", None) or 0.0,
        clip=getattr(args, "clip", False),
        command=("pointsman", "bench", *argv), version=version,
    )  # fmt: skip


def slos(texts: Sequence[str]) -> tuple[Slo, ...]:
    """The service levels that were asked for. Raises BenchError."""
    from benchmarks.bench.slo import parse as parse_slo

    try:
        return tuple(parse_slo(text) for text in texts)
    except ValueError as error:
        raise BenchError(str(error), usage=True) from None


def _bench(argv: list[str], version: str) -> int:
    chosen, args = parse(argv, version)
    from benchmarks.bench import files, running

    return running.bench(chosen, files.checked(args.out, args.overwrite), overwrite=args.overwrite, as_json=args.json)


def _compare(argv: list[str], version: str) -> int:
    parser = _parser("pointsman bench compare", "Measures two servers request by request in turn, and tells their difference.")
    parser.add_argument("url_a", metavar="URL_A", help="one server")
    parser.add_argument("url_b", metavar="URL_B", help="the other one")
    parser.add_argument("--model-b", metavar="MODEL", help="the model's name on the other one (default: as on the first)")
    parser.add_argument(
        "--key-env-b", metavar="NAME", help="the environment variable that holds the other one's key (default: the same key)"
    )
    load = parser.add_argument_group("load")
    load.add_argument("--profile", default="sync", help="sync (default) or concurrent=N: so many pairs at a time")
    _workload(load)
    _length(load)
    _connection(parser)
    _levels(_outputs(parser, _FILES))
    args = parser.parse_args(argv[1:])
    args.repeats = 1
    from benchmarks.bench import compare, files

    first = options(args, argv, version, args.url_a)
    key_b = words.key(os.environ, args.key_env_b) if args.key_env_b else first.key
    targets = files.checked(args.out, args.overwrite)
    second = msgspec.structs.replace(first, url=args.url_b, model=args.model_b or first.model, key=key_b)
    return compare.main(first, second, targets, overwrite=args.overwrite, as_json=args.json)


def _overhead(argv: list[str], version: str) -> int:
    parser = _parser("pointsman bench overhead", "Measures what gateways add to the server behind them, in turn with that server itself.")
    parser.add_argument("gateways", metavar="[NAME=]GATEWAY_URL", nargs="+", help="one gateway or several")
    parser.add_argument("direct", metavar="DIRECT_URL", help="the server behind them")
    parser.add_argument(
        "--model-of", metavar="NAME=MODEL", action="append", default=[], help="the model's name on one gateway; may be repeated"
    )
    parser.add_argument("--key-of", metavar="NAME=VARIABLE", action="append", default=[],
                        help="the environment variable that has one gateway's key (`direct`: the server's); may be repeated")  # fmt: skip
    load = parser.add_argument_group("load")
    load.add_argument("--concurrency", type=_count, default=16, metavar="N", help="the higher load; the lower one is 1 (default: 16)")
    load.add_argument("--repeats", type=_count, default=5, metavar="N", help="rounds, each with every server in turn (default: 5)")
    load.add_argument("--own-client", action="store_true", help="do not use wrk although it is installed")
    _workload(load, size_in="64", size_out="32")
    _length(load)
    _connection(parser)
    _outputs(parser, "FILE.json (all figures) or FILE.md (the tables, for a README)")
    args = parser.parse_args(argv[1:])
    args.profile = "sync"
    if args.seconds is None and args.requests is None:
        args.seconds = _OVERHEAD_SECONDS
    from benchmarks.bench import files, overhead

    chosen = options(args, argv, version, args.direct)
    targets = files.checked(args.out, args.overwrite, overhead.SUFFIXES)
    plan = overhead.plan(chosen, args.gateways, args.model_of, args.key_of, os.environ, args.concurrency, own=args.own_client)
    return overhead.main(plan, targets, overwrite=args.overwrite, as_json=args.json)


def _local(argv: list[str], version: str) -> int:
    parser = _parser("pointsman bench local", "Measures prefill and decode rates of a local model by depth, as llama-bench does.")
    parser.add_argument(
        "model", metavar="MODEL", help="as for pointsman serve: a GGUF file, hf:OWNER/REPOSITORY[:QUANT], a name of pointsman ls, builtin"
    )
    parser.add_argument("--depth", default="0,1024,4096", metavar="N[,N...]", help="tokens before what is measured (default: 0,1024,4096)")
    parser.add_argument("--prompt", type=_count, default=512, metavar="N", help="tokens to read (default: 512)")
    parser.add_argument("--output", type=_count, default=128, metavar="N", help="tokens to answer (default: 128)")
    parser.add_argument("--threads", type=_count, metavar="N", help="default: as pointsman serve chooses")
    parser.add_argument("--repeats", type=_count, default=5, metavar="N", help="default: 5")
    parser.add_argument("--seed", type=_seed, default=1, metavar="S", help="of the tokens (default: 1)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(argv[1:])
    from benchmarks.bench import local

    wanted = local.Wanted(
        model=args.model, depths=_depths(args.depth), prompt=args.prompt, output=args.output, threads=args.threads, repeats=args.repeats,
        seed=args.seed,
    )  # fmt: skip
    return local.main(wanted, ["pointsman", "bench", *argv], as_json=args.json)


_COMMANDS: dict[str, Callable[[list[str], str], int]] = {"compare": _compare, "overhead": _overhead, "local": _local}


def _parser(name: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    shape = partial(argparse.RawDescriptionHelpFormatter, max_help_position=34)
    return argparse.ArgumentParser(prog=name, description=description, epilog=epilog, formatter_class=shape, allow_abbrev=False)


def _workload(group: argparse._ArgumentGroup, size_in: str = "256", size_out: str = "128") -> None:
    group.add_argument(
        "--input", default=size_in, metavar="N", help=f"prompt tokens: N, N-M (even), or MEAN:DEVIATION (lognormal); default: {size_in}"
    )
    group.add_argument("--output", default=size_out, metavar="N", help=f"answer tokens, written as those (default: {size_out})")
    group.add_argument("--prefix", metavar="P:G", help="P tokens at the start are shared by prompts of a group, of G groups")
    group.add_argument("--seed", type=_seed, default=1, metavar="S", help="of lengths, texts and arrivals (default: 1)")
    group.add_argument("--salt", metavar="TEXT", help="what makes this run's prompts new to every cache (default: random)")
    group.add_argument(
        "--same-prompts", action="store_true", help="no salt: prompts are the same in every run and repeat, for caches to find"
    )


def _length(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--requests", type=_count, metavar="N", help="of one stage, warm-up included")
    group.add_argument(
        "--seconds", type=_positive, metavar="S", help=f"length of one stage (default, without --requests: {DEFAULT_SECONDS:.0f})"
    )
    group.add_argument(
        "--warmup", default="10%", metavar="SHARE", help="of each stage that is not counted: 10%% (default), or a number of requests"
    )


def _connection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--model", metavar="MODEL", help="its model (default: its only one)")
    group.add_argument("--api", choices=["chat", "completions"], default="chat", help="default: chat")
    group.add_argument("--no-stream", action="store_true", help="whole answers: TTFT is E2E then, and there is no TPOT or ITL")
    group.add_argument(
        "--key-env", metavar="NAME", help="the environment variable that holds the key (default: $POINTSMAN_KEY, $OPENAI_API_KEY)"
    )
    group.add_argument("--header", metavar="NAME=VALUE", action="append", default=[], help="one more header; may be repeated")
    group.add_argument("--extra", metavar="JSON", help="""more fields of every body, as in '{"temperature": 0}'""")
    group.add_argument("--timeout", type=_positive, default=600.0, metavar="S", help="of one request (default: 600)")


def _outputs(parser: argparse.ArgumentParser, kinds: str) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("results")
    group.add_argument("--out", metavar="FILE", type=Path, action="append", default=[], help=f"write {kinds}; may be repeated")
    group.add_argument("--overwrite", action="store_true", help="replace files that are there")
    group.add_argument("--json", action="store_true", help="the summary as JSON instead of a table")
    return group


def _levels(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--slo", metavar="SLO", action="append", default=[], help="a service level: ttft:500,tpot:30 (ms), or a name; may be repeated"
    )


def _depths(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) <= 7 for part in parts) or len(parts) > 32:
        raise BenchError(f"--depth {text!r} is no list of numbers, as in 0,1024,4096", usage=True)
    return tuple(sorted({int(part) for part in parts}))


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 10,000,000")
    return int(text)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to a million")
    return number
