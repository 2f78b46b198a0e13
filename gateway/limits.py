"""The faults of requests that pass a cap or break the protocol, said the same way on both server ways."""

from __future__ import annotations

from collections.abc import Mapping

from backends.types import Fault


def too_large(limit: int) -> Fault:
    """The body is larger than the gateway takes."""
    return Fault("too_large", f"The request body exceeds {limit} bytes.", origin="client", code="body_too_large")


def headers_too_large(limit: int) -> Fault:
    """The head is larger than the gateway takes."""
    return Fault("bad_request", f"The headers exceed {limit} bytes.", origin="client", status=431, code="headers_too_large")


def bad_request(message: str) -> Fault:
    """The request is not one."""
    return Fault("bad_request", message, origin="client", code="invalid_http")


def too_slow(what: str, seconds: float) -> Fault:
    """The request came in too slowly."""
    return Fault("timeout", f"The {what} took more than {seconds:g} s.", origin="client", status=408, code="request_timeout")


def route_busy(model: str, limit: int) -> Fault:
    """A route has as many calls under way as its configuration lets it."""
    return Fault("rate_limited", f"Model '{model}' has {limit} calls under way, its limit.", retry_after=1.0, code="route_busy")


def head_fault(data: bytes, end: int, limit: int) -> Fault | None:
    """What is wrong with a head that is not all there, or, its last line found at `end`, too long; None: more may come."""
    if end > limit or len(data) > limit:
        return headers_too_large(limit)
    if b"\n\n" in data or b"\n\r\n" in data.replace(b"\r\n", b""):
        return bad_request("Header lines must end with CRLF.")
    return None


def check_length(headers: Mapping[bytes, bytes], limit: int) -> None:
    """Raises Fault for a body that is announced to be longer than `limit` bytes."""
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit:
        raise too_large(limit)
