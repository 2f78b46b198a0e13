"""Every metric that the dashboard, the rules and the documents name is one that a gateway shows; every query can be read."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from gateway.cluster import Cluster
from tests.fakes.engine import Engine
from tests.harness import config_for, running

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "pointsman.json").read_text())
TEXTS = sorted(path for kind in ("*.md", "*.yml", "*.yaml", "*.json", "*.tpl", "*.txt") for path in DEPLOY.rglob(kind))
TEXTS += [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
_NAME = re.compile(r"\b(?:pointsman|process)_[a-z0-9_]+\b(?!\.)")
# Words of this form that are no metrics.
OTHER = {"pointsman_probe"}
LABELS = {
    "le", "route", "backend", "api", "code", "kind", "origin", "type", "replica", "group", "why", "experiment", "arm", "outcome", "reason",
    "invariant", "version", "job", "instance", "alertname", "severity", "namespace", "pod", "service",
}  # fmt: skip


def families(text: str) -> dict[str, str]:
    """Name -> kind, from a Prometheus text."""
    return dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE "))


def samples(found: dict[str, str]) -> set[str]:
    """What may be queried."""
    ends = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + end for name, kind in found.items() for end in ends.get(kind, ("",))}


@pytest.fixture(scope="module")
def shown() -> dict[str, str]:
    """What a live gateway shows."""
    with Engine() as engine, running(config_for([engine])) as gateway:
        return families(gateway.gateway.metrics())


def rules() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Where it stands, and the PromQL, with Grafana's variables filled in."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$", "x")
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]


def test_names(shown: dict[str, str]) -> None:
    known = samples(shown) | set(shown) | OTHER

    def named(name: str) -> bool:
        return name in known or (
            name.endswith("_") and any(one.startswith(name) for one in known)
        )  # the beginning of several, in a pattern

    wrong = {f"{path.relative_to(ROOT)}: {name}" for path in TEXTS for name in _NAME.findall(path.read_text()) if not named(name)}
    assert wrong == set()


def test_every_family_of_requests_is_drawn(shown: dict[str, str]) -> None:
    """What is counted for each request, and each counter of something that went wrong, can be seen."""
    drawn = " ".join(text for _, text in queries())
    plain = {"pointsman_response_chunks_total", "process_start_time_seconds"}
    lost = {name for name in shown if re.search("requests|error|cost|dropped|lost|failed|time_to|duration", name)} - plain
    assert {name for name in lost if name not in drawn} == set()


def test_recorded_names_exist() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for where, text in queries():
        assert set(re.findall(r"\bpointsman:[\w:]+", text)) <= recorded, where


def test_queries_are_whole(shown: dict[str, str]) -> None:
    """Brackets in pairs, known labels, and no rate of a gauge: what can be said without a parser."""
    for where, text in queries():
        whole(where, text, shown)


def whole(where: str, text: str, shown: dict[str, str]) -> None:
    bare = re.sub(r'"[^"]*"', '""', text)
    depth: list[str] = []
    for sign in bare:
        if sign in "([{":
            depth.append(sign)
        elif sign in ")]}":
            assert depth and depth.pop() + sign in ("()", "[]", "{}"), where
    assert depth == []
    used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", bare))
    used |= {name.strip() for by in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", bare) for name in by.split(",")}
    assert used <= LABELS, where
    for name in re.findall(r"\b(?:rate|increase)\s*\(\s*([a-z_]+)", bare):
        family = name.removesuffix("_bucket")
        assert shown[family] in ("counter", "histogram"), f"{where}: {name} is a gauge"


def test_queries_can_be_read() -> None:
    parser = pytest.importorskip("promql_parser", reason="promql-parser is not installed")
    for _, text in queries():
        parser.parse(text)


def test_alerts_say_what_they_are() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 10
    for rule in alerts:
        quick = rule["alert"] in ("PointsmanEngineRestarts", "PointsmanRecordsLost", "PointsmanCacheStoreFailing", "PointsmanSpending")
        assert quick or rule["for"], rule["alert"]  # those look back over minutes themselves
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"} and rule["alert"].startswith("Pointsman")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool() -> None:
    folder = DEPLOY / "prometheus"
    for arguments in (
        ["check", "rules", "alerts.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
        ["test", "rules", "alerts.test.yml"],
    ):
        done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard", DEPLOY / "grafana" / "dashboard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_dashboard_is_what_its_program_writes() -> None:
    assert (DEPLOY / "grafana" / "dashboards" / "pointsman.json").read_text() == generator().text(), "run deploy/grafana/dashboard.py"


def test_dashboard_is_laid_out() -> None:
    """Panels lie within 24 columns and on nothing else; ids and titles of a row are their own; every panel asks the variable's source."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["targets"], panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel.get("targets", []))
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = {name for panel in panels for target in panel.get("targets", []) for name in re.findall(r"\$(\w+)", target["expr"])}
    assert used - {"__rate_interval"} <= names


def test_workers_show_the_same(shown: dict[str, str]) -> None:
    """What the parent of several workers shows: nothing is missing there that a rule needs."""

    async def ask() -> dict[str, str]:
        cluster = Cluster(config_for(["http://127.0.0.1:9/v1"], server={"workers": 2}))
        await cluster.start()
        try:
            await asyncio.gather(*(cluster._ask(worker) for worker in cluster.workers))
            return families(cluster.metrics())
        finally:
            await cluster.stop()

    assert set(shown) - set(asyncio.run(ask())) == set()
