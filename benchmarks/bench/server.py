"""The server under test, before it is measured: where its API begins, which models it has, and what it does with what a benchmark asks.

Nothing is assumed of a server. Fields that it refuses are left out, and what it does not tell is not shown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import msgspec

from benchmarks.bench.errors import BenchError
from benchmarks.bench.fetch import FetchError, Reply, ask
from benchmarks.bench.options import base
from benchmarks.bench.words import Ask, Target, Timed

_SHOWN = 20  # models that are named where one has to be chosen
TOKENS = 24  # that the questions ask for: more than a model says by itself to most, few enough to cost nothing
_HOPELESS = (0, 401, 403, 404)  # statuses that fewer fields do not mend; 0: no connection
_AGAIN = 2  # times that the same is asked once more where the server failed rather than refused


class Found(msgspec.Struct):
    """A server: where its API begins, its model's name, and what it tells of itself (name -> text)."""

    url: str
    model: str
    facts: dict[str, str] = {}
    warnings: list[str] = []


class Abilities(msgspec.Struct, frozen=True):
    """What a server does with the fields of a benchmark's body. `exact`: takes `min_tokens` and `ignore_eos`; `kept`: and answers as many
    tokens as asked for; `continuous`: tells its count with every chunk; `usage`: tells it at the end."""

    exact: bool
    kept: bool
    continuous: bool
    usage: bool


async def find(url: str, model: str, headers: dict[str, str]) -> Found:
    """Asks for /models where the API may begin. Raises BenchError: nothing answers, the key is refused, or a model has to be named."""
    problems, candidates, refused = [], base(url), None
    for candidate in candidates:
        try:
            reply = await ask(f"{candidate}/models", headers=headers)
        except FetchError as error:
            problems.append(f"{candidate}: {error}")
            continue
        names = _names(reply)
        if reply.status == 200 and names is not None:
            return await _chosen(candidate, model, names, reply, headers)
        refused = refused or (candidate, reply)
    if refused is None:
        raise BenchError(f"nothing answers at {problems[0]}. Start the server, or give the URL of another")
    where, reply = refused
    if reply.status in (401, 403):
        raise BenchError(f"{where}/models refuses the key (status {reply.status}); put the right one into $POINTSMAN_KEY, or name its "
                         "variable with --key-env")  # fmt: skip
    if not model:
        raise BenchError(f"{where}/models lists no models (status {reply.status}); name one with --model, or mend the URL", usage=True)
    facts = await _facts(where, reply, headers)
    return Found(where, model, facts, [f"{where}/models lists no models (status {reply.status}); the name was taken as given."])


async def _chosen(url: str, model: str, names: list[str], reply: Reply, headers: dict[str, str]) -> Found:
    if not model and len(names) != 1:
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        raise BenchError(f"{url} has {len(names)} models: {shown or 'none'}. Name one with --model", usage=True)
    facts = await _facts(url, reply, headers)
    found = model or names[0]
    if found not in names:
        return Found(url, found, facts, [f"{url}/models does not list {found!r}."])
    return Found(url, found, {**facts, **_of_model(reply, found)})


def _names(reply: Reply) -> list[str] | None:
    """The names of an answer to GET /models; None where it is no such answer."""
    told = reply.json()
    rows = told.get("data") if isinstance(told, dict) else None
    if not isinstance(rows, list):
        return None
    return [row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]


def _of_model(reply: Reply, model: str) -> dict[str, str]:
    """What /models says of one model: the texts and numbers at its top."""
    rows = reply.json()["data"]
    row = next(row for row in rows if isinstance(row, dict) and row.get("id") == model)
    plain = {str(name)[:40]: str(value) for name, value in row.items() if isinstance(value, (str, int, float)) and name not in ("object",)}
    return {f"model.{name}": value for name, value in list(plain.items())[:20]}


async def _facts(url: str, reply: Reply, headers: dict[str, str]) -> dict[str, str]:
    """The server's name by its header, and its version where /version tells one, as vLLM's and ours do. The key goes only where it went."""
    facts = {"url": url}
    if server := reply.headers.get("server"):
        facts["server"] = server
    parts = urlsplit(url)
    try:
        told = await ask(f"{parts.scheme}://{parts.netloc}/version", headers=headers, patience=10.0)
    except FetchError:
        return facts
    document = told.json() if told.status == 200 else None
    if isinstance(document, dict) and isinstance(document.get("version"), str):
        facts["version"] = document["version"]
    return facts


Send = Callable[[Ask, Timed], Awaitable[None]]
Build = Callable[[bool, bool], Ask]  # exact, continuous -> a request of TOKENS tokens


async def abilities(send: Send, build: Build) -> Abilities:
    """Sends short requests, each with fewer of the fields that not every server takes. Raises BenchError where none is
    answered."""
    last = Timed(index=0, due=0.0)
    for exact, continuous in _ways():
        for _ in range(1 + _AGAIN):
            request = build(exact, continuous)
            last = Timed(index=request.index, due=0.0, asked_output=request.output_tokens)
            await send(request, last)
            if last.good:
                return _judged(last, exact)
            if last.status < 429:
                break
        if last.status in _HOPELESS:
            break
    raise BenchError(f"the server does not answer a first request: {last.error or f'status {last.status}'}")


def _ways() -> Iterator[tuple[bool, bool]]:
    yield from ((True, True), (True, False), (False, True), (False, False))


def _judged(timed: Timed, exact: bool) -> Abilities:
    return Abilities(
        exact=exact,
        kept=timed.completion_tokens is not None and timed.completion_tokens == timed.asked_output,
        continuous=any(timed.counts),
        usage=timed.completion_tokens is not None,
    )


def remarks(can: Abilities, target: Target) -> list[str]:
    """What its abilities mean for the figures. Pure."""
    said = []
    if not can.usage:
        said.append("The server tells no usage: tokens are not known, and neither are TPOT, token rates or the share of cached tokens.")
    if can.usage and not can.exact:
        said.append("The server does not take min_tokens and ignore_eos: answers end where the model ends them.")
    elif can.usage and not can.kept:
        said.append("The server takes min_tokens and ignore_eos but answered fewer or more tokens than asked for.")
    if can.usage and not can.continuous and target.stream:
        said.append("The server does not count tokens as it goes: ITL spreads an answer's tokens evenly over its chunks.")
    return said


def header(target_key: str, more: dict[str, str]) -> dict[str, str]:
    """The headers of single questions."""
    return {**({"Authorization": f"Bearer {target_key}"} if target_key else {}), **more}
