"""Calls for embeddings that come together become one call to the engine, and its answer becomes theirs again.

A call that comes while none of its kind is under way leaves at the end of this turn of the loop, with whatever else came in the same
turn: one by itself waits for nothing. While one is under way the next ones gather, until it is answered, `window` seconds have passed
since the first of them came, or they are as many as one call takes. Only what is asked in the same words but for its inputs is joined
(`backends.embeddings.key`).

Who fails alone fails alone: when the engine refuses a joint call, or breaks off, each member is sent once more by itself, and what comes
of that is its answer. What has nothing to do with the inputs (no connection, a time limit, 401, 429, 503) is everybody's answer at once.
A server that takes no joint calls as large as ours is found by that: they get smaller, and larger again as long as they are answered.

Owner of all state: the event loop that calls. A member that leaves takes only itself; the joint call ends with its last.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence

import msgspec

from backends import wire
from backends.embeddings import Asked, BatchLimits, Key, asked, divided, joined, key
from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts

log = logging.getLogger("pointsman.gather")
MAX_ANSWER = 64 << 20  # bytes of a joint answer that are held; a larger one is asked for in its parts
MAX_ERROR = 64 << 10
RESTING = 1000  # calls that go by themselves once a server has refused two inputs at a time
# The caller, the address or the server is at fault, not an input: each of the members would be told the same.
_SHARED = frozenset({401, 402, 403, 404, 405, 408, 429, 502, 503, 504, 529})
_OF_TRACE = (b"traceparent", b"tracestate")
Send = Callable[[Call, Target, Timeouts | None, Receiver], Flight]


class Member:
    """One call: the `Flight` of who asked, and, when it is sent by itself, the `Receiver` before theirs."""

    __slots__ = ("asked", "call", "flight", "group", "joint", "over", "paused", "receiver", "split")

    def __init__(self, group: Group, call: Call, of: Asked, receiver: Receiver) -> None:
        self.group, self.call, self.asked, self.receiver = group, call, of, receiver
        self.flight: Flight | None = None  # once it is sent by itself
        self.joint: Joint | None = None  # while it is sent with others
        self.split: Joint | None = None  # the joint call that failed, when this is a member's second chance
        self.over = self.paused = False

    # --- Flight
    def pause(self) -> None:
        """Stops reading where the answer is this call's own; a joint one is held whole anyhow."""
        self.paused = True
        if self.flight is not None:
            self.flight.pause()

    def resume(self) -> None:
        """Reads on."""
        self.paused = False
        if self.flight is not None:
            self.flight.resume()

    def cancel(self) -> None:
        """Gives this call up, and nobody else's. Idempotent."""
        if self.over:
            return
        self.over = True
        flight, joint = self.flight, self.joint
        if flight is not None:
            flight.cancel()
            self._ended(False)
        elif joint is not None:
            joint.leave()
        elif self.split is None:
            self.group.leave(self)

    # --- Receiver, of a call that was sent by itself
    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        if not self.over:
            self.over = True
            self._ended(status == 200)
            self.receiver.on_whole(status, headers, body)

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        if not self.over:
            if status != 200:
                self.split = None
            self.receiver.on_head(status, headers)

    def on_data(self, data: bytes) -> None:
        if not self.over:
            self.receiver.on_data(data)

    def on_end(self) -> None:
        if not self.over:
            self.over = True
            self._ended(True)
            self.receiver.on_end()

    def on_fault(self, fault: Fault) -> None:
        if not self.over:
            self.over = True
            self._ended(False)
            self.receiver.on_fault(fault)

    def _ended(self, good: bool) -> None:
        split, self.split = self.split, None
        if split is not None and good:
            split.redeemed()
        self.group.ended()

    # --- from its group
    def alone(self) -> None:
        """Sends it by itself. A Fault goes to the receiver."""
        group = self.group
        group.busy += 1
        try:
            self.flight = group.gather.send(self.call, group.target, group.timeouts, self)
        except Fault as fault:
            self.on_fault(fault)
            return
        if self.paused:
            self.flight.pause()

    def whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        """Gives it what a joint call made of its part. A bug there is this call's alone."""
        if self.over:
            return
        self.over = True
        try:
            self.receiver.on_whole(status, headers, body)
        except Exception:
            log.exception("a bug: an answer of a joint call")
            self.receiver.on_fault(Fault("upstream", "The gateway failed; its log says why.", status=500, code="internal_error"))

    def failed(self, fault: Fault) -> None:
        """Gives it its copy of what befell all."""
        if not self.over:
            self.over = True
            self.receiver.on_fault(_copy(fault))


