"""Identical calls under way at once, answered once: the first leads, the others follow its answer. Only where a route asks for it, and only
calls whose answer is the same each time: temperature 0, a seed, or no sampling at all. Of one tenant: nobody sees that another asked."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from backends import wire

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.sink import Sink

KEPT = 1 << 20  # bytes of an answer that who comes late still gets; a longer one has no new followers
BEHIND = 1 << 20  # bytes that may wait for a follower that does not read
FOLLOWERS = 1024  # of one leader
WAITING = b": waiting\n\n"
_UNSAMPLED = frozenset({"embeddings", "rerank"})
_SAMPLED = frozenset({"chat", "completions"})
_float = msgspec.json.Decoder(float | None)


def same(exchange: Exchange) -> bytes | None:
    """What identical calls have in common: a digest of tenant, privacy, surface, route and body. None for a call whose answers may
    differ."""
    call = exchange.call
    if exchange.api not in _UNSAMPLED and not (exchange.api in _SAMPLED and _deterministic(call.doc)):
        return None
    # `repr` keeps the parts apart: none may flow into the next
    marks = exchange.trial.marks if exchange.trial is not None else ()
    arms = [(kind.experiment, kind.epoch, kind.arm) for kind, _ in marks]  # whose targets may differ
    parts = repr((call.api, exchange.route.name, call.tenant, exchange.tenant.private, arms)).encode()
    return hashlib.blake2b(parts + wire.encode(dict(sorted(call.doc.items()))), digest_size=32).digest()


def _deterministic(doc: wire.Doc) -> bool:
    if doc.get("seed", wire.NULL) != wire.NULL:
        return True
    try:
        return "temperature" in doc and _float.decode(doc["temperature"]) == 0
    except msgspec.MsgspecError:
        return False


class Shared:
    """The `Sink` of a leader: its own client's and, through their exchanges, the followers'."""

    raw = None  # followers see every event
    __slots__ = ("begun", "behind", "followers", "kept", "key", "leader", "open", "own", "size")

    def __init__(self, leader: Exchange, own: Sink, key: bytes) -> None:
        self.leader, self.key = leader, key
        self.own: Sink | None = own  # None once its client has left
        self.followers: list[Exchange] = []
        self.behind: dict[Exchange, int] = {}  # bytes sent to a follower since it stopped reading
        self.kept: list[bytes] = []
        self.size = 0
        self.begun = False
        self.open = True  # more may follow

    # --- who follows
    def join(self, follower: Exchange) -> bool:
        """Takes one more, who gets at once what was sent so far. False when it cannot."""
        if not self.open or len(self.followers) >= FOLLOWERS or follower is self.leader:
            return False
        self.followers.append(follower)
        if self.kept:
            self._one(follower, b"".join(self.kept))
        return True

    def leave(self, follower: Exchange) -> None:
        """A follower is over. With the last one the leader's call ends, if nobody waits for it."""
        if follower in self.followers:
            self.followers.remove(follower)
            self.behind.pop(follower, None)
            if self.own is None and not self.followers:
                self.leader.gone()

    def deserted(self) -> bool:
        """The leader's own client has left: True when others wait for the answer, which then goes on at their pace."""
        if not self.followers:
            return False
        self.own = None
        self.leader.resume()
        return True

    # --- Sink
    def begin(self, status: int, lines: bytes, first: bytes) -> None:
        self.begun = True
        if self.own is not None:
            self.own.begin(status, lines, first)
        self._all(first)

    def send(self, data: bytes) -> None:
        if self.own is not None:
            self.own.send(data)
        self._all(data)

    def finish(self, last: bytes) -> None:
        self.open = False
        if self.own is not None:
            self.own.finish(last)
        fault = self.leader.last_fault
        for follower in self._taken():
            if fault is not None:
                follower.refuse(fault)
            else:
                follower.finish_as(self.leader, last)

    def respond(self, status: int, lines: bytes, body: bytes) -> None:
        self.open = False
        if self.own is not None:
            self.own.respond(status, lines, body)
        fault = self.leader.last_fault
        for follower in self._taken():
            if fault is not None:
                follower.refuse(fault)
            else:
                follower.respond_as(self.leader, status, body)

    def break_off(self) -> None:
        if self.own is not None:
            self.own.break_off()

    # --- within
    def _taken(self) -> list[Exchange]:
        followers, self.followers = self.followers, []
        return followers

    def _all(self, data: bytes) -> None:
        """Sends to all followers, and keeps it for those to come. Comments are each one's own affair."""
        if not data or data == WAITING or data.startswith(b": loading "):
            return
        if self.open and self.size + len(data) <= KEPT:
            self.kept.append(data)
            self.size += len(data)
        else:
            self.open = False
            self.kept.clear()
        for follower in [*self.followers]:
            self._one(follower, data)

    def _one(self, follower: Exchange, data: bytes) -> None:
        if follower.paused_at is None:
            self.behind.pop(follower, None)
        else:
            self.behind[follower] = waiting = self.behind.get(follower, 0) + len(data)
            if waiting > BEHIND:
                follower.sink.break_off()
                follower.gone()
                return
        follower.send_as(self.leader, data)
