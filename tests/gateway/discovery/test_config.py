"""`k8s:` in the configuration: what it may look like, and that nobody is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.config import Config, ConfigError, parse

ROUTES = {"m": {"targets": [{"backend": "b", "model": "x"}]}}


def read(**backend: Any) -> Config:
    return parse(json.dumps({"backends": {"b": backend}, "routes": ROUTES}), {"NS": "models"})


@pytest.mark.parametrize("field", ["url", "urls"])
def test_a_service_stands_in_place_of_urls(field: str) -> None:
    backend = read(**{field: "k8s:${NS}/vllm:http/v1"}).backends["b"]
    assert backend.service == "k8s:models/vllm:http/v1" and backend.all_urls == ()
    plain = read(**{field: "http://h" if field == "url" else ["http://h"]}).backends["b"]
    assert plain.service is None and plain.all_urls == ("http://h",)


@pytest.mark.parametrize(
    ("backend", "problem"),
    [
        ({"urls": "k8s:models"}, "$.backends.b.urls: is not k8s:NAMESPACE/SERVICE[:PORT][/PATH], as in"),
        ({"url": "k8s:models/vllm:0"}, "$.backends.b.url: names the port 0"),
        ({"urls": ["k8s:models/vllm"]}, "$.backends.b.urls[0]: must stand alone, in place of the list: `urls: k8s:"),
        ({"urls": "http://h/v1"}, "$.backends.b.urls: is one text; write a list"),
        ({"urls": "k8s:models/vllm", "url": "http://h"}, "$.backends.b: needs exactly one of"),
        ({"urls": "k8s:models/vllm", "engine": "llamacpp", "model": "builtin"}, "$.backends.b: needs exactly one of"),
        ({"urls": "k8s:models/vllm", "context": 7}, "$.backends.b.context: is only for an engine"),
        ({"urls": [7]}, "$.backends.b.urls[0]: expected `str`, got `int`"),
        ({"urls": 7}, "$.backends.b.urls: expected "),
        ({"urls": "k8s:m/v", "kv_events": ["tcp://{host}:1"]}, "$.backends.b.kv_events: must be one publisher with {host} in it"),
        ({"urls": "k8s:m/v", "kv_events": "tcp://10.0.0.1:5557"}, "$.backends.b.kv_events: names one publisher for several URLs"),
        ({"urls": "k8s:m/v", "kv_events": "what"}, "$.backends.b.kv_events: holds what, which"),
        ({"urls": "k8s:m/v", "kv_events": True}, "$.backends.b.kv_events: must say where"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(backend: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as told:
        read(**backend)
    (line,) = told.value.problems
    assert line.startswith(problem), line


def test_events_of_each_pod() -> None:
    assert read(urls="k8s:m/v", kind="vllm", kv_events="tcp://{host}:5557").backends["b"].kv_events == "tcp://{host}:5557"


def test_a_provider_s_own_key_does_not_go_to_what_is_discovered() -> None:
    config = parse(json.dumps({"backends": {"b": {"kind": "openai", "url": "k8s:m/v"}}, "routes": ROUTES}), {"OPENAI_API_KEY": "sk-secret"})
    assert config.backends["b"].key is None
