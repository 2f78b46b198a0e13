"""The words of a survey: a check, what came of it, and what a check is given to ask with. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from backends.types import Fault

if TYPE_CHECKING:
    from backends.probe.ask import Asker

# pass: it does what its specification says. fail: it was accepted and not done. unsupported: it was refused, or not shown.
# error: it could not be told. skipped: it was not asked.
Verdict = Literal["pass", "fail", "unsupported", "error", "skipped"]
EVIDENCE = 240  # characters


class Outcome(msgspec.Struct, frozen=True):
    """What came of a check. `facts`: fields of `dialects.types.Facts` that it settles; `unsupported`: parameters that this backend
    refuses or ignores."""

    verdict: Verdict
    evidence: str
    facts: Mapping[str, Any] = {}
    unsupported: tuple[str, ...] = ()


class Check(msgspec.Struct, frozen=True):
    """One question. `calls`, `input`, `output`: requests and tokens at most, all calls together, for what it may cost. `assume`: facts that
    are taken for true while it is asked, so that the backend is measured and not our table. `alone`: run when nothing else is, since
    its answers are compared with each other. `shows`: parameters it is about; a refusal puts them among the unsupported ones. `denies`: the
    facts that a refusal settles. `chat`: it means nothing where a plain chat call does not work. `exact`: asked as it is written; other
    checks go without a temperature where the model refuses one."""

    name: str
    about: str
    run: Callable[[Asker], Awaitable[Outcome]]
    calls: int = 1
    input: int = 60
    output: int = 32
    assume: Mapping[str, Any] = {}
    alone: bool = False
    shows: tuple[str, ...] = ()
    denies: Mapping[str, Any] = {}
    chat: bool = True
    exact: bool = False


class Refused(Exception):
    """The backend refuses what was asked: its answer is a clear no (a 4xx, or a translator that cannot say it)."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Unclear(Exception):
    """What came back does not tell; the text says why."""


class Absent(Unclear):
    """There is nothing to ask: this backend has no such call."""


def passed(evidence: str, **facts: Any) -> Outcome:
    """It works; `facts` are what that settles."""
    return Outcome("pass", evidence, facts)


def failed(evidence: str, *unsupported: str, **facts: Any) -> Outcome:
    """It was accepted and not done."""
    return Outcome("fail", evidence, facts, unsupported)


def unshown(evidence: str) -> Outcome:
    """It was accepted, and nothing shows that it was heeded; this settles nothing."""
    return Outcome("unsupported", evidence)
