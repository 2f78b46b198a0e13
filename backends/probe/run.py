"""Runs checks and gathers what they found. The only part of a survey that knows of tasks and of time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from backends.probe import basics, media, sampling, tools
from backends.probe.ask import Asker
from backends.probe.types import EVIDENCE, Absent, Check, Outcome, Refused, Unclear
from backends.types import Fault, Usage

AT_ONCE = 4
SECONDS = 90.0  # of one check
CHECKS: tuple[Check, ...] = (*basics.CHECKS, *sampling.CHECKS, *tools.CHECKS, *media.CHECKS)
# A refusal with one of these says nothing of a parameter: nobody may ask, or nothing is there to ask.
_ELSEWHERE = frozenset({"unsupported_api", "model_not_found", "bad_target"})
CHAT = basics.CHECKS[0]
Clean = Callable[[str], str]


# Parameters that many checks use and few are about.
_COMMON = frozenset({"temperature", "top_p", "max_tokens", "max_completion_tokens", "model", "stream", "stream_options"})


class Result(msgspec.Struct, frozen=True):
    """One check and what came of it. `calls`: requests sent."""

    name: str
    about: str
    outcome: Outcome
    calls: int


class Found(msgspec.Struct, frozen=True):
    """What a survey settles: fields of `Facts`, and parameters to leave out or refuse."""

    facts: Mapping[str, Any]
    unsupported: tuple[str, ...]


def named(names: Iterable[str]) -> tuple[Check, ...]:
    """The checks of these names, in the usual order; all for no names. KeyError: there is no such check."""
    wanted = set(names)
    unknown = wanted - {check.name for check in CHECKS}
    if unknown:
        raise KeyError(min(unknown))
    return tuple(check for check in CHECKS if not wanted or check.name in wanted)


def size(checks: Iterable[Check], context: int | None) -> tuple[int, Usage]:
    """Requests and tokens that the checks take at most, tries again not counted. `context`: of the model."""
    calls, read, written = 0, 0, 0
    for check in checks:
        calls += check.calls
        read += check.calls * check.input
        written += check.output
        if check.name == "context-limit" and context is not None and context <= basics.LARGEST:
            read += context * 11 // 10 + 128  # counted only where it is not refused, as it should be
    return calls, Usage(input=read, output=written)


async def survey(
    asker: Asker, checks: Sequence[Check], *, clean: Clean, told: Callable[[Result], None] | None = None, seconds: float = SECONDS
) -> list[Result]:
    """Runs the checks, at most `AT_ONCE` at a time, those that must be alone after the others, each for at most `seconds`.

    Results come in the order of `CHECKS`, that of a plain chat call among them whenever another needs it; `told` hears each when it is
    there. `clean` takes secrets out of evidence. Raises only when cancelled.
    """
    room = asyncio.Semaphore(AT_ONCE)
    results: dict[str, Result] = {}

    async def one(check: Check) -> None:
        async with room:
            if results and check.chat and results[CHAT.name].outcome.verdict not in ("pass", "fail"):
                return tell(check, Outcome("skipped", "a plain chat call does not work"), 0)
            asked = asker.assuming(check.assume, exact=check.exact)
            outcome = await _outcome(check, asked, seconds)
            return tell(check, outcome, asked.calls)

    def tell(check: Check, outcome: Outcome, calls: int) -> None:
        evidence = clean(" ".join(outcome.evidence.split())[: 4 * EVIDENCE])[:EVIDENCE]
        result = Result(check.name, check.about, msgspec.structs.replace(outcome, evidence=evidence), calls)
        results[check.name] = result
        if told is not None:
            told(result)

    rest = [check for check in checks if check is not CHAT]
    if CHAT in checks or any(check.chat for check in rest):
        await one(CHAT)  # first: where it does not work, nothing that is built on it can tell anything
    async with asyncio.TaskGroup() as group:
        for check in rest:
            if not check.alone:
                group.create_task(one(check))
    for check in rest:
        if check.alone:
            await one(check)
    return [results[check.name] for check in CHECKS if check.name in results]


async def _outcome(check: Check, asker: Asker, seconds: float) -> Outcome:
    try:
        async with asyncio.timeout(seconds):
            return await check.run(asker)
    except TimeoutError:
        return Outcome("error", f"no end within {seconds:g} s")
    except Refused as refused:
        fault = refused.fault
        if fault.code in _ELSEWHERE:
            return Outcome("error" if check.chat else "unsupported", fault.message)
        return _no(check, fault)
    except Absent as absent:
        return Outcome("skipped", str(absent))
    except Unclear as unclear:
        return Outcome("error", str(unclear))
    except Fault as fault:  # of a call beside chat
        return Outcome("unsupported" if fault.kind in ("not_found", "bad_request") else "error", fault.message)


def _no(check: Check, fault: Fault) -> Outcome:
    """A refusal, and what it settles: nothing where another parameter is to blame than the check is about."""
    blamed = re.split(r"[.\[]", fault.param or "")[0]
    if blamed in _COMMON and blamed not in check.shows:
        return Outcome("unsupported", f"refused for its {blamed}: {fault.message}")
    return Outcome("unsupported", f"refused: {fault.message}", check.denies, (blamed,) if blamed in check.shows else check.shows)


def found(results: Iterable[Result], *, relayed: bool, context: int | None = None) -> Found:
    """What the outcomes say together. A fact that one check grants and another denies is denied: whoever relies on it needs both.

    `relayed`: calls go there as they come. Where they are translated, parameters are the translator's to map and emulate, which it
    does by the facts alone. `context`: tokens, where the server says it.
    """
    facts: dict[str, Any] = {}
    unsupported: set[str] = set()
    for result in results:
        for name, value in result.outcome.facts.items():
            facts[name] = value if name not in facts else _worse(facts[name], value)
        unsupported.update(result.outcome.unsupported if relayed else ())
    if context is not None:
        facts["context"] = context
    return Found(dict(sorted(facts.items())), tuple(sorted(unsupported)))


def _worse(one: Any, other: Any) -> Any:
    """Of two values of one fact the one that promises less."""
    return other if one in (True, "native") else one
