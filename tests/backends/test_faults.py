"""Every provider's way to say that something failed, as one Fault."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.faults import MAX_RETRY_AFTER, from_answer, from_event
from backends.types import Fault

NOW = 1_700_000_000.0


def answer(status: int, body: bytes | object = b"", headers: dict[bytes, bytes] | None = None) -> Fault:
    return from_answer(status, headers or {}, body if isinstance(body, bytes) else json.dumps(body).encode(), "gpu", NOW)


BODIES: list[tuple[str, Any, str, str | None, str | None, str | None]] = [
    ("openai", {"error": {"message": "No", "type": "bad_thing", "param": "n", "code": "c"}}, "No", "c", "bad_thing", "n"),
    ("vllm", {"error": {"message": "No", "type": "BadRequestError", "param": None, "code": 400}}, "No", "400", "BadRequestError", None),
    ("sglang", {"object": "error", "message": "No", "type": "BadRequest", "param": None, "code": 400}, "No", "400", "BadRequest", None),
    ("anthropic", {"type": "error", "error": {"type": "overloaded_error", "message": "No"}}, "No", None, "overloaded_error", None),
    ("google", [{"error": {"code": 400, "message": "No", "status": "INVALID_ARGUMENT"}}], "No", "400", None, None),
    ("fastapi text", {"detail": "Not Found"}, "Not Found", None, None, None),
    ("fastapi list", {"detail": [{"loc": ["body", "n"], "msg": "bad"}]}, '[{"loc":["body","n"],"msg":"bad"}]', None, None, None),
    ("big number", {"detail": [10**40]}, f"[{10**40}]", None, None, None),
    ("ollama", {"error": "model not found"}, "model not found", None, None, None),
    ("both", {"error": "Conflict", "message": "It runs already"}, "It runs already", None, None, None),
    ("detail and message", {"detail": "x", "message": "No"}, "No", None, None, None),
    ("empty error", {"error": {}}, '{"error": {}}', None, None, None),
    ("message that is no text", {"error": {"message": {"a": 1}}}, '{"error": {"message": {"a": 1}}}', None, None, None),
    ("unknown", {"oops": 1}, '{"oops": 1}', None, None, None),
    ("number", 7, "7", None, None, None),
    ("empty list", [], "[]", None, None, None),
    ("list of text", ["x"], '["x"]', None, None, None),
    ("html", b"<html><style>p{}</style><body><h1>502</h1>\n<p>Bad  Gateway</p></body></html>", "502 Bad Gateway", None, None, None),
    ("empty", b"", "no explanation given", None, None, None),
    ("blank", b" \n ", "no explanation given", None, None, None),
    ("binary", b"\xff\xfe\x00", "��\x00", None, None, None),
    ("deep", b'{"error":' + b"[" * 2000, ('{"error":' + "[" * 2000)[:200], None, None, None),
    ("nested", b"[" * 100_000 + b"]" * 100_000, "[" * 200, None, None, None),
]


@pytest.mark.parametrize(("body", "message", "code", "type_", "param"), [b[1:] for b in BODIES], ids=[b[0] for b in BODIES])
def test_every_error_body(body: Any, message: str, code: str | None, type_: str | None, param: str | None) -> None:
    fault = answer(400, body)
    assert (fault.message, fault.code, fault.type, fault.param) == (message, code, type_, param)
    assert (fault.kind, fault.status, fault.origin, fault.retry) == ("bad_request", 400, "backend", False)


@pytest.mark.parametrize(
    ("status", "kind", "told", "retry"),
    [
        (400, "bad_request", 400, False),
        (404, "not_found", 404, False),
        (405, "bad_request", 405, False),
        (408, "timeout", 408, True),
        (413, "too_large", 413, False),
        (422, "bad_request", 422, False),
        (418, "upstream", 418, False),
        (429, "rate_limited", 429, True),
        (500, "upstream", 500, True),
        (502, "upstream", 502, True),
        (503, "unavailable", 503, True),
        (504, "timeout", 504, True),
        (529, "overloaded", 503, True),
    ],
)
def test_statuses(status: int, kind: str, told: int, retry: bool) -> None:
    fault = answer(status, {"error": {"message": "x"}})
    assert (fault.kind, fault.status, fault.retry) == (kind, told, retry)


@pytest.mark.parametrize("status", [401, 402, 403, 407])
def test_refused_credentials_are_the_gateways_own_and_stay_secret(status: int) -> None:
    key = "sk-proj-0123456789abcdefXYZ"
    fault = answer(status, {"error": {"message": f"Incorrect API key: {key}. See https://example.com/keys", "type": "t", "code": "c"}})
    assert (fault.kind, fault.status, fault.code, fault.type) == ("upstream", 502, "upstream_credentials", None)
    assert "Backend 'gpu' refused the gateway's credentials" in fault.message and "See https://example.com/keys" in fault.message
    assert key not in fault.message and not fault.retry


@pytest.mark.parametrize("status", [101, 204, 301, 302, 307, 399, 600, 999])
def test_what_is_neither_an_answer_nor_an_error(status: int) -> None:
    fault = answer(status, b"<a href=/elsewhere>moved</a>")
    assert fault.status == 502 and fault.kind == "upstream"
    assert fault.message == f"Backend 'gpu' answered with status {status}, which is neither an answer nor an error."


@pytest.mark.parametrize(
    "error",
    [
        {"code": "insufficient_quota"},
        {"type": "billing_hard_limit_reached"},
        {"details": {"error_code": "enforced_spend_limit_reached"}},
    ],
)
def test_a_429_that_waiting_does_not_heal(error: dict[str, Any]) -> None:
    assert not answer(429, {"error": {"message": "x", **error}}).retry
    assert answer(500, {"error": {"message": "x", **error}}).retry


@pytest.mark.parametrize("details", [{"error_code": 7}, {"error_code": "other"}, ["x"], None])
def test_a_429_with_other_details_may_be_retried(details: Any) -> None:
    assert answer(429, {"error": {"message": "x", "code": 7, "details": details}}).retry


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after": b"7"}, 7.0),
        ({b"retry-after": b"0.5"}, 0.5),
        ({b"retry-after": b"-3"}, 0.0),
        ({b"retry-after": b""}, None),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"nan"}, None),
        ({b"retry-after": b"inf"}, MAX_RETRY_AFTER),
        ({b"retry-after": b"1e300"}, MAX_RETRY_AFTER),
        ({b"retry-after": formatdate(NOW + 90, usegmt=True).encode()}, 90.0),
        ({b"retry-after": formatdate(NOW - 90, usegmt=True).encode()}, 0.0),
        ({b"retry-after": b"Mon, 01 Jan 99999 00:00:00 GMT"}, None),
        ({b"retry-after": b"\xff"}, None),
        ({b"retry-after-ms": b"1500", b"retry-after": b"9"}, 1.5),
        ({b"retry-after-ms": b"1.5", b"retry-after": b"9"}, 9.0),
        ({b"retry-after-ms": b"9" * 400}, MAX_RETRY_AFTER),
        ({b"retry-after-ms": b"9" * 5000}, MAX_RETRY_AFTER),
    ],
)
def test_retry_after(headers: dict[bytes, bytes], seconds: float | None) -> None:
    assert answer(429, headers=headers).retry_after == seconds


waits = st.dictionaries(st.sampled_from([b"retry-after", b"retry-after-ms"]), st.binary(max_size=20))


@given(st.integers(100, 999), st.binary(max_size=80) | st.text().map(str.encode), waits)
def test_no_answer_makes_it_fail(status: int, body: bytes, headers: dict[bytes, bytes]) -> None:
    fault = answer(status, body, headers)
    assert 400 <= fault.status < 600 and fault.message and fault.origin == "backend"
    assert fault.retry_after is None or 0 <= fault.retry_after <= MAX_RETRY_AFTER
    fault.message.encode()


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "retry"),
    [
        ({"message": "x", "code": 400}, 400, "bad_request", "400", False),
        ({"message": "x", "code": 503}, 503, "unavailable", "503", True),
        ({"message": "x", "code": 529}, 503, "overloaded", "529", True),
        ({"message": "x", "code": 401}, 502, "upstream", "401", True),
        ({"message": "x", "code": 200}, 502, "upstream", "200", True),
        ({"message": "x", "code": "rate"}, 502, "upstream", "rate", True),
        ({"message": "x", "code": True}, 502, "upstream", "True", True),
        ({"message": "x", "type": "overloaded_error"}, 503, "unavailable", None, True),
        ({"message": "x"}, 502, "upstream", None, True),
        ("x", 502, "upstream", None, True),
    ],
)
def test_errors_inside_a_200(error: Any, status: int, kind: str, code: str | None, retry: bool) -> None:
    fault = from_event(error, "gpu")
    assert (fault.message, fault.status, fault.kind, fault.code, fault.retry) == ("x", status, kind, code, retry)
    assert fault.origin == "backend"


@pytest.mark.parametrize("error", [{}, None, 7, [], {"message": ""}, {"message": 3, "type": 4, "param": 5}])
def test_an_error_without_words_gets_some(error: Any) -> None:
    fault = from_event(error, "gpu")
    assert fault.message == "the backend reported an error and gave no message" and fault.type is fault.param is None


def test_an_input_too_long_for_an_embedding_is_the_clients() -> None:
    fault = answer(500, {"error": {"message": "input (900 tokens) is too large to process", "type": "server_error", "code": 500}})
    assert (fault.kind, fault.status, fault.code, fault.type, fault.retry) == ("bad_request", 400, "context_length_exceeded", None, False)
    assert answer(500, {"error": {"message": "it said: input (9 tokens) is too large"}}).status == 500


OVERFLOWS: list[tuple[str, int, Any]] = [
    ("openai", 400, {"error": {"message": "This model's maximum context length is 128000 tokens.", "type": "invalid_request_error"}}),
    ("openai window", 400, {"error": {"message": "Your input exceeds the context window of this model.", "code": None}}),
    ("vllm", 400, {"error": {"message": "This model's maximum context length is 2 tokens. However, you requested 3", "code": 400}}),
    ("sglang", 400, {"object": "error", "message": "The input (9 tokens) is longer than the model's context length (8 tokens)."}),
    ("llama.cpp", 400, {"error": {"code": 400, "message": "the request exceeds the available context size"}}),
    ("llama.cpp type", 400, {"error": {"message": "no", "type": "exceed_context_size_error"}}),
    ("anthropic", 400, {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}}),
    (
        "anthropic both", 400,
        {"type": "error", "error": {"message": "input length and `max_tokens` exceed context limit: 6 + 3 > 8, decrease input length"}},
    ),
    ("bedrock", 400, {"message": "Input is too long for requested model."}),
    ("bedrock bytes", 400, {"message": "Malformed input request: too many total text bytes: 9 > 8"}),
    ("gemini", 400, [{"error": {"code": 400, "message": "The input token count (9) exceeds the maximum number of tokens allowed (8)."}}]),
    ("gemini short", 400, {"error": {"code": 400, "message": "The input token count exceeds the maximum number of tokens allowed (8)."}}),
    ("xai", 400, {"code": "x", "error": "This model's maximum prompt length is 8 but the request contains 9 tokens."}),
    ("glm", 400, {"error": {"message": "Input length 9 exceeds the maximum allowed input length of 8 tokens", "code": "400"}}),
    ("atlas", 400, {"error": {"message": "Prompt too long: 9 tokens exceeds max_seq_len 8"}}),
    ("too large", 413, {"error": {"message": "prompt is too long"}}),
    ("unprocessable", 422, {"error": {"message": "Input length (9) exceeds model's maximum context length (8)."}}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), [b[1:] for b in OVERFLOWS], ids=[b[0] for b in OVERFLOWS])
def test_a_conversation_that_does_not_fit_has_one_code(status: int, body: Any) -> None:
    fault = answer(status, body)
    assert (fault.kind, fault.status, fault.code, fault.retry) == ("bad_request", 400, "context_length_exceeded", False)


@pytest.mark.parametrize(("status", "message"), [(429, "Too many tokens, wait"), (503, "prompt is too long"), (400, "Too many tokens")])
def test_what_only_sounds_like_it(status: int, message: str) -> None:
    assert answer(status, {"message": message}).code is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "x", "code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
        (400, {"error": {"message": "x", "code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
        (400, {"error": {"message": "x", "code": "content_policy_violation"}}),
        (400, {"error": {"message": "Your prompt was flagged as potentially violating our usage policy.", "code": "invalid_prompt"}}),
        (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}}),
        (400, {"message": "The generated text has been blocked by our content filters."}),
        (403, {"code": "x", "error": "Content violates usage guidelines."}),
        (400, {"error": {"code": 400, "message": "Blocked: PROHIBITED_CONTENT", "innererror": 7}}),
    ],
)
def test_a_refusal_of_the_content_has_one_code(status: int, body: Any) -> None:
    fault = answer(status, body)
    assert (fault.kind, fault.status, fault.code, fault.retry) == ("bad_request", 400, "content_filter", False)


@pytest.mark.parametrize(
    "body",
    [
        {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."}},
        [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}}],
        {"__type": "com.amazon.coral.service#UnrecognizedClientException", "message": "The security token is invalid."},
    ],
)
def test_credentials_refused_as_a_bad_request(body: Any) -> None:
    fault = answer(400, body)
    assert (fault.kind, fault.status, fault.code, fault.retry) == ("upstream", 502, "upstream_credentials", False)


@pytest.mark.parametrize(
    ("status", "name", "kind", "told", "retry"),
    [
        (429, b"ThrottlingException", "rate_limited", 429, True),
        (400, b"ServiceQuotaExceededException:http://internal.amazon.com/x", "rate_limited", 429, True),
        (400, b"ValidationException", "bad_request", 400, False),
        (424, b"ModelErrorException", "upstream", 502, True),
        (408, b"ModelTimeoutException", "timeout", 408, True),
        (400, b"NovelException", "bad_request", 400, False),
    ],
)
def test_aws_names_its_errors_in_a_header(status: int, name: bytes, kind: str, told: int, retry: bool) -> None:
    fault = answer(status, {"Message": "No"}, {b"x-amzn-errortype": name})
    assert (fault.kind, fault.status, fault.retry, fault.message) == (kind, told, retry, "No")
    assert fault.type == name.partition(b":")[0].decode()


RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


@pytest.mark.parametrize(
    ("details", "headers", "seconds"),
    [
        ([{"@type": "x"}, {"@type": RETRY_INFO, "retryDelay": "46s"}], {}, 46.0),
        ([{"@type": RETRY_INFO, "retryDelay": "10.5s"}], {b"retry-after": b"3"}, 3.0),
        ([{"@type": RETRY_INFO, "retryDelay": "0.25s"}], {}, 0.25),
        ([{"@type": RETRY_INFO, "retryDelay": "soon"}], {}, None),
        ([{"@type": RETRY_INFO}], {}, None),
        (["x"], {}, None),
        ({"x": 1}, {}, None),
    ],
)
def test_google_says_when_in_the_body(details: Any, headers: dict[bytes, bytes], seconds: float | None) -> None:
    body = [{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED", "details": details}}]
    assert answer(429, body, headers).retry_after == seconds


@pytest.mark.parametrize("where", ["code", "type", "error_code"])
def test_every_spend_limit_of_anthropic(where: str) -> None:
    assert not answer(429, {"type": "error", "error": {"message": "x", where: "contract_spend_limit_reached"}}).retry
    assert answer(429, {"type": "error", "error": {"message": "x", where: "ramp_limit_exceeded"}}).retry


def test_requests_too_large_for_anthropic() -> None:
    fault = answer(413, {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}})
    assert (fault.kind, fault.status, fault.type, fault.retry) == ("too_large", 413, "request_too_large", False)


def test_no_capacity_at_groq() -> None:
    fault = answer(498, {"error": {"message": "x"}})
    assert (fault.kind, fault.status, fault.retry) == ("overloaded", 503, True)


@pytest.mark.parametrize(
    ("type_", "status", "kind", "retry"),
    [
        ("rate_limit_error", 429, "rate_limited", True),
        ("api_error", 500, "upstream", True),
        ("timeout_error", 504, "timeout", True),
        ("invalid_request_error", 400, "bad_request", False),
        ("throttlingException", 429, "rate_limited", True),
        ("modelStreamErrorException", 502, "upstream", True),
        ("validationException", 400, "bad_request", False),
    ],
)
def test_types_of_errors_inside_a_stream(type_: str, status: int, kind: str, retry: bool) -> None:
    fault = from_event({"message": "x", "type": type_}, "gpu")
    assert (fault.status, fault.kind, fault.retry, fault.type) == (status, kind, retry, type_)


def test_a_conversation_that_does_not_fit_told_inside_a_stream() -> None:
    fault = from_event({"message": "Input is too long for requested model.", "type": "validationException"}, "gpu")
    assert (fault.status, fault.code) == (400, "context_length_exceeded")


def test_a_key_in_an_event_stays_secret() -> None:
    fault = from_event({"message": "bad key sk-0123456789abcdefgh", "type": "authentication_error"}, "gpu")
    assert fault.status == 502 and "0123" not in fault.message
