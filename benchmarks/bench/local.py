"""`pointsman bench local MODEL`: how fast one local model reads prompts and writes answers, by how much it has read before.

As llama-bench's `-p N -d D` and `-n N -d D`: prefill is the rate of N new tokens behind D that are cached, decode that of N answered tokens
behind D. The times are llama.cpp's own (`timings` of its answers), of whole requests through `pointsman serve` with one slot: tokens are
sent as numbers, so that neither tokenising nor a template is in them, and what llama.cpp says it had cached is held against D.
"""

from __future__ import annotations

import random
import signal
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.bench.child import Gateway
from benchmarks.bench.errors import BenchError
from benchmarks.bench.fetch import FetchError, fetch
from benchmarks.bench.options import masked
from benchmarks.bench.provenance import machine

_NAME = "local"
_SPARE = 16  # tokens of context beyond what is asked for
_TIMEOUT = 3600.0
_SLACK = 0.05  # how far what was cached may be from the depth, as a share of it
_WORDS = (
    "time year people way day thing man world life hand part child eye woman place work week case point home water room mother area money "
    "story fact month lot right study book word business issue side kind head house service friend father power hour game line end member"
).split()


class Row(msgspec.Struct):
    """One rate: `kind` is prefill or decode; `tokens` at a `depth`; tokens a second of each repeat, their median, their spread
    ((highest - lowest) / median) and, where what was measured is not quite what was asked for, a sentence."""

    kind: str
    depth: int
    tokens: int
    rates: list[float]
    median: float
    spread: float
    note: str = ""


class Local(msgspec.Struct):
    """All rates of one model, and what is needed to repeat them."""

    model: str
    threads: int | None
    rows: list[Row]
    server: dict[str, str]
    machine: dict[str, str]
    seed: int
    command: list[str] = []
    problem: str = ""  # why rows are missing
    format: int = 1


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure. Sizes are tokens."""

    model: str
    depths: tuple[int, ...] = (0, 1024, 4096)
    prompt: int = 512
    output: int = 128
    threads: int | None = None
    repeats: int = 5
    seed: int = 1


def main(wanted: Wanted, command: list[str], *, as_json: bool) -> int:
    """Measures and tells; the exit code. Blocks for as long as the model takes. Raises BenchError."""

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    say(f"starting {wanted.model}")
    rows: list[Row] = []
    server: dict[str, str] = {}
    problem = ""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the model must not stay behind
    try:
        measure(wanted, rows, server, say)
    except KeyboardInterrupt:
        problem = "interrupted; the model was stopped"
    except BenchError as error:
        problem = str(error)
    finally:
        signal.signal(signal.SIGTERM, before)
    if not rows:
        raise BenchError(problem)
    found = Local(wanted.model, wanted.threads, rows, server, machine(), wanted.seed, command, problem)
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n" if as_json else table(found))
    if problem:
        say(f"pointsman bench: {problem}")
    return 1 if problem else 0


def measure(wanted: Wanted, rows: list[Row], server: dict[str, str], say: Callable[[str], None]) -> None:
    """Fills `rows`, and what the server says of itself. Blocks: starts the model, sends, ends it. Raises BenchError, also after some rows
    (a depth that the model cannot hold), which then stay."""
    with Gateway(configuration(wanted)) as gateway:
        ids = _tokens(gateway.base, wanted)
        server.update(_facts(gateway.base))
        for depth in wanted.depths:
            for name, measured in (("prefill", _prefill), ("decode", _decode)):
                say(f"depth {depth}: {name}")
                try:
                    rows.append(measured(gateway.base, wanted, depth, ids))
                except BenchError as error:
                    raise BenchError(f"depth {depth}, {name}: {error}") from None


def configuration(wanted: Wanted) -> dict[str, Any]:
    """The gateway's configuration: the model in one slot whose context holds the deepest request."""
    context = max(wanted.depths) + wanted.prompt + wanted.output + _SPARE
    model = wanted.model
    if model.startswith(("/", ".", "~")) or model.lower().endswith(".gguf"):
        model = str(Path(model).expanduser().absolute())
    backend: dict[str, Any] = {"engine": "llamacpp", "model": model, "slots": 1, "context": context}
    if wanted.threads is not None:
        backend["threads"] = wanted.threads
    return {
        "server": {"log": {"level": "error"}},
        "backends": {_NAME: backend},
        "routes": {_NAME: {"targets": [{"backend": _NAME, "model": _NAME}]}},
    }


def row(kind: str, depth: int, tokens: int, rates: Sequence[float], note: str = "") -> Row:
    """A row of measured rates. Pure."""
    median = statistics.median(rates)
    return Row(kind, depth, tokens, [round(rate, 3) for rate in rates], median, (max(rates) - min(rates)) / median if median else 0.0, note)


