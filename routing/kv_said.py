"""The words of what gateways tell each other (`kv_peers`), and whom what they hear is told to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from routing.kv_load import Booking


class Message(msgspec.Struct, frozen=True, array_like=True):
    """One thing said. `replica` is the name that all share; `at` on the clock that all share, in seconds; `prefill` in seconds."""

    gateway: int
    kind: str
    key: int = 0  # the sender's number of the booking, or the gateway that is meant
    replica: int = 0
    at: float = 0.0
    prefill: float = 0.0
    tokens: int = 0
    base: Hashable = None
    blocks: Sequence[Hashable] = ()


class Foreign(NamedTuple):
    """The key under which a peer's booking stands in the load."""

    gateway: int
    number: int


class Caches(Protocol):
    """What a gateway thinks is cached where (kv_heard): told of peers' bookings as of its own. Replicas by this gateway's numbers."""

    def began(self, b: Booking) -> None:
        """A peer sent a request: its blocks are on their way to the replica."""

    def reached(self, b: Booking, t: float) -> None:
        """Its first token came: they are there."""

    def over(self, b: Booking) -> None:
        """It ended; `b.answered` says whether the first token had come."""

    def wrote(self, b: Booking, blocks: Sequence[Hashable], t: float) -> None:
        """It ended, and its replica has these, prompt and answer."""

    def stock(self) -> int:
        """How many blocks we know that a newcomer cannot learn from the engines."""

    def kept(self, replica: int) -> tuple[Sequence[Hashable], int]:
        """Those of one replica, newest first, and how many we think that it can hold."""

    def seed(self, replica: int, blocks: Sequence[Hashable], capacity: int, t: float) -> None:
        """What a peer thinks is there, newest first; older than all that we know."""
