"""One line of configuration for a provider: what is filled in, what is not, and what is told when something is missing."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import pytest

from backends import catalog
from backends.carriers import Settings, carry
from backends.dialects.types import Facts
from backends.facts import facts
from backends.prices import Prices
from gateway.config import BackendConfig, Config, ConfigError, FactsOverride, load, parse
from gateway.config_types import Kind

ENV = {"GROQ_API_KEY": "sk-groq"}


def config(env: dict[str, str], **fields: Any) -> Config:
    return parse(json.dumps({"backends": {"b": fields}}), env)


def backend(env: dict[str, str], **fields: Any) -> BackendConfig:
    return config(env, **fields).backends["b"]


def told(env: dict[str, str], **fields: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        backend(env, **fields)
    (problem,) = caught.value.problems
    return problem


def test_kinds_are_the_catalogue_s_names() -> None:
    assert typing.get_args(Kind) == tuple(row.name for row in catalog.rows())
    assert BackendConfig().kind == catalog.DEFAULT


def test_one_line_is_a_provider() -> None:
    found = backend(ENV, kind="groq")
    assert (found.url, found.key, found.kind) == ("https://api.groq.com/openai/v1", "sk-groq", "groq")
    assert "sk-groq" not in repr(found)


def test_what_is_written_stays() -> None:
    assert backend(ENV, kind="groq", key="sk-mine").key == "sk-mine"
    assert backend(ENV, kind="groq", key=None).key is None
    assert backend({}, kind="groq", headers={"Authorization": "Bearer x"}).key is None
    assert backend({}, kind="ollama").url == "http://127.0.0.1:11434/v1"


def test_a_key_goes_to_its_own_provider_only() -> None:
    assert backend(ENV, kind="groq", url="https://api.groq.com/openai/v1").key == "sk-groq"
    for url in (
        "http://api.groq.com/openai/v1",
        "https://groq.example.com/v1",
        "https://api.groq.com.example.com/v1",
        "http://127.0.0.1:1/v1",
    ):
        assert backend(ENV, kind="groq", url=url).key is None
    assert backend(ENV, kind="groq", urls=["https://api.groq.com/openai/v1", "https://other.example.com"]).key is None
    assert backend({"OPENAI_API_KEY": "sk-x"}, url="http://gpu:8000/v1").key is None


def test_a_key_that_is_missing() -> None:
    assert told({}, kind="groq") == "$.backends.b: `kind: groq` needs a key: set GROQ_API_KEY, or write `key: ${SOME_VARIABLE}`"
    assert told({"GROQ_API_KEY": ""}, kind="groq").endswith("or write `key: ${SOME_VARIABLE}`")
    assert "must be visible ASCII" in told({"GROQ_API_KEY": "a b"}, kind="groq")


def test_the_first_variable_that_is_set_counts() -> None:
    assert backend({"GOOGLE_API_KEY": "g", "GEMINI_API_KEY": ""}, kind="gemini").key == "g"
    assert backend({"GOOGLE_API_KEY": "g", "GEMINI_API_KEY": "m"}, kind="gemini").key == "m"


def test_a_kind_from_a_variable() -> None:
    assert parse("backends: {b: {kind: '${K}'}}", {"K": "groq", **ENV}).backends["b"].key == "sk-groq"


def test_vertex() -> None:
    found = backend({"GOOGLE_CLOUD_PROJECT": "p1"}, kind="vertex")
    assert (found.project, found.location, found.key) == ("p1", "global", None)
    assert found.url == "https://aiplatform.googleapis.com/v1/projects/p1/locations/global/publishers/google"
    found = backend({"CLOUD_ML_REGION": "us-east5"}, kind="vertex-anthropic", project="p2")
    assert found.url == "https://us-east5-aiplatform.googleapis.com/v1/projects/p2/locations/us-east5/publishers/anthropic"
    missing = "$.backends.b: `kind: vertex` needs `project`: write `project: my-project`, or set GOOGLE_CLOUD_PROJECT"
    assert told({}, kind="vertex") == missing
    assert (backend({}, kind="vertex-endpoint", project="p", location="l", deployment=12).url or "").endswith("/endpoints/12")
    assert told({}, kind="vertex-endpoint", project="p", location="l").endswith("needs `deployment`: write `deployment: 1234567890`")


def test_bedrock() -> None:
    env = {"AWS_DEFAULT_REGION": "eu-west-1"}
    assert backend(env, kind="bedrock").url == "https://bedrock-runtime.eu-west-1.amazonaws.com"
    assert backend(env, kind="bedrock", region="us-east-1").region == "us-east-1"
    assert backend({**env, "AWS_BEARER_TOKEN_BEDROCK": "t"}, kind="bedrock").key == "t"
    assert told({}, kind="bedrock").endswith("needs `region`: write `region: us-east-1`, or set AWS_REGION")


def test_a_version_that_yaml_takes_for_a_date() -> None:
    source = "backends: {b: {kind: azure, url: 'https://me.openai.azure.com', key: k, api_version: 2024-10-21}}"
    assert parse(source, {}).backends["b"].api_version == "2024-10-21"


def test_azure() -> None:
    key, where = {"AZURE_OPENAI_API_KEY": "k"}, "https://me.openai.azure.com"
    found = backend({**key, "AZURE_OPENAI_ENDPOINT": where, "OPENAI_API_VERSION": "2024-10-21"}, kind="azure")
    assert (found.url, found.key, found.api_version, found.deployment) == (where, "k", "2024-10-21", None)
    assert backend(key, kind="azure", url=where, deployment="gpt-4o").key == "k"
    assert backend(key, kind="azure", url="https://proxy.example.com").key is None
    assert told(key, kind="azure").endswith("needs `url`: write `url: https://NAME.openai.azure.com`, or set AZURE_OPENAI_ENDPOINT")


@pytest.mark.parametrize("region", ["us-east-1.evil.example.com/", "a b", "", "US"])
def test_a_setting_cannot_change_the_host(region: str) -> None:
    problem = told({}, kind="bedrock", region=region)
    assert problem == "$.backends.b.region: is not a name that can stand in the URL of `kind: bedrock`, as in us-east-1"


@pytest.mark.parametrize("region", [True, ["r"], 1.5])
def test_a_setting_that_is_no_text(region: object) -> None:
    assert told({}, kind="bedrock", region=region).startswith("$.backends.b.region: expected `str | null`")


def test_credentials_of_google_and_aws(tmp_path: Path) -> None:
    (tmp_path / "sa.json").touch()
    file = tmp_path / "p.yaml"
    file.write_text("backends: {g: {kind: vertex, project: p, credentials: sa.json}, a: {kind: bedrock, region: r, profile: work}}")
    found = load(file, {}).backends
    assert (found["g"].credentials, found["a"].profile) == (str(tmp_path / "sa.json"), "work")
    assert told({}, kind="vertex", project="p", credentials="/nowhere.json") == "$.backends.b.credentials: there is no file /nowhere.json"
    assert told({}, kind="vertex", project="p", profile="x") == "$.backends.b.profile: is not used by `kind: vertex`"
    assert told(ENV, kind="groq", credentials=__file__) == "$.backends.b.credentials: is not used by `kind: groq`"


@pytest.mark.parametrize("entry", [row for row in catalog.rows() if row.url], ids=lambda row: row.name)
def test_a_carrier_agrees_with_what_is_filled_in(entry: catalog.Row) -> None:
    env = {name: setting.example or "x" for setting in entry.settings for name in setting.variables} | {name: "sk-x" for name in entry.key}
    wanted = {setting.name: setting.example for setting in entry.settings if not setting.variables and setting.required}
    found = backend(env, kind=entry.name, **wanted)
    names = ("key", "project", "location", "region", "api_version", "deployment")
    settings = {name: getattr(found, name) for name in names}
    url = found.url if entry.carrier == "azure" else None
    assert carry(entry.name, Settings(url=found.url, **settings)) == carry(entry.name, Settings(url=url, **settings))


def test_settings_and_lists_that_a_kind_does_not_have() -> None:
    assert told(ENV, kind="groq", region="us-east-1") == "$.backends.b.region: is not used by `kind: groq`"
    problem = told({"ANTHROPIC_API_KEY": "k"}, kind="anthropic", discover=True)
    assert problem.startswith("$.backends.b.discover: `kind: anthropic` gives no list")
    assert "is only for a server elsewhere" in told({}, engine="llamacpp", model="m.gguf", project="p")


def test_without_a_url_and_without_a_provider() -> None:
    assert "or the `kind` of a provider (`pointsman providers` lists them); got none" in told({}, kind="compatible")
    assert told({}).endswith("got none of them")


@pytest.mark.parametrize("source", ["backends: []", "backends: {b: 1}", "[]", "backends: {b: {kind: 5}}", "backends: {b: {kind: nobody}}"])
def test_what_is_no_configuration_is_told_as_before(source: str) -> None:
    with pytest.raises(ConfigError):
        parse(source, {})


def test_an_engine_keeps_its_kind_out_of_it() -> None:
    assert backend({}, engine="vllm", model="m", kind="groq").url is None


def test_facts_and_prices_of_a_target_are_over_the_backend_s() -> None:
    source = """