def _tokens(base: str, wanted: Wanted) -> list[int]:
    """Enough tokens of seeded words, by the model's own tokenizer. A first call before is held by the gateway until the model is loaded."""
    _complete(base, "Once upon a time", 1)
    rng = random.Random(wanted.seed)
    count = max(wanted.depths) + wanted.prompt + _SPARE
    text = " ".join(rng.choice(_WORDS) for _ in range(count))
    told = _post(base.removesuffix("/v1") + "/tokenize", {"model": _NAME, "content": text, "prompt": text, "add_special_tokens": False})
    ids = told.get("tokens")
    if not isinstance(ids, list) or len(ids) < count // 2 or not all(isinstance(each, int) for each in ids):
        raise BenchError("the model's tokenizer gave no tokens for a text of common words; it cannot be measured by depth")
    while len(ids) < count:
        ids = ids + ids
    return ids[:count]


def _prefill(base: str, wanted: Wanted, depth: int, ids: list[int]) -> Row:
    """Reads `prompt` new tokens behind `depth` cached ones, as often as asked, the first time uncounted."""
    rates, off = [], 0
    prefix = _shuffled(ids[:depth], f"{wanted.seed}/{depth}/prefill")
    if prefix:
        _complete(base, prefix, 1)
    for repeat in range(wanted.repeats + 1):
        fresh = _shuffled(ids[-wanted.prompt :], f"{wanted.seed}/{depth}/{repeat}")
        timings = _complete(base, prefix + fresh, 1)
        if repeat:
            rates.append(float(timings["prompt_per_second"]))
            off = max(off, abs(int(timings["prompt_n"]) - wanted.prompt))
    note = (
        ""
        if off <= max(2, _SLACK * wanted.prompt)
        else f"up to {off} tokens more or fewer were read than asked for: what is cached differs"
    )
    return row("prefill", depth, wanted.prompt, rates, note)


def _decode(base: str, wanted: Wanted, depth: int, ids: list[int]) -> Row:
    """Answers `output` tokens behind `depth` others, as often as asked, the first time uncounted."""
    prefix = _shuffled(ids[: max(depth, 1)], f"{wanted.seed}/{depth}/decode")
    rates, few = [], wanted.output
    for repeat in range(wanted.repeats + 1):
        timings = _complete(base, prefix, wanted.output)
        if repeat:
            rates.append(float(timings["predicted_per_second"]))
            few = min(few, int(timings["predicted_n"]))
    note = "" if few == wanted.output else f"only {few} tokens were answered at least once"
    return row("decode", depth, wanted.output, rates, note)


def _shuffled(ids: list[int], key: str) -> list[int]:
    found = list(ids)
    random.Random(key).shuffle(found)
    return found


def _complete(base: str, prompt: list[int] | str, output: int) -> dict[str, Any]:
    body = {"model": _NAME, "prompt": prompt, "max_tokens": output, "ignore_eos": True, "temperature": 0, "cache_prompt": True}
    timings = _post(f"{base}/completions", body).get("timings")
    if not isinstance(timings, dict) or not all(isinstance(timings.get(name), (int, float)) for name in _TOLD):
        raise BenchError("the engine tells no timings; only llama.cpp's do")
    return timings


_TOLD = ("prompt_n", "prompt_per_second", "predicted_n", "predicted_per_second")


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        reply = fetch(url, body=msgspec.json.encode(body), timeout=_TIMEOUT)
    except FetchError as error:
        raise BenchError(f"the model's server did not answer: {error}") from None
    told = reply.json()
    if reply.status == 200 and isinstance(told, dict):
        return told
    problem = told.get("error") if isinstance(told, dict) else None
    text = problem.get("message") if isinstance(problem, dict) else None
    raise BenchError(f"the model's server answered status {reply.status}: {str(text or 'no reason given')[:300]}")


def _facts(base: str) -> dict[str, str]:
    try:
        told = fetch(f"{base}/models").json()
    except FetchError:
        return {}
    rows = told.get("data") if isinstance(told, dict) else None
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    return {str(name): str(masked(value)) for name, value in first.items() if isinstance(value, (str, int))}


def table(found: Local) -> str:
    """The rates as a table of a terminal. Pure."""
    lines = [f"{'':8} {'depth':>7} {'tokens':>7} {'tokens/s':>10}   spread"]
    for each in found.rows:
        lines.append(f"{each.kind:8} {each.depth:>7} {each.tokens:>7} {each.median:>10.1f}   {100 * each.spread:.1f} %")
        if each.note:
            lines.append(f"{'':8} {each.note}")
    repeats = len(found.rows[0].rates) if found.rows else 0
    lines.append(f"Median of {repeats} repeats by llama.cpp's own times; spread: (highest - lowest) / median.")
    return "\n".join(lines) + "\n"
