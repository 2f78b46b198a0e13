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
    422: "bad_request", 429: "rate_limited", 498: "overloaded", 503: "unavailable", 504: "timeout", 529: "overloaded",
}  # fmt: skip
# Another replica may answer where this one gave one of these. 424: a model behind Bedrock failed. 498: no capacity at Groq.
_RETRY = frozenset({408, 424, 429, 498, 500, 502, 503, 504, 529})
# What the client is told where the status is a provider's own.
_TOLD = {424: 502, 498: 503, 529: 503}
# A 429 that waiting does not heal (wire trap 29). Anthropic has several ..._spend_limit_reached.
_SPENT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_SPEND_LIMIT = "_spend_limit_reached"
_CREDENTIALS = frozenset({401, 402, 403, 407})
# Types of errors that say more than their status, or come without one inside a stream: Anthropic's, and AWS's in lower case.
_BY_TYPE = {
    "overloaded_error": 503, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504, "invalid_request_error": 400,
    "authentication_error": 401, "permission_error": 403, "billing_error": 402, "not_found_error": 404, "request_too_large": 413,
    "throttlingexception": 429, "servicequotaexceededexception": 429, "modelnotreadyexception": 429, "modeltimeoutexception": 408,
    "modelerrorexception": 424, "modelstreamerrorexception": 424, "internalserverexception": 500, "serviceunavailableexception": 503,
    "validationexception": 400, "accessdeniedexception": 403, "unrecognizedclientexception": 403, "expiredtokenexception": 403,
    "invalidsignatureexception": 403, "incompletesignatureexception": 403, "missingauthenticationtokenexception": 403,
    "resourcenotfoundexception": 404,
}  # fmt: skip
MAX_RETRY_AFTER = 30 * 86400.0  # seconds; what is longer (or infinite) is no time to wait for
_KEYLIKE = re.compile(r"[A-Za-z0-9_~+=*-]{16,}")
_TOO_LONG = re.compile(r"input \(\d+ tokens\) is too large")
_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]+>", re.S | re.I)
# How providers and engines say that the conversation does not fit. None gives all of it a code: OpenAI, vLLM, SGLang, llama.cpp,
# Anthropic, Bedrock, Gemini, xAI, and hosts of open models, in this order.
_OVERFLOW = re.compile(
    r"maximum context length|exceeds? (?:the )?(?:model'?s )?(?:maximum |available )?context (?:window|length|size|limit)"
    r"|longer than the model'?s context length|exceed_context_size|prompt (?:is )?too long|`max_tokens` exceed context limit"
    r"|input is too long for requested model|too many total text bytes|input token count.{0,40}exceeds the maximum"
    r"|maximum prompt length|exceeds the maximum allowed input length|exceeds max_(?:seq_len|model_len)",
    re.I,
)
# How they say that it is not the form but the matter that they refuse: OpenAI and Azure, Anthropic, Bedrock, xAI, Gemini.
_POLICY_CODES = frozenset({"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "invalid_prompt"})
_POLICY = re.compile(
    r"content (?:filter(?:ing|s)?|management|usage) polic|blocked by (?:our |the )?content filter"
    r"|violat\w* (?:our |the )?(?:content|usage) polic|content violates|safety system|prohibited_content",
    re.I,
)
_KEY_INVALID = re.compile(r"credit balance is too low|api key (?:not valid|expired|is invalid)", re.I)
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


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
    if "Message" in doc:  # AWS, now and then
        return {**doc, "message": doc["Message"]}
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


def _retry_info(error: Mapping[str, Any]) -> float | None:
    """Seconds from Google's `RetryInfo` among an error's details (wire trap 30)."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            found = _DURATION.fullmatch(str(detail.get("retryDelay", "")))
            return _bounded(float(found[1])) if found else None
    return None


def _spent(error: Mapping[str, Any]) -> bool:
    """Whether a 429 says that money, not time, has run out."""
    details = error.get("details")
    inner = details.get("error_code") if isinstance(details, dict) else None
    said = (error.get("code"), error.get("type"), error.get("error_code"), inner)
    return any(isinstance(x, str) and (x in _SPENT or x.endswith(_SPEND_LIMIT)) for x in said)


def _named(headers: Mapping[bytes, bytes], error: Mapping[str, Any]) -> str | None:
    """The type that an error is given: in its object, or by AWS in a header (`Name:http://…`) or under `__type` (`namespace#Name`)."""
    if (given := _text(error.get("type"))) is not None:
        return given
    name = headers.get(b"x-amzn-errortype", b"").decode("latin-1").partition(":")[0]
    return name or (_text(error.get("__type")) or "").rpartition("#")[2] or None


def _policy(error: Mapping[str, Any], message: str) -> bool:
    """Whether the provider refuses what is said, not how."""
    inner = error.get("innererror")
    codes = (error.get("code"), inner.get("code") if isinstance(inner, dict) else None)
    return any(isinstance(c, str) and c.lower() in _POLICY_CODES for c in codes) or _POLICY.search(message) is not None


def _meant(status: int, error: Mapping[str, Any], type_: str | None, message: str) -> tuple[int, str | None]:
    """(status, code): what an error is where its status says something else, and a code where it has none of use.

    1. Too long an input, as 400, 413 or 422, or as 500 by llama.cpp's embeddings: the client's.
    2. A refusal of the content, as 400 or 403: the client's.
    3. Our credentials, as 400 by Google and Anthropic.
    4. AWS's quotas and missing credentials, as 400.
    """
    if (status in (400, 413, 422) and _OVERFLOW.search(f"{type_} {message}")) or (status == 500 and _TOO_LONG.match(message)):
        return 400, "context_length_exceeded"
    if status in (400, 403) and _policy(error, message):
        return 400, "content_filter"
    if status == 400 and _KEY_INVALID.search(message):
        return 401, None
    if status == 400 and type_ is not None and type_.endswith("Exception"):
        return _BY_TYPE.get(type_.lower(), status), None
    return status, None


def from_answer(status: int, headers: Mapping[bytes, bytes], body: bytes, where: str, unix: float) -> Fault:
    """The fault of an answer with an error status. `where` names the backend; `unix` is the time now, for HTTP dates.

    A refusal of *our* credentials is not the client's: 401, 402, 403 and 407 become 502.
    """
    if status < 400 or status >= 600:
        message = f"Backend '{where}' answered with status {status}, which is neither an answer nor an error."
        return Fault("upstream", message, origin="backend", status=502)
    error = _error_object(body)
    message = _text(error.get("message")) or _plain(body) or "no explanation given"
    type_, code = _named(headers, error), error.get("code")
    meant, known = _meant(status, error, type_, message)
    if meant in _CREDENTIALS:
        # Some quote the key that they refuse: it is ours, and not the client's to see.
        message = f"Backend '{where}' refused the gateway's credentials ({status}): {_KEYLIKE.sub('***', message)}"
        return Fault("upstream", message, origin="backend", status=502, code="upstream_credentials")
    after = _retry_after(headers, unix)
    return Fault(
        _BY_STATUS.get(meant, "upstream"), message, origin="backend", status=_TOLD.get(meant, meant),
        code=known or (str(code) if code is not None else None), type=None if status == 500 and known else type_,
        param=_text(error.get("param")), retry=meant in _RETRY and not (meant == 429 and _spent(error)),
        retry_after=_retry_info(error) if after is None else after,
    )  # fmt: skip


def from_event(error: object, where: str) -> Fault:
    """The fault of an error object found inside an answer with status 200. Its `code` is a status where it is one; else its type
    tells, where that is one of Anthropic's or AWS's."""
    fields = error if isinstance(error, dict) else {"message": error}
    message = _text(fields.get("message")) or "the backend reported an error and gave no message"
    code, type_ = fields.get("code"), _text(fields.get("type"))
    status = code if isinstance(code, int) and 400 <= code < 600 else _BY_TYPE.get((type_ or "").lower(), 502)
    status, known = _meant(status, fields, type_, message)
    if status in _CREDENTIALS:
        status, message = 502, _KEYLIKE.sub("***", message)
    return Fault(
        _BY_STATUS.get(status, "upstream"), message, origin="backend", status=_TOLD.get(status, status), type=type_,
        code=known or (str(code) if code is not None else None), param=_text(fields.get("param")), retry=status in _RETRY,
    )  # fmt: skip
