"""The faults of requests that pass a cap or break the protocol, said the same way on both server ways."""

from __future__ import annotations

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
