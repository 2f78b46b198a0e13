"""Links that gather calls for embeddings (`backends.gather`). All other calls pass as over any link."""

from __future__ import annotations

from typing import TypeVar

from backends.costed import PricedLink
from backends.embeddings import BatchLimits
from backends.gather import Gatherer
from backends.openai import OpenAILink
from backends.types import Call, Flight, Receiver, Target, Timeouts


class BatchedLink(OpenAILink):
    """An `OpenAILink` that gathers calls for embeddings. `gather` is set by `batching`; None: it gathers none."""

    __slots__ = ("gather",)
    gather: Gatherer | None

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight:
        """As `OpenAILink.send`; a call for embeddings may wait for others, at most as long as its limits say."""
        if call.api != "embeddings" or self.gather is None:
            return super().send(call, target, timeouts, receiver)
        if self.guard is not None and (refused := self.guard(call.doc)) is not None:
            raise refused  # before it is joined to others
        return self.gather.take(call, target, timeouts, receiver)

    def plain(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight:
        """`OpenAILink.send` itself."""
        return super().send(call, target, timeouts, receiver)


class PricedBatchedLink(PricedLink, BatchedLink):
    """The same where answers have a price: each member's is told by its own usage."""

    __slots__ = ()


AnyBatched = TypeVar("AnyBatched", bound=BatchedLink)


def batching(link: AnyBatched, limits: BatchLimits) -> AnyBatched:
    """Makes `link` gather by `limits`, and returns it. Call it before the first `send`."""
    link.gather = Gatherer(link.plain, limits)
    return link
