"""Faults as Anthropic Messages tells them. Pure."""

from __future__ import annotations

from backends import wire
from backends.types import Fault

# By status, from Anthropic's documentation of errors; what is not here is an `api_error`.
_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 409: "conflict_error", 413: "request_too_large", 415: "invalid_request_error",
    422: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
TOO_LONG = "prompt is too long"  # the words by which Claude Code knows that it must compact the conversation


def error(fault: Fault, request_id: str) -> bytes:
    """Anthropic's error object of a fault; also the data of an `error` event."""
    message = fault.message
    if fault.code == "context_length_exceeded" and TOO_LONG not in message:
        message = f"{TOO_LONG}: {message}"
    kind = _TYPES.get(fault.status, "api_error" if fault.status >= 500 else "invalid_request_error")
    return wire.encode({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})
