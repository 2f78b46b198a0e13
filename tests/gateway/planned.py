"""A world whose route `m` has a plan, and routes `longer` and `other way` beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from backends.types import Fault, Target, Timeouts
from gateway.serve import Generation
from routing.plan import Continues, Hedge, Plan
from routing.retry import Backoff
from routing.types import Arm, Replica, Route
from tests.gateway.parts import FakeFlight, FakeLink, World

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "t"}
DONE = b"data: [DONE]\n\n"


def lost(**more: Any) -> Fault:
    return Fault("upstream", "lost", origin="backend", **{"code": "connection_lost", "retry": True, **more})


def event(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """A chunk of the first stream; `more` overrides its head."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({**HEAD, "choices": choices, **more}, separators=(",", ":")).encode() + b"\n\n"


def text(*parts: str, **more: Any) -> bytes:
    """One chunk a part."""
    return b"".join(event({"content": part}, **more) for part in parts)


def usage(prompt: int, out: int, **more: Any) -> bytes:
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": out,
        "total_tokens": prompt + out,
        "prompt_tokens_details": {"cached_tokens": prompt},
    }
    return event(usage=counts, **more)


def read(body: bytes) -> tuple[str, list[dict[str, Any]]]:
    """The text of a stream and its chunks, comments and [DONE] left out."""
    chunks = [json.loads(e[6:]) for e in body.split(b"\n\n") if e.startswith(b"data: {")]
    said = [c["delta"].get("content") or "" for chunk in chunks for c in chunk.get("choices", ())]
    return "".join(said), chunks


class Planned(World):
    """Replicas as in `World`; each of the other routes has one replica of its own. `mode`: how all can go on with an answer."""

    def __init__(
        self,
        replicas: int = 2,
        *,
        backoff: Backoff | None = None,
        hedge: Hedge | None = None,
        coalesce: bool = False,
        mode: Continues | None = None,
        timeouts: Timeouts | None = None,
        chain: Sequence[str] = (),
        context: str = "",
        content: str = "",
        **more: Any,
    ) -> None:
        super().__init__(replicas, **more)
        heirs = Route("m", self.route.arms) if mode is not None else None
        continues: dict[tuple[str, str], Continues] = {("b", "t"): mode} if mode is not None else {}
        limits = timeouts or Timeouts(total=100.0)
        self.plan = Plan(
            backoff=backoff, hedge=hedge, coalesce=coalesce, continues=continues, heirs=heirs, timeouts={"b": limits, "longer": limits}
        )
        self.route.follow(self.plan)
        self.others = {name: self._other(name) for name in ("longer", "last")}
        routes = {"m": self.route, **self.others}
        self.plan.chain = tuple(routes[name] for name in chain)
        self.plan.context = (routes[context],) if context else ()
        self.plan.content = (routes[content],) if content else ()
        self.core.swap(Generation(2, self.core.server, self.core.door, routes))

    def _other(self, name: str) -> Route:
        link = FakeLink(name)
        self.links.append(link)
        replica = Replica(name, name, "", link)
        self.replicas.append(replica)
        route = Route(name, (Arm(Target(name, "t"), (replica,)),), retries=0)
        route.follow(Plan())
        return route

    def at(self, seconds: float) -> float:
        """So many seconds later, on the clock of all."""
        self.core.clients.now += seconds
        for exchange in [*self.core.inflight]:
            exchange.tick(self.core.clients.now)
        return self.core.clients.now

    def check_idle(self, records: int) -> None:
        super().check_idle(records)
        assert not self.core.leaders and not any(route.inflight for route in self.others.values())

    def on(self, name: str) -> FakeFlight:
        """The flight on a replica."""
        (one,) = [f for f in self.flights if f.replica == name]
        return one