backends: {b: {kind: groq, facts: {context: 10, prefill: false}, prices: {input: 1, output: '${OUT}'}}}
routes: {r: {targets: [{backend: b, facts: {prefill: true}, prices: {output: 3}}], on_unsupported: warn, reasoning: both}}
"""
    found = parse(source, {**ENV, "OUT": "2.5"})
    (target,) = found.routes["r"].targets
    assert found.facts(target) == {"context": 10, "prefill": True}
    assert found.prices(target) == Prices(input=1.0, output=3.0)
    assert found.backends["b"].prices == Prices(input=1.0, output=2.5)
    assert (found.routes["r"].on_unsupported, found.routes["r"].reasoning) == ("warn", "both")
    plain = parse("backends: {b: {url: 'http://a'}}\nroutes: {r: {targets: [{backend: b}]}}", {})
    assert plain.facts(plain.routes["r"].targets[0]) == {} and plain.prices(plain.routes["r"].targets[0]) is None
    assert plain.routes["r"].reasoning == "reasoning_content"


def test_overrides_are_all_the_facts_there_are() -> None:
    assert FactsOverride.__struct_fields__ == Facts.__struct_fields__
    given = FactsOverride(thinking="none", temperature_max=1.5, seed=True).given()
    assert facts("anthropic", "claude-opus-4-8", given).thinking == "none"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"prices": {"input": -1}}, "$.backends.b.prices.input: expected `float` >= 0.0"),
        ({"prices": {"inptu": 1}}, "$.backends.b.prices.inptu: unknown field. Did you mean `input`?"),
        ({"facts": {"thinking": "hard"}}, "$.backends.b.facts.thinking: 'hard' is not one of none, budget, adaptive, level."),
        ({"facts": {"max_output": 0}}, "$.backends.b.facts.max_output: expected `int` >= 1"),
    ],
)
def test_overrides_that_cannot_be(fields: dict[str, Any], problem: str) -> None:
    assert told({}, url="http://a", **fields) == problem
