"""How a route meets failures beyond a plain retry. A route without any of it has no plan, and its calls pay nothing for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from backends.types import Timeouts
from routing.latency import Latency
from routing.retry import Backoff, Verdict

if TYPE_CHECKING:
    from routing.types import Route

# How a target is asked to go on with an assistant's message: `flag` by vLLM's and SGLang's parameters; `prefill` by such a message at the
# end; `trimmed` the same where it must not end in white space.
Continues = Literal["flag", "prefill", "trimmed"]
HOLD = 1000  # calls after which a hedge budget begins to forget


class Hedge(msgspec.Struct, frozen=True):
    """When a second replica is asked too: `after` seconds without content (None: the learned 95th percentile), for at most the share
    `budget` of the calls."""

    after: float | None = None
    budget: float = 0.05


class Budget:
    """How many calls there were, and how many were asked twice. Old ones count less and less. Mutated by its two methods."""

    __slots__ = ("calls", "spent")

    def __init__(self) -> None:
        self.calls = self.spent = 0.0

    def call(self) -> None:
        """One more call."""
        self.calls += 1
        if self.calls > HOLD:
            self.calls, self.spent = self.calls / 2, self.spent / 2

    def spend(self, share: float) -> bool:
        """Whether one more may be asked twice; counts it when so."""
        if self.spent + 1 > share * self.calls:
            return False
        self.spent += 1
        return True


class Plan:
    """What a route does when answers fail or are slow. Settings from configuration; `first`, `whole` and `budget` are learned.

    `chain`: the routes that take over, in order, their own fallbacks among them. `heirs`: the route's arms that can go on with an answer
    that another began, as a route of its own (None: answers are not continued); `continues` says how each is asked, by backend and model.
    """

    __slots__ = (
        "backoff", "budget", "chain", "coalesce", "content", "context", "continues", "first", "hedge", "heirs", "timeouts", "whole",
    )  # fmt: skip

    def __init__(
        self,
        *,
        backoff: Backoff | None = None,
        hedge: Hedge | None = None,
        coalesce: bool = False,
        continues: Mapping[tuple[str, str], Continues] | None = None,
        heirs: Route | None = None,
        timeouts: Mapping[str, Timeouts] | None = None,
    ) -> None:
        self.backoff, self.hedge, self.coalesce = backoff, hedge, coalesce
        self.continues, self.heirs = continues or {}, heirs
        self.timeouts = timeouts or {}
        self.chain: tuple[Route, ...] = ()
        self.context: tuple[Route, ...] = ()
        self.content: tuple[Route, ...] = ()
        self.first, self.whole = Latency(), Latency()  # of streams, and of answers in one piece
        self.budget = Budget()

    def learn(self, older: Plan) -> None:
        """Takes over what the plan before it had learned."""
        self.first, self.whole, self.budget = older.first, older.whole, older.budget

    def limits(self, backend: str) -> Timeouts:
        """The time limits for calls to a backend; before one is chosen, those of the first."""
        return self.timeouts.get(backend) or next(iter(self.timeouts.values()), _USUAL)

    def after(self, verdict: Verdict) -> tuple[Route, ...]:
        """The routes that may take a call whose fault asks for that."""
        if verdict is Verdict.CONTEXT:
            return self.context
        if verdict is Verdict.CONTENT:
            return self.content
        return () if verdict is Verdict.TELL else self.chain

    def patience(self, stream: bool) -> float | None:
        """Seconds without content after which a second replica is asked; None: not at all, or not known yet."""
        if self.hedge is None:
            return None
        return self.hedge.after if self.hedge.after is not None else (self.first if stream else self.whole).p95


_USUAL = Timeouts()
BARE = Plan()  # of a route that has none, where a call has come to it as a fallback
