"""`pointsman providers`: the table, one provider with the lines to paste, and that these lines are a good configuration."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from backends import catalog
from gateway.cli import main
from gateway.cli_providers import UnknownProvider, paste, show
from gateway.config import parse


def test_the_table_has_every_provider_and_says_which_keys_are_set() -> None:
    text = show(None, {"GROQ_API_KEY": "sk-secret", "MISTRAL_API_KEY": ""})
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert {row.name for row in catalog.rows()} < lines.keys()
    assert "GROQ_API_KEY (set)" in lines["groq"] and "https://api.groq.com/openai/v1" in lines["groq"]
    assert "MISTRAL_API_KEY (not set)" in lines["mistral"]
    assert "AWS credentials" in lines["bedrock"] and "Google credentials" in lines["vertex"] and "(yours)" in lines["azure"]
    assert "secret" not in text and not any(line != line.rstrip() for line in text.splitlines())


def test_one_provider_whole() -> None:
    text = show("mistral", {})
    assert text.startswith("mistral - Mistral\n")
    assert "short_tool_ids" in text and "extra_forbidden" in text and "https://docs.mistral.ai/api" in text
    assert '    mistral: {kind: mistral, key: "${MISTRAL_API_KEY}", discover: true}\n' in text
    assert "default global" in show("vertex", {}) and "application-default" in show("vertex", {})
    assert "may be left out" in show("azure", {}) and "as in 1234567890" in show("vertex-endpoint", {})
    assert "the AWS SDK finds" in show("bedrock", {}) and "none needed" in show("vllm", {})


def test_as_json() -> None:
    listed = json.loads(show(None, {"XAI_API_KEY": "sk-secret"}, as_json=True))
    assert [entry["name"] for entry in listed] == [row.name for row in catalog.rows()]
    one = json.loads(show("xai", {"XAI_API_KEY": "sk-secret"}, as_json=True))
    assert one in listed and one["key_set"] is True and one["key_variables"] == ["XAI_API_KEY"]
    assert "secret" not in json.dumps(listed)


@pytest.mark.parametrize("row", catalog.rows(), ids=lambda row: row.name)
@pytest.mark.parametrize("there", [False, True])
def test_the_lines_to_paste_are_a_good_configuration(row: catalog.Row, there: bool) -> None:
    examples = {name: setting.example or "x" for setting in row.settings for name in setting.variables}
    env = {**{name: "sk-x" for name in row.key}, **examples} if there else {}
    text = paste(row, env)
    assert yaml.safe_load(text)["backends"][row.name]["kind"] == row.name
    config = parse(text, {name: "sk-x" for name in row.key[:1]} | env)
    backend = config.backends[row.name]
    assert backend.all_urls and (row.auth != "key" or backend.key == "sk-x")
    assert config.routes or backend.discover


def test_a_provider_that_is_none() -> None:
    with pytest.raises(UnknownProvider, match=r"there is no provider `grok`. Did you mean `groq`\?"):
        show("grok", {})
    with pytest.raises(UnknownProvider, match="`pointsman providers` lists them"):
        show("zzzzzzzz", {})


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["providers"]) == 0
    assert capsys.readouterr().out == show(None, os.environ)
    assert main(["providers", "groq", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "groq"
    assert main(["providers", "grok"]) == 2
    assert capsys.readouterr().err == "pointsman: there is no provider `grok`. Did you mean `groq`?\n"
