"""What stands between an exchange and its route's policy (`routing.types.Pilot`), for all policies but the scheduler's."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from backends import wire
from routing.choose import words
from routing.types import Decision, Pilot, Replica

if TYPE_CHECKING:
    from gateway import choosers
    from gateway.exchange import Exchange

EXPLAIN = b"x-pointsman-explain"  # a request with this header is told why it went where it went


def decision_line(text: str) -> bytes:
    """The header line that tells a decision in words."""
    return b"x-pointsman-decision: %b\r\n" % text.encode("ascii", "replace").replace(b"\r", b" ").replace(b"\n", b" ")


class ByPolicy:
    """The `Chooser` of a route whose policy needs no scheduler."""

    __slots__ = ("inner",)

    def __init__(self, inner: choosers.RouteChooser) -> None:
        self.inner = inner

    def pilot(self, exchange: Exchange) -> Pilot:
        return PolicyPilot(self.inner.pilot(exchange.call, exchange.tenant), EXPLAIN in exchange.headers)


class PolicyPilot:
    """Guides one call by a policy. Its attempts share one memory of what was sent, by replica."""

    __slots__ = ("decision", "holds", "inner", "tell", "told")

    def __init__(self, inner: choosers.Pilot, tell: bool) -> None:
        self.inner, self.tell, self.told, self.holds = inner, tell, b"", False
        self.decision: Decision | None = None  # of the attempt under way

    def choose(self, excluded: Collection[Replica]) -> Decision | None:
        decision = self.inner.choose(excluded)
        if self.tell and decision is not None:
            self.told = decision_line(words(decision))
        return decision

    def sent(self, decision: Decision) -> None:
        self.decision = decision
        self.inner.sent(decision)

    def answered(self) -> None:
        if self.decision is not None:
            self.inner.answered(self.decision)

    def finished(self, tail: bytes | None) -> None:
        if self.decision is not None:
            self.inner.over(self.decision, wire.usage(tail) if tail is not None else None)

    def whole(self, tail: bytes | None) -> None:
        self.answered()
        self.finished(tail)
        self.released()

    def released(self) -> None:
        decision, self.decision = self.decision, None
        if decision is not None:
            self.inner.released(decision)

    def over(self) -> None:
        self.released()

    def besides(self) -> dict[Replica, float]:
        """For the scheduler: seconds beside its own, by replica that takes the call. Raises Fault where none does."""
        return {replica: seconds for replica, (_, seconds) in self.inner.besides().items()}

    def barred(self) -> frozenset[Replica]:
        return self.inner.barred()

    def beside(self) -> Pilot:
        return PolicyPilot(self.inner, self.tell)
