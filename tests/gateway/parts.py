"""An exchange's surroundings without sockets or a loop: a strict recording sink, a link that a test plays, a core around them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from time import monotonic, time
from typing import Any, cast

from backends.http import Clients
from backends.types import Call, Fault, Receiver, Target, Timeouts
from gateway.auth import Door
from gateway.config import KeyConfig, Limits, ServerConfig
from gateway.exchange import Exchange
from gateway.experiments.plain import ended_of
from gateway.record import Plain, Record, record_of
from gateway.recorder import NOWHERE, Recorder
from gateway.serve import Core, Generation
from gateway.starts import MANY
from routing.types import Arm, Health, Replica, Route

SSE = {b"content-type": b"text/event-stream; charset=utf-8", b"transfer-encoding": b"chunked"}
JSON = {b"content-type": b"application/json", b"content-length": b"1"}


class FakeSink:
    """What a client would see. Any call out of order is an assertion."""

    raw = None

    def __init__(self) -> None:
        self.status, self.lines, self.body = 0, b"", b""
        self.begun = self.done = self.broken = False

    def respond(self, status: int, lines: bytes, body: bytes) -> None:
        assert not self.begun and not self.done
        self.status, self.lines, self.body, self.done = status, lines, body, True

    def begin(self, status: int, lines: bytes, first: bytes) -> None:
        assert not self.begun and not self.done
        self.status, self.lines, self.body, self.begun = status, lines, first, True

    def send(self, data: bytes) -> None:
        assert data and self.begun and not self.done
        self.body += data

    def finish(self, last: bytes) -> None:
        assert self.begun and not self.done
        self.body += last
        self.done = True

    def break_off(self) -> None:
        assert not self.done
        self.done = self.broken = True

    @property
    def error(self) -> dict[str, Any]:
        """The error object: of the body, or of the last event."""
        return cast(dict[str, Any], json.loads(self.body.rpartition(b"data: ")[2])["error"])

    @property
    def headers(self) -> dict[str, str]:
        return dict(cast("tuple[str, str]", line.split(": ", 1)) for line in self.lines.decode().split("\r\n") if line)


class FakeFlight:
    """One attempt, played by the test: it calls the receiver as a real flight may, and nothing after its end."""

    def __init__(self, replica: str, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> None:
        self.replica, self.call, self.target, self.timeouts, self.receiver = replica, call, target, timeouts, receiver
        self.over = self.headed = self.paused = False
        self.cancels = 0

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def cancel(self) -> None:
        self.cancels += 1
        self.over = True

    def head(self, status: int = 200, headers: Mapping[bytes, bytes] = JSON) -> None:
        assert not self.over and not self.headed
        self.headed = True
        self.receiver.on_head(status, headers)

    def data(self, data: bytes) -> None:
        assert not self.over and self.headed
        self.receiver.on_data(data)

    def end(self) -> None:
        assert not self.over and self.headed
        self.over = True
        self.receiver.on_end()

    def fail(self, fault: Fault) -> None:
        assert not self.over
        self.over = True
        self.receiver.on_fault(fault)

    def whole(self, body: bytes, status: int = 200, headers: Mapping[bytes, bytes] = JSON) -> None:
        assert not self.over and not self.headed
        self.over = True
        self.receiver.on_whole(status, headers, body)


class FakeLink:
    """Keeps what was sent as flights; raises `refuse` instead when that is set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.flights: list[FakeFlight] = []
        self.refuse: Fault | None = None

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> FakeFlight:
        if self.refuse is not None:
            raise self.refuse
        self.flights.append(FakeFlight(self.name, call, target, timeouts, receiver))
        return self.flights[-1]

    def close(self) -> None:
        return None


class Turns:
    """A loop that turns when a test says so."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[[], object]) -> None:
        self.soon.append(call)

    def turn(self) -> None:
        """What was asked for until now is called."""
        calls, self.soon = self.soon, []
        for call in calls:
            call()


NO_PART: tuple[None, tuple[()], None] = (None, (), None)  # of a plain answer that is in no experiment


class FakeRecorder:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.tails: list[bytes | None] = []
        self.store: Any = None  # takes what is in experiments

    def put(self, record: Record, tail: bytes | None = None, target: Target = NOWHERE) -> None:
        self.records.append(record)
        self.tails.append(tail)

    def put_plain(self, plain: Plain) -> None:
        self.records.append(record_of((*plain[:8], None, *plain[9:]), 0.0))
        self.tails.append(plain[8])
        for ended in ended_of(plain, time() - monotonic()):
            self.store.put(ended)


class World:
    """A core, its replicas `0`, `1`, … on one target each or all on one, route `m`."""

    def __init__(
        self,
        replicas: int = 2,
        *,
        slots: int | None = None,
        health: Health = "ready",
        retries: int = 1,
        drop: bool = False,
        unsupported: frozenset[str] = frozenset(),
        concurrency: int | None = None,
        limits: Limits | None = None,
        keys: tuple[KeyConfig, ...] = (),
        origins: tuple[str, ...] = (),
    ) -> None:
        self.links = [FakeLink(str(i)) for i in range(replicas)]
        self.replicas = [Replica(str(i), "b", "", link, slots, health) for i, link in enumerate(self.links)]
        self.route = Route(
            "m", (Arm(Target("b", "t", unsupported=unsupported), tuple(self.replicas)),), retries=retries, drop=drop,
            timeouts={"b": Timeouts(total=7.0)}, concurrency=concurrency,
        )  # fmt: skip
        server = ServerConfig(limits=limits or Limits(), wait_seconds=60.0, head_commit_seconds=10.0)
        generation = Generation(1, server, Door(keys, (), origins), {"m": self.route, "other": Route("other", ())})
        self.recorder = FakeRecorder()
        self.loop = Turns()
        clients = Clients(cast(Any, self.loop))  # no pool is ever opened
        self.core = Core(generation, clients, cast(Recorder, self.recorder), random.Random(1))

    def ask(self, doc: Any = None, *, stream: bool = False, headers: Mapping[bytes, bytes] | None = None) -> tuple[FakeSink, Exchange]:
        """A request, started."""
        sink = FakeSink()
        exchange = Exchange(self.core, sink, "chat", {b"host": b"localhost", **(headers or {})})
        body = doc if isinstance(doc, bytes) else json.dumps({"model": "m", "messages": [], "stream": stream, **(doc or {})}).encode()
        exchange.start(body)
        return sink, exchange

    @property
    def flights(self) -> list[FakeFlight]:
        """All attempts that are not over."""
        return [f for link in self.links for f in link.flights if not f.over]

    @property
    def flight(self) -> FakeFlight:
        """The only one."""
        (one,) = self.flights
        return one

    def check_idle(self, records: int) -> None:
        """Everything was released: no slot, no flight, nothing in a table; so many records."""
        assert not self.flights and not self.core.inflight and not self.core.parked and self.core.starts.spare == MANY
        assert [r.inflight for r in self.replicas] == [0] * len(self.replicas) and self.route.inflight == 0
        assert len(self.recorder.records) == records

    @property
    def record(self) -> Record:
        return self.recorder.records[-1]