class Joint:
    """Several members as one call: the `Receiver` of its answer."""

    __slots__ = ("flight", "good", "group", "headers", "id", "left", "members", "over", "parts", "size", "status")

    def __init__(self, group: Group, members: Sequence[Member], id: bytes) -> None:
        self.group, self.members, self.id = group, members, id
        self.flight: Flight | None = None
        self.left = len(members)
        self.good = 0  # of those that were sent again
        self.over = False
        self.status, self.size = 0, 0
        self.headers: Mapping[bytes, bytes] = {}
        self.parts: list[bytes] = []

    def send(self) -> None:
        """Sends the call for all. A Fault is treated as one that came later."""
        first, group = self.members[0].call, self.group
        group.busy += 1
        for member in self.members:
            member.joint = self
        parts = [member.asked for member in self.members]
        headers = first.headers if _one_trace([member.call for member in self.members]) else {}
        call = msgspec.structs.replace(first, id=self.id, doc=joined(first, parts), headers=headers)
        try:
            self.flight = group.gather.send(call, group.target, group.timeouts, self)
        except Fault as fault:
            self.on_fault(fault)

    def leave(self) -> None:
        """One member is gone; with the last one the call is given up."""
        self.left -= 1
        if not self.left and not self.over:
            self.over = True
            if self.flight is not None:
                self.flight.cancel()
            self.group.ended()

    # --- Receiver
    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        if self.over:
            return
        self.over = True
        answers = self._divided(body) if status == 200 else None
        if answers is None and status not in _SHARED:
            self._split()
            return
        self.group.ended()
        if answers is None:
            for member in self.members:
                member.whole(status, headers, body)
            return
        self.group.gather.grown(self._items())
        for member, answer in zip(self.members, answers, strict=True):
            member.whole(status, headers, answer)

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.status, self.headers = status, headers

    def on_data(self, data: bytes) -> None:
        self.parts.append(data)
        self.size += len(data)
        if self.size > (MAX_ANSWER if self.status == 200 else MAX_ERROR) and not self.over:
            if self.flight is not None:
                self.flight.cancel()
            self.on_whole(self.status, self.headers, b"" if self.status == 200 else b"".join(self.parts))

    def on_end(self) -> None:
        self.on_whole(self.status, self.headers, b"".join(self.parts))

    def on_fault(self, fault: Fault) -> None:
        if self.over:
            return
        self.over = True
        if fault.kind not in ("timeout", "unavailable"):  # an input may have broken the engine
            self._split()
            return
        self.group.ended()
        for member in self.members:
            member.failed(fault)

    def _divided(self, body: bytes) -> list[bytes] | None:
        found = divided(body, [member.asked for member in self.members])
        if found is None:
            return None
        for member, doc in zip(self.members, found, strict=True):
            own = doc.get("id")
            if own is not None and self.id in bytes(own):  # the engine names its answer by the request
                doc["id"] = msgspec.Raw(bytes(own).replace(self.id, member.call.id))
        return [wire.encode(doc) for doc in found]

    def _split(self) -> None:
        """Sends each member by itself, once."""
        self.group.gather.refused += 1
        again = [member for member in self.members if not member.over]
        self.left = len(again)  # from here on: how many must be good to show that only their number was too much
        for member in again:
            member.joint, member.split = None, self
        for member in again:
            if not member.over:
                member.alone()
        self.group.ended()

    def redeemed(self) -> None:
        """A member had a good answer by itself. When all had, it was their number that the server refused."""
        self.good += 1
        if self.good == self.left:
            self.group.gather.shrunk(self._items())

    def _items(self) -> int:
        return sum(len(member.asked.inputs) for member in self.members)


