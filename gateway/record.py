"""One record per request: what was asked, who answered, how long it took, what it used."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec

from backends import prices, wire
from backends.report import HEADER
from backends.types import Target, Usage
from gateway.answers import parameters
from routing.types import Decision

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.experiments.plain import Kind, Marks


class Record(msgspec.Struct):
    """Everything that metrics, the log line and the store say of one finished request. Seconds, bytes, counts."""

    id: str
    unix: float  # when it arrived, seconds since 1970
    api: str
    route: str  # the model name that the client asked for ("" when unknown)
    backend: str  # "" when none was reached
    replica: str  # base URL or engine instance name
    tenant: str
    stream: bool
    status: int  # what the client was told (499: it had left)
    duration: float
    ttft: float | None = None  # arrival to first content
    attempts: int = 0
    chunks: int = 0  # reads relayed after the commit
    bytes_out: int = 0
    usage: Usage | None = None
    fault: str = ""  # Fault.kind
    origin: str = ""  # Fault.origin
    message: str = ""
    reason: str = ""  # why this replica
    cost: float | None = None  # dollars, by our prices; None: no price is known, or no usage was told
    cost_reported: float | None = None  # dollars, as the provider says
    continued: int = 0  # times that another target went on with the answer
    hedged: bool = False  # a second replica was asked too
    coalesced: bool = False  # it got the answer of an identical call, whose tokens are counted there
    notes: str = ""  # what became of parameters that were not simply sent: `name=fate,...`


# The most common request by far, as the hot path hands it over: a whole good answer to the first attempt within `PLAIN_SECONDS`.
# decision, route, tenant, api, id, arrival (monotonic s), duration (s), bytes out, the end of the answer with its usage; where it counts
# in experiments: its kind and unit in the only one, else None and its marks; and what they keep of the answer (None: it is in none).
Plain = tuple[Decision, str, str, str, bytes, float, float, int, bytes | None, "Kind | None", "int | Marks", bytes | None]
Columns = tuple[Any, ...]  # of plain answers: the fields of `Plain`, each of all of them
PLAIN_SECONDS = 1.0


def record_of(plain: Plain, epoch: float) -> Record:
    """The record of a plain answer. `epoch`: what to add to monotonic seconds to get seconds since 1970."""
    decision, route, tenant, api, id, received, seconds, size, tail = plain[:9]
    record = Record(
        id.decode(), received + epoch, api, route, decision.target.backend, decision.replica.name, tenant, False, 200, seconds, seconds,
        1, 0, size, usage=None if tail is None else wire.usage(tail), reason=decision.reason,
    )  # fmt: skip
    if tail is not None:
        priced(record, tail, decision.target)
    return record


def priced(record: Record, tail: bytes, target: Target) -> None:
    """Sets what an answer cost, by our prices and in its provider's words. `tail`: the end of the answer, with its usage."""
    if target.price is not None and record.usage is not None:
        with contextlib.suppress(ArithmeticError):  # of counts that no answer has
            record.cost = target.price(record.usage)
    record.cost_reported = prices.reported(tail)


def record_of_exchange(exchange: Exchange, status: int) -> Record:
    """The record of an exchange that ends now; `status` is what the client was told. Reads the clocks."""
    decision, fault = exchange.decision, exchange.last_fault
    duration = time.monotonic() - exchange.received
    record = Record(
        exchange.id.decode(), time.time() - duration, exchange.api, exchange.route.name, decision.target.backend, decision.replica.name,
        exchange.tenant.name, exchange.stream, status, duration, exchange.ttft, exchange.attempts, exchange.chunks, exchange.bytes_out,
    )  # fmt: skip
    record.reason = decision.reason
    guide = exchange.guide
    if guide is not None:
        record.route, record.continued = guide.asked, guide.continued
        record.hedged, record.coalesced = guide.hedged, guide.leader is not None
    if exchange.dropped or HEADER in exchange.upstream_headers:
        record.notes = parameters(exchange.upstream_headers, exchange.dropped).decode("latin-1")
    if fault is not None:
        record.fault, record.origin, record.message = fault.kind, fault.origin, fault.message
    return record
