"""What an upstream's error answer means: every provider's error body becomes one `Fault`. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from backends.types import Fault, Kind

_any = msgspec.json.Decoder()
_BY_STATUS: dict[int, Kind] = {
    400: "bad_request", 404: "not_found", 405: "bad_request", 408: "timeout", 409: "bad_request", 413: "too_large", 415: "bad_request",
    422: "bad_request", 429: "rate_limited", 503: "unavailable", 504: "timeout", 529: "overloaded",
}  # fmt: skip
# Another replica may answer where this one gave one of these.
_RETRY = frozenset({408, 429, 500, 502, 503, 504, 529})
# A 429 that waiting does not heal (wire trap 29).
_SPENT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "enforced_spend_limit_reached"})
_CREDENTIALS = frozenset({401, 402, 403, 407})
MAX_RETRY_AFTER = 30 * 86400.0  # seconds; what is longer (or infinite) is no time to wait for
_KEYLIKE = re.compile(r"[A-Za-z0-9_~+=*-]{16,}")
_TOO_LONG = re.compile(r"input \(\d+ tokens\) is too large")
_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]+>", re.S | re.I)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _error_object(body: bytes) -> dict[str, Any]:
    """The error's own fields, wherever the provider puts them: under `error` (OpenAI, Anthropic, vLLM), flat (SGLang),
    in a list (Google), under `detail` (FastAPI). Empty when there is none."""
    try:
        doc = _any.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return {}
    if isinstance(doc, list) and doc:
        doc = doc[0]
    if not isinstance(doc, dict):
        return {}
    error = doc.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {**doc, "message": doc.get("message") or error}
    if "detail" in doc and "message" not in doc:
        detail = doc["detail"]
        return {"message": detail if isinstance(detail, str) else msgspec.json.encode(detail).decode()}
    return doc if "message" in doc else {}


def _plain(body: bytes) -> str:
    """A short readable line of a body that is not JSON (an HTML page of some proxy, say)."""
    return " ".join(_TAGS.sub(" ", body[:4096].decode("utf-8", "replace")).split())[:200]


def _retry_after(headers: Mapping[bytes, bytes], unix: float) -> float | None:
    """Seconds, at most `MAX_RETRY_AFTER`, from `retry-after-ms`, or `retry-after` as seconds or HTTP date. None without either."""
    value = headers.get(b"retry-after-ms", b"")
    if value.isdigit():
        return _bounded(float(value) / 1000)
    value = headers.get(b"retry-after", b"")
    if not value:
        return None
    try:
        return _bounded(float(value))
    except ValueError:
        pass
    try:
        return _bounded(parsedate_to_datetime(value.decode("latin-1")).timestamp() - unix)
    except (ValueError, TypeError, OverflowError):
        return None


def _bounded(seconds: float) -> float | None:
    return None if math.isnan(seconds) else min(MAX_RETRY_AFTER, max(0.0, seconds))


def _spent(error: Mapping[str, Any]) -> bool:
    """Whether a 429 says that money, not time, has run out."""
    details = error.get("details")
    inner = details.get("error_code") if isinstance(details, dict) else None
    return any(isinstance(x, str) and x in _SPENT for x in (error.get("code"), error.get("type"), inner))


def from_answer(status: int, headers: Mapping[bytes, bytes], body: bytes, where: str, unix: float) -> Fault:
    """The fault of an answer with an error status. `where` names the backend; `unix` is the time now, for HTTP dates.

    A refusal of *our* credentials is not the client's: 401, 402, 403 and 407 become 502.
    """
    error = _error_object(body)
    message = _text(error.get("message")) or _plain(body) or "no explanation given"
    kind = _BY_STATUS.get(status, "upstream")
    code, type_, param = error.get("code"), _text(error.get("type")), _text(error.get("param"))
    code = str(code) if code is not None else None
    told = status
    retry = status in _RETRY
    if status in _CREDENTIALS:
        kind, told, type_, code = "upstream", 502, None, "upstream_credentials"
        # Some quote the key that they refuse: it is ours, and not the client's to see.
        message = f"Backend '{where}' refused the gateway's credentials ({status}): {_KEYLIKE.sub('***', message)}"
    elif status == 429 and _spent(error):
        retry = False
    elif status == 529:
        told = 503
    elif status == 500 and _TOO_LONG.match(message):  # llama.cpp's embeddings: the client's input, not the server's fault
        kind, told, retry, type_, code = "bad_request", 400, False, None, "context_length_exceeded"
    elif status < 400 or status >= 600:
        told, message = 502, f"Backend '{where}' answered with status {status}, which is neither an answer nor an error."
    return Fault(
        kind, message, origin="backend", status=told, code=code, type=type_, param=param, retry=retry,
        retry_after=_retry_after(headers, unix),
    )  # fmt: skip


def from_event(error: object, where: str) -> Fault:
    """The fault of an error object found inside an answer with status 200. Its `code` is a status where it is one."""
    fields = error if isinstance(error, dict) else {"message": error}
    message = _text(fields.get("message")) or "the backend reported an error and gave no message"
    code = fields.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 502
    if _text(fields.get("type")) == "overloaded_error":
        status = 503
    if status in _CREDENTIALS:
        status = 502
    kind = _BY_STATUS.get(status, "upstream")
    return Fault(
        kind, message, origin="backend", status=503 if status == 529 else status, type=_text(fields.get("type")),
        code=str(code) if code is not None else None, param=_text(fields.get("param")), retry=status in _RETRY,
    )  # fmt: skip