class Group:
    """The calls of one kind: how many are under way, and who waits to be sent together."""

    __slots__ = ("busy", "bytes", "gather", "handle", "items", "key", "target", "timeouts", "waiting")

    def __init__(self, gather: Gatherer, key: Key, target: Target, timeouts: Timeouts | None) -> None:
        self.gather, self.key, self.target, self.timeouts = gather, key, target, timeouts
        self.busy = self.items = self.bytes = 0
        self.waiting: list[Member] = []
        self.handle: asyncio.Handle | None = None

    def add(self, member: Member) -> None:
        """Takes one more who waits, first sending those whom it would be too much for."""
        gather, of = self.gather, member.asked
        if self.waiting and (self.items + len(of.inputs) > gather.allowed or self.bytes + of.size > gather.limits.bytes):
            self.flush()
        self.waiting.append(member)
        self.items += len(of.inputs)
        self.bytes += of.size
        if self.handle is None:
            loop = asyncio.get_running_loop()
            self.handle = loop.call_later(gather.limits.window, self.flush) if self.busy else loop.call_soon(self.flush)

    def leave(self, member: Member) -> None:
        """Forgets one who waited."""
        self.waiting.remove(member)
        self.items -= len(member.asked.inputs)
        self.bytes -= member.asked.size
        if not self.waiting:
            self._quiet()

    def flush(self) -> None:
        """Sends all who wait, as one call."""
        self._stop()
        members, self.waiting = self.waiting, []
        self.items = self.bytes = 0
        if len(members) == 1:
            self.gather.calls += 1
            members[0].alone()
        elif members:
            self.gather.calls += 1
            self.gather.members += len(members)
            Joint(self, members, self.gather.id()).send()

    def ended(self) -> None:
        """An engine call of this kind is over: with the last, those who wait go at the end of this turn."""
        self.busy -= 1
        if self.busy:
            return
        if self.waiting:
            self._stop()
            self.handle = asyncio.get_running_loop().call_soon(self.flush)
        else:
            self._quiet()

    def _stop(self) -> None:
        if self.handle is not None:
            self.handle.cancel()
            self.handle = None

    def _quiet(self) -> None:
        self._stop()
        if not self.busy:
            self.gather.groups.pop(self.key, None)


class Gatherer:
    """What one link gathers. `send`: how a call leaves. `calls`: calls to the engine, without those for the parts of one that failed;
    `members`: clients' calls that went with others; `refused`: joint calls that were sent again in their parts."""

    __slots__ = ("allowed", "calls", "groups", "limits", "members", "number", "prefix", "refused", "resting", "send", "struck")

    def __init__(self, send: Send, limits: BatchLimits) -> None:
        self.send, self.limits = send, limits
        self.groups: dict[Key, Group] = {}  # those with a call under way or waiting
        self.allowed = limits.items  # inputs that the server is known, or still thought, to take at once
        self.resting = self.struck = 0  # struck: inputs of a joint call that failed, though each was good by itself
        self.calls = self.members = self.refused = self.number = 0
        self.prefix = secrets.token_hex(4).encode()  # no two gateways may give one id to an engine

    def __repr__(self) -> str:
        counts = f"{self.calls} calls, {self.members} members, {self.refused} refused"
        return f"<Gatherer {counts}, {self.allowed} at once, {len(self.groups)} kinds>"

    def take(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight:
        """Sends `call` soon, perhaps with others. Raises Fault as the link's own `send` where it goes by itself at once. Does not block;
        the receiver is never called before this returns."""
        of = asked(call, self.limits.bytes)
        if of is None or len(of.inputs) > self.allowed or self.resting:
            self.resting = max(0, self.resting - 1)
            self.calls += 1
            return self.send(call, target, timeouts, receiver)
        name = key(call, target, timeouts, of.form)
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(self, name, target, timeouts)
        member = Member(group, call, of, receiver)
        group.add(member)
        return member

    def id(self) -> bytes:
        """A request id for the next joint call: none of the members' is told to the others."""
        self.number += 1
        return b"joint-%b-%d" % (self.prefix, self.number)

    def grown(self, items: int) -> None:
        """A joint call of so many inputs was answered: where it was as large as may be, the next may be larger by one."""
        if items >= self.struck:
            self.struck = 0
        if items >= self.allowed:
            self.allowed = min(self.limits.items, self.allowed + 1)

    def shrunk(self, items: int) -> None:
        """So many inputs at once failed, and each was good by itself. Once that is chance, such as an engine that was started again; at the
        second time, with no such call answered in between, the next have half as many."""
        if not self.struck:
            self.struck = items
            return
        self.struck, self.allowed = 0, max(2, min(self.allowed, items // 2))
        if items <= 2:
            self.resting = RESTING


def _one_trace(calls: Sequence[Call]) -> bool:
    """Whether all are of one trace, so that the engine's span may be told whose it is."""
    first = calls[0].headers
    return all(call.headers.get(name) == first.get(name) for call in calls for name in _OF_TRACE)


def _copy(fault: Fault) -> Fault:
    """The same fault for another call: who takes it may change its words."""
    return Fault(
        fault.kind, fault.message, origin=fault.origin, status=fault.status, code=fault.code, type=fault.type, param=fault.param,
        retry=fault.retry, retry_after=fault.retry_after,
    )  # fmt: skip
