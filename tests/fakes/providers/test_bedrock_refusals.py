"""Every refusal of the scripted Bedrock, seen through boto3: the rule, the status, the error's shape; and signatures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.fakes.providers.bedrock import Bedrock
from tests.fakes.providers.bedrock_asks import (
    HAIKU,
    HI,
    NOVA,
    OPUS,
    SONNET,
    SPEC,
    THINK,
    Doc,
    base,
    boto,
    named,
    posted,
    result,
    said,
    thought,
    tooled,
    use,
    user,
)
from tests.fakes.providers.claude_rules import RULES as CLAUDE_RULES
from tests.fakes.providers.converse_rules import RULES
from tests.fakes.providers.media import PDF, gif

REFUSED: dict[str, list[Doc]] = {
    "model": [base(model="us.anthropic.claude-9")],
    "profile": [base(model="anthropic.claude-sonnet-4-5-20250929-v1:0")],
    "typed": [base(user({"image": {"format": "jpg", "source": {"bytes": b"x"}}})), tooled(user(HI), said(use("a|b")), user(result("a|b"))),
              base(inferenceConfig={"temperature": 1.5}), base(inferenceConfig={"stopSequences": [""]}),
              base({"role": "tool", "content": [HI]})],
    "first_user": [base(said(HI)), {"modelId": SONNET, "messages": []}],
    "alternate": [base(user(HI), user(HI)), tooled(user(HI), said(use("t1"), use("t2")), user(result("t1")), user(result("t2")))],
    "no_content": [base(user(HI), said(), user(HI))],
    "blank_text": [base(user({"text": ""})), tooled(user(HI), said({"text": ""}, use()), user(result()))],
    "tool_config": [base(user(HI), said(use()), user(result()))],
    "results_missing": [tooled(user(HI), said(use("t1"), use("t2")), user(result("t1"))), tooled(user(HI), said(use()), user(HI))],
    "results_exceed": [tooled(user(HI), said(use()), user(result("t1"), result("t2"))), tooled(user(result()))],
    "error_empty": [tooled(user(HI), said(use()), user({"toolResult": {"toolUseId": "t1", "content": [], "status": "error"}}))],
    "document_name": [named("a.pdf"), named("a  b")],
    "document_twice": [named("a", "a")],
    "document_text": [base(user({"document": {"format": "pdf", "name": "a", "source": {"bytes": PDF}}}))],
    "context": [base(user({"text": "a " * 200_000 + "b"}))],
    "max_tokens": [base(inferenceConfig={"maxTokens": 64_001}), base(model=NOVA, inferenceConfig={"maxTokens": 10_001})],
    "extraneous": [base(additionalModelRequestFields={"reasoning_effort": "low"}), base(model=NOVA, additionalModelRequestFields=THINK)],
}  # fmt: skip
# Refused by the model itself: by which rule of Messages.
MODEL_REFUSED: dict[str, list[Doc]] = {
    "blank_text": [base(user({"text": " "}))],
    "image_type": [base(user({"image": {"format": "png", "source": {"bytes": gif(1, 1)}}}))],
    "signature": [tooled(user(HI), said(thought(secret=b"x"), use()), user(result()), additionalModelRequestFields=THINK)],
    "redacted": [base(user(HI), said({"reasoningContent": {"redactedContent": b"abc"}}, HI), user(HI))],
    "thinking_expected": [tooled(user(HI), said(use()), user(result()), additionalModelRequestFields=THINK)],
    "choice_thinking": [base(toolConfig={"tools": [SPEC], "toolChoice": {"any": {}}}, additionalModelRequestFields=THINK)],
    "choice_unknown": [base(toolConfig={"tools": [SPEC], "toolChoice": {"tool": {"name": "x"}}})],
    "budget_high": [base(additionalModelRequestFields=THINK, inferenceConfig={"maxTokens": 1024})],
    "sampling_both": [base(inferenceConfig={"temperature": 0.5, "topP": 0.5})],
    "sampling_fixed": [base(model=OPUS, inferenceConfig={"temperature": 0.5}), base(model=OPUS, additionalModelRequestFields={"top_k": 4})],
    "prefill": [base(user(HI), said(HI), model=OPUS)],
    "role": [base(user(HI), {"role": "system", "content": [HI]})],
    "stop_blank": [base(inferenceConfig={"stopSequences": ["\n"]})],
    "cache_many": [base(user(*[HI, {"cachePoint": {"type": "default"}}] * 5))],
    "": [tooled(user(HI), said({"reasoningContent": {"reasoningText": {"text": "hm"}}}, use()), user(result())),
         base(user({"image": {"format": "png", "source": {"s3Location": {"uri": "s3://bucket/key"}}}})),
         base(user(HI), said({"citationsContent": {}}), user(HI)), base(additionalModelRequestFields={"thinking": {"type": "on"}})],
}  # fmt: skip
HTTP_RULES = {"missing", "incomplete", "unknown", "scope", "expired", "signature", "bearer", "path", "body", "unknown_key", "refused"}


def test_every_rule_has_its_test_and_its_source() -> None:
    assert REFUSED.keys() | HTTP_RULES == RULES.keys()
    assert all(rule.source for rule in RULES.values())
    assert MODEL_REFUSED.keys() - {""} <= CLAUDE_RULES.keys()


def refused(provider: Bedrock, client: Any, rule: str, doc: Doc) -> str:
    """boto3's error has the code and the status of the rule, whole and streamed. Gives the message."""
    for call in (client.converse, client.converse_stream):
        with pytest.raises(ClientError) as caught:
            call(**doc)
        error = caught.value.response
        assert provider.rejected[-1].name == rule, (provider.rejected[-1], doc)
        assert error["Error"]["Code"] == RULES[rule].kind
        assert error["ResponseMetadata"]["HTTPStatusCode"] == RULES[rule].status
    return str(error["Error"]["Message"])


