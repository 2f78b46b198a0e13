"""A gateway with the configuration that the chart made: probes and Prometheus get what they ask for."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest
import yaml

from gateway.config import parse
from tests.deploy import charts
from tests.fakes.engine import Engine
from tests.harness import Running, chat, merged, running

PROMETHEUS = "secret-of-POINTSMAN_KEY_2"
IN_CLUSTER = {"Host": "10.42.1.17:8484"}  # how the kubelet and Prometheus name a pod


@pytest.fixture
def gateway() -> Iterator[Running]:
    docs = charts.shipped("gpu-vllm")
    with Engine() as engine:
        made = yaml.safe_load(charts.configuration(docs))
        routes = {"m": {"targets": [{"backend": "fake", "model": "fake"}]}}
        own = {
            "server": {**made["server"], "host": "127.0.0.1", "port": 0, "admin": {"port": None}, "redis": None},
            "backends": {"fake": {"urls": [engine.url]}}, "routes": routes,
        }  # fmt: skip
        config = parse(json.dumps(merged({"keys": made["keys"]}, own)), charts.variables(docs))
        with running(config) as found:
            yield found


def test_probes_need_no_key(gateway: Running) -> None:
    one = charts.gateway(charts.shipped("gpu-vllm"))["spec"]["template"]["spec"]["containers"][0]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert gateway.get(one[kind]["httpGet"]["path"], IN_CLUSTER).status == 200


def test_prometheus_is_let_in_with_a_key_that_can_do_nothing_else(gateway: Running) -> None:
    bearer = {**IN_CLUSTER, "Authorization": f"Bearer {PROMETHEUS}"}
    monitor = charts.of_kind(charts.shipped("gpu-vllm"), "ServiceMonitor")[0]["spec"]["endpoints"][0]
    assert gateway.get(monitor["path"], IN_CLUSTER).status == 401
    assert gateway.get(monitor["path"], bearer).status == 200
    refused = gateway.ask({**chat(), "model": "m"}, headers=bearer)
    assert (refused.status, msgspec.json.decode(refused.body)["error"]["origin"]) == (
        404,
        "client",
    )  # a model that is not for this key is not there


def test_what_scales_is_measured(gateway: Running) -> None:
    docs = charts.shipped("gpu-vllm")
    scaler = next(d for d in charts.of_kind(docs, "HorizontalPodAutoscaler") if d["metadata"]["name"] == "pointsman")
    wanted = {m["pods"]["metric"]["name"] for m in scaler["spec"]["metrics"] if m["type"] == "Pods"}
    shown = gateway.get("/metrics", {"Authorization": f"Bearer {PROMETHEUS}"}).body.decode()
    assert wanted == {"pointsman_requests_in_flight", "pointsman_requests_waiting"}
    assert all(f"\n# TYPE {name} gauge\n" in shown for name in wanted)
    adapter = (charts.ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    assert all(name in adapter for name in wanted)
