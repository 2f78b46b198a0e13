"""values.yaml and its schema: every value is described, and what is wrong is refused before anything is rendered."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import yaml

from gateway.version import VERSION
from tests.deploy import charts
from tests.deploy.charts import Doc

SCHEMA: Doc = json.loads((charts.CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES: Doc = yaml.safe_load((charts.CHART / "values.yaml").read_text(encoding="utf-8"))
ENGINE: Doc = {"name": "qwen", "kind": "vllm", "model": "Qwen/Qwen3-8B"}


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema_rs.Draft202012Validator(SCHEMA)


def merged(base: Any, over: Any) -> Any:
    """As Helm lays values over one another: maps key by key, anything else whole."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return copy.deepcopy(over)
    return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}


def test_the_schema_is_one() -> None:
    jsonschema_rs.meta.validate(SCHEMA)


@pytest.mark.parametrize("path", [p for p in charts.PROFILES.values() if p is not None], ids=lambda p: p.parent.name)
def test_the_examples_are_good(path: Any, validator: Any) -> None:
    validator.validate(merged(VALUES, yaml.safe_load(path.read_text(encoding="utf-8"))))


def test_what_the_page_shows_is_good(validator: Any) -> None:
    page = (charts.ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    values, adapter = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    validator.validate(merged(VALUES, values))
    assert values["engines"]
    assert [sorted(rule) for rule in adapter["rules"]["custom"]] == [["metricsQuery", "resources", "seriesQuery"]]


def test_the_defaults_are_good(validator: Any) -> None:
    validator.validate(VALUES)


@pytest.mark.parametrize(("values", "at"), [
    ({"replicas": 2}, ""),
    ({"gateway": {"replica": 2}}, "gateway"),
    ({"gateway": {"user": 0}}, "gateway/user"),
    ({"gateway": {"resources": {"limits": {"memory": "much"}}}}, "gateway/resources/limits/memory"),
    ({"image": {"tag": "latest"}}, "image/tag"),
    ({"image": {"digest": "sha256:1"}}, "image/digest"),
    ({"keys": []}, "keys"),
    ({"keys": [{"name": "a", "key": "sk-in-plain-text"}]}, "keys/0"),
    ({"keys": [{"name": "a b"}]}, "keys/0/name"),
    ({"config": {"server": {"port": 80}}}, "config/server/port"),
    ({"config": {"server": {"drain_seconds": 900}}}, "config/server/drain_seconds"),
    ({"config": {"keys": [{"name": "a", "key": "sk-1"}]}}, "config/keys"),
    ({"redis": {"url": "redis://:password@redis:6379"}}, "redis/url"),
    ({"autoscaling": {"enabled": True, "cpu": 0, "inFlight": 0, "waiting": 0}}, "autoscaling"),
    ({"engines": [{"name": "qwen", "kind": "vllm"}]}, "engines/0"),
    ({"engines": [{**ENGINE, "kind": "tgi"}]}, "engines/0/kind"),
    ({"engines": [{**ENGINE, "name": "Qwen_3"}]}, "engines/0/name"),
    ({"engines": [{**ENGINE, "name": "a-name-that-is-much-too-long"}]}, "engines/0/name"),
    ({"engines": [{**ENGINE, "gpu": 1}]}, "engines/0"),
    ({"engines": [{**ENGINE, "models": {"size": "many"}}]}, "engines/0/models/size"),
    ({"engines": [{**ENGINE, "models": {"hostPath": "models"}}]}, "engines/0/models/hostPath"),
    ({"discovery": {"namespaces": ["Team A"]}}, "discovery/namespaces/0"),
    ({"serviceMonitor": {"interval": "often"}}, "serviceMonitor/interval"),
])  # fmt: skip
def test_what_is_wrong_is_refused(values: Doc, at: str, validator: Any) -> None:
    found = ["/".join(map(str, error.instance_path)) for error in validator.iter_errors(merged(VALUES, values))]
    assert at in found


def _paths(values: Doc, before: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{before}.{name}"
        if isinstance(value, dict):
            yield from _paths(value, f"{before}.{name}")


def _described(path: list[str], schema: Doc) -> bool:
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if not path or ("properties" not in schema and schema.get("type") == "object"):
        return True
    return path[0] in schema.get("properties", {}) and _described(path[1:], schema["properties"][path[0]])


def test_every_value_is_described() -> None:
    assert [path for path in _paths(VALUES) if not _described(path.split(".")[1:], SCHEMA)] == []


def test_every_value_that_may_be_said_is_in_the_file() -> None:
    """Its comments are what people read: a value that only the schema knows is lost on them."""
    text = (charts.CHART / "values.yaml").read_text(encoding="utf-8")
    engine = SCHEMA["$defs"]["engine"]["properties"]
    words = [*SCHEMA["properties"], *engine, *(n for part in SCHEMA["properties"].values() for n in part.get("properties", {}))]
    assert [word for word in words if not re.search(rf"\b{word}\b", text)] == ["global"]  # Helm's own


def test_every_value_is_used() -> None:
    templates = "".join(path.read_text(encoding="utf-8") for path in (charts.CHART / "templates").rglob("*.*"))
    named = {path.rsplit(".", 1)[1] for path in _paths({k: v for k, v in VALUES.items() if k != "engineDefaults"}) if path.count(".") < 3}
    passed = {"requests", "limits", "nginx"}
    unused = sorted(name for name in named - passed if not re.search(rf"\.{name}\b", templates))
    assert unused == []
    assert [name for name in SCHEMA["$defs"]["engine"]["properties"] if not re.search(rf"\.{name}\b", templates)] == []


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((charts.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["apiVersion"], chart["name"], chart["appVersion"]) == ("v2", "pointsman", VERSION)
