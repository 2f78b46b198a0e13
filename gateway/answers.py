"""What stands around an answer: its header lines, and which of the request's parameters were left out. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from backends import costed, report, wire
from backends.quirks import idle
from backends.types import Fault, Target
from routing.types import Route

# Each ends where the request's id comes.
SSE_HEAD = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\nx-request-id: "
JSON_HEAD = b"content-type: application/json\r\nx-request-id: "
CLOSE = b"connection: close\r\n"
PASSED = frozenset({
    b"openai-processing-ms", b"openai-version", b"x-ratelimit-limit-requests", b"x-ratelimit-limit-tokens",
    b"x-ratelimit-remaining-requests", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-requests", b"x-ratelimit-reset-tokens",
    costed.HEADER, report.HEADER,
})  # fmt: skip


def header_lines(
    first: bytes, id: bytes, who: bytes, upstream: Mapping[bytes, bytes], dropped: bytes, cors: bytes, tell: bool = True
) -> bytes:
    """The header lines of an answer: `first` (SSE_HEAD or JSON_HEAD), the request's id, who answered (`Replica.line`), what is passed on
    of the upstream's, the parameters that were dropped (by name too when the route would `tell`), and what a browser must see."""
    lines = first + id + who
    if dropped:
        upstream = {**upstream, report.HEADER: parameters(upstream, dropped)}
        if tell:
            lines += b"x-pointsman-dropped: %b\r\n" % dropped
    if not PASSED.isdisjoint(upstream):
        lines += b"".join(b"%b: %b\r\n" % (name, upstream[name]) for name in sorted(PASSED.intersection(upstream)))
    return lines + cors


def parameters(upstream: Mapping[bytes, bytes], dropped: bytes) -> bytes:
    """What became of a request's parameters: those dropped before it was sent (names with commas between them), and what the link told in
    the headers of its answer. Empty when all were sent as they came."""
    told = upstream.get(report.HEADER, b"")
    if not dropped:
        return told
    lost = b",".join(b"%b=dropped" % name for name in dropped.split(b","))
    return b"%b,%b" % (lost, told) if told else lost


def refusal(fault: Fault, id: bytes) -> bytes:
    """All but the status line and the date of an answer to what never became an exchange; the connection closes after it."""
    body = wire.envelope(fault)
    retry = b"retry-after: 1\r\n" if fault.retry_after else b""
    return b"content-type: application/json\r\nx-request-id: %b\r\n%b%bcontent-length: %d\r\n\r\n%b" % (id, retry, CLOSE, len(body), body)


def unsupported(doc: wire.Doc, target: Target, route: Route) -> list[str]:
    """The parameters that are lost by leaving out what the target does not support. One that says what its absence says is none of them.
    Raises Fault `bad_request` where the route is strict about them."""
    found = sorted(k for k in target.unsupported.intersection(doc) if not idle(k, doc[k]))
    if found and not route.drop:
        names = ", ".join(map(repr, found))
        message = f"Backend '{target.backend}' does not support {names}. Leave it out, or set on_unsupported: drop on the route."
        raise wire.bad(message, param=found[0], code="unsupported_parameter")
    return found
