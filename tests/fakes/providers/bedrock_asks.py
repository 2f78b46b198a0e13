"""Requests to the scripted Bedrock, in pieces, and the boto3 client that sends them: what its tests build good and bad ones of."""

from __future__ import annotations

from typing import Any

import boto3
import httpx
from botocore.config import Config

from tests.fakes.providers.bedrock import BEARER, KEY_ID, REGION, SECRET, Bedrock
from tests.fakes.providers.brain import WEATHER
from tests.fakes.providers.common import Provider, seal
from tests.fakes.providers.converse_rules import MODELS

Doc = dict[str, Any]
HAIKU, SONNET, BOTH, OPUS, NOVA = MODELS
SPEC = {"toolSpec": {"name": WEATHER.name, "description": WEATHER.description, "inputSchema": {"json": WEATHER.schema}}}
THINK = {"thinking": {"type": "enabled", "budget_tokens": 1024}}


def boto(url: str, *, parameter_validation: bool = True, **changed: Any) -> Any:
    options: Doc = {"region_name": REGION, "aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET}
    config = Config(
        retries={"total_max_attempts": 1}, connect_timeout=20, read_timeout=20, proxies={}, parameter_validation=parameter_validation
    )  # fmt: skip
    return boto3.session.Session().client("bedrock-runtime", endpoint_url=url, config=config, **options | changed)


def user(*blocks: Doc) -> Doc:
    return {"role": "user", "content": list(blocks)}


def said(*blocks: Doc) -> Doc:
    return {"role": "assistant", "content": list(blocks)}


def use(name: str = "t1") -> Doc:
    return {"toolUse": {"toolUseId": name, "name": "get_weather", "input": {}}}


def result(name: str = "t1", *content: Doc, **more: Any) -> Doc:
    return {"toolResult": {"toolUseId": name, "content": list(content or [{"text": "sun"}])} | more}


def base(*messages: Doc, model: str = SONNET, **more: Any) -> Doc:
    return {"modelId": model, "messages": list(messages) or [user({"text": "hi"})]} | more


def tooled(*messages: Doc, **more: Any) -> Doc:
    return base(*messages, toolConfig={"tools": [SPEC]}, **more)


def named(*names: str) -> Doc:
    return base(user({"text": "x"}, *[{"document": {"format": "txt", "name": name, "source": {"bytes": b"x"}}} for name in names]))


def thought(text: str = "hm", secret: bytes = Provider.secret) -> Doc:
    return {"reasoningContent": {"reasoningText": {"text": text, "signature": seal(secret, b"T", text)}}}


HI: Doc = {"text": "hi"}


def posted(provider: Bedrock, path: str, doc: Any, token: str = BEARER) -> httpx.Response:
    with provider.serving() as url, httpx.Client(base_url=url, timeout=20) as http:
        return http.post(path, json=doc, headers={"authorization": f"Bearer {token}"})