@pytest.fixture
def fake() -> Iterator[tuple[Bedrock, Any]]:
    provider = Bedrock()
    with provider.serving() as url:
        client = boto(url)
        yield provider, client
        client.close()


@pytest.fixture
def lax() -> Iterator[tuple[Bedrock, Any]]:
    """A client whose own checks are off, so that the server's are what refuses."""
    provider = Bedrock()
    with provider.serving() as url:
        client = boto(url, parameter_validation=False)
        yield provider, client
        client.close()


@pytest.mark.parametrize("rule", list(REFUSED))
def test_refusals(lax: tuple[Bedrock, Any], rule: str) -> None:
    for doc in REFUSED[rule]:
        refused(*lax, rule, doc)


@pytest.mark.parametrize("rule", list(MODEL_REFUSED))
def test_refusals_of_the_model(lax: tuple[Bedrock, Any], rule: str) -> None:
    for doc in MODEL_REFUSED[rule]:
        message = refused(*lax, "refused", doc)
        assert message.startswith("The model returned the following errors: ")
        if rule:
            cause = lax[0].rejected[-1].__cause__
            assert getattr(cause, "name", None) == rule, message


SIGNED: dict[str, Doc] = {
    "unknown": {"aws_access_key_id": "AKIDOTHER"},
    "signature": {"aws_secret_access_key": "other"},
    "scope": {"region_name": "eu-west-1"},
}


@pytest.mark.parametrize("rule", list(SIGNED))
def test_signatures_that_do_not_hold(rule: str) -> None:
    provider = Bedrock()
    with provider.serving() as url:
        client = boto(url, **SIGNED[rule])
        with pytest.raises(ClientError, match=RULES[rule].kind):
            client.converse(**base())
        client.close()
    assert [one.name for one in provider.rejected] == [rule]


def test_signatures_cover_the_whole_request(fake: tuple[Bedrock, Any]) -> None:
    """A genuine request, sent again with one thing changed each time; and the same, late."""
    provider, client = fake
    client.converse(**base(model=HAIKU))
    genuine = provider.requests[0]
    headers = {name: value for name, value in genuine.headers if name not in ("content-length", "host", "connection")}
    host = genuine.header("host") or ""

    def again(rule: str, *, body: bytes = genuine.body, target: str = genuine.target, **changed: str) -> None:
        with httpx.Client(base_url=f"http://{host}", timeout=20) as http:
            sent = headers | {name.replace("_", "-"): value for name, value in changed.items()}
            reply = http.post(target, content=body, headers={name: value for name, value in sent.items() if value})
        assert reply.status_code == (RULES[rule].status if rule else 200), reply.text
        assert not rule or provider.rejected[-1].name == rule

    assert "%3A" in genuine.target
    again("")
    again("signature", body=genuine.body.replace(b"hi", b"ho"))
    again("signature", target=genuine.target.replace("converse", "converse-stream"))
    again("signature", target=genuine.target + "?a")
    again("signature", content_type="text/plain")
    again("missing", authorization="")
    again("incomplete", authorization="AWS4-HMAC-SHA256 Credential=x")
    again("incomplete", x_amz_date="now")
    again("incomplete", authorization=headers["authorization"].replace("host;", ""))
    late = headers["x-amz-date"][:8]
    again("expired", x_amz_date="20200101T000000Z", authorization=headers["authorization"].replace(late, "20200101"))


def test_bearer_tokens_and_what_boto3_never_sends() -> None:
    """boto3 itself sends bearer tokens over TLS only."""
    provider = Bedrock()
    path = f"/model/{SONNET}/converse"
    doc = {"messages": [user(HI)]}
    assert posted(provider, path, doc).status_code == 200
    for rule, reply in {
        "bearer": posted(provider, path, doc, "other"),
        "path": posted(provider, f"/model/{SONNET}/invoke", doc),
        "body": posted(provider, path, [1]),
        "unknown_key": posted(provider, path, doc | {"max_tokens": 4}),
    }.items():
        assert (reply.status_code, reply.headers["x-amzn-errortype"].partition(":")[0]) == (RULES[rule].status, RULES[rule].kind)
    count = {"input": {"invokeModel": {"body": ""}}}
    assert posted(provider, f"/model/{SONNET}/count-tokens", count).status_code == 400
    assert [one.name for one in provider.rejected] == ["bearer", "path", "body", "unknown_key", "unknown_key"]
