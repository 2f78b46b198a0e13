"""deploy/kubernetes: made from the chart as it is, valid for the API server, and safe; a gateway takes the configuration in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.discovery import slices
from tests.deploy import charts, policy
from tests.deploy.charts import Doc, configured

PROFILES = sorted(charts.PROFILES)
KUBERNETES = ("1.30", "1.34")  # the oldest that the chart takes, and a late one
CUSTOM = {"ServiceMonitor", "HTTPRoute"}  # of the Prometheus operator and the Gateway API: no schema of Kubernetes' own


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def docs(profile: str) -> list[Doc]:
    return charts.shipped(profile)


def test_is_made_from_the_chart_as_it_is(profile: str) -> None:
    said = charts.manifest(profile).read_text(encoding="utf-8")
    assert said.startswith(charts.head(profile)), f"the chart or its values have changed; run: {charts.AGAIN}"


def test_nothing_else_lies_there() -> None:
    assert sorted(path.stem for path in charts.MANIFESTS.glob("*.yaml")) == PROFILES


@pytest.mark.parametrize("version", KUBERNETES)
def test_is_valid_for_the_api_server(docs: list[Doc], version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    for doc in docs:
        if doc["kind"] not in CUSTOM:
            validate(doc, version, strict=True)  # raises with the path of what is wrong


def test_breaks_no_rule(docs: list[Doc]) -> None:
    assert policy.problems(docs) == []


def test_the_gateway_takes_its_configuration(docs: list[Doc]) -> None:
    config = configured(docs)
    assert config.server.host == "0.0.0.0"  # a pod has its own network
    assert config.server.admin.host == "127.0.0.1"
    assert all(key.hash for key in config.keys)


def test_every_variable_of_the_configuration_is_set(docs: list[Doc]) -> None:
    asked = set(re.findall(r"\$\{([A-Za-z_]\w*)\}", charts.configuration(docs)))
    assert asked <= charts.variables(docs).keys()


def test_engines_are_found_where_they_are(docs: list[Doc]) -> None:
    """The slices that Kubernetes makes of each Service, as the gateway reads them."""
    services = {(d["metadata"]["namespace"], d["metadata"]["name"]): d["spec"] for d in charts.of_kind(docs, "Service")}
    named = [slices.parse(b.service) for b in configured(docs).backends.values() if b.service is not None]
    for one in named:
        spec = services[one.namespace, one.name]
        assert spec["clusterIP"] == "None"
        pod = next(p for _, p in charts.pods(docs) if policy.labelled(spec["selector"], p["metadata"]["labels"]))
        numbers = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
        ports = [{"name": p["name"], "port": numbers[p["targetPort"]], "protocol": p["protocol"]} for p in spec["ports"]]
        made = msgspec.convert({"ports": ports, "endpoints": [{"addresses": ["10.42.0.7"]}]}, slices.Slice)
        assert slices.endpoints([made], one) == slices.Found((slices.Endpoint("http://10.42.0.7:8000/v1"),))
    engines = [d for d in docs if d["metadata"]["labels"].get("pointsman.io/role") == "engine" and d["kind"] == "Service"]
    assert len(named) == len(engines)
    roles = {d["metadata"]["namespace"] for d in charts.of_kind(docs, "Role")}
    assert roles == {one.namespace for one in named}, "rights are for the namespaces that are used, and no others"
    assert charts.gateway(docs)["spec"]["template"]["spec"]["automountServiceAccountToken"] is bool(named)


def test_kv_events_are_where_engines_publish(docs: list[Doc]) -> None:
    said = {name: b.kv_events for name, b in configured(docs).backends.items()}
    for doc in charts.of_kind(docs, "StatefulSet", "Deployment", "DaemonSet"):
        one = doc["spec"]["template"]["spec"]["containers"][0]
        name = doc["metadata"]["labels"]["app.kubernetes.io/component"].removeprefix("engine-")
        publishes = "--kv-events-config" in one.get("command", [])
        ports = {port["name"]: port["containerPort"] for port in one["ports"]}
        assert publishes is ("kv-events" in ports)
        if publishes:
            found: Any = said[name]
            assert (found.endpoint, found.replay) == ("tcp://{host}:5557", "tcp://{host}:5558")
            assert (ports["kv-events"], ports["kv-replay"]) == (5557, 5558)


def test_a_stream_has_time_to_end(docs: list[Doc]) -> None:
    spec = charts.gateway(docs)["spec"]["template"]["spec"]
    server = configured(docs).server
    assert server.drain_notice_seconds >= 5, "until every node knows that it goes"
    assert spec["terminationGracePeriodSeconds"] >= server.drain_notice_seconds + server.drain_seconds + 10  # see Gateway.stop


def test_engines_have_time_to_end(docs: list[Doc]) -> None:
    for name, pod in charts.pods(docs):
        one, grace = pod["spec"]["containers"][0], pod["spec"].get("terminationGracePeriodSeconds", 30)
        words, before = one.get("command", []), one.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if "--shutdown-timeout" in words:
            assert grace >= before + int(words[words.index("--shutdown-timeout") + 1]) + 30, name
        elif "/app/llama-server" in words:
            assert before >= 60, f"{name}: SIGTERM ends its answers"


def test_probes_ask_what_is_there(docs: list[Doc]) -> None:
    one = charts.gateway(docs)["spec"]["template"]["spec"]["containers"][0]
    paths = {kind: one[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/ready", "readiness": "/health", "liveness": "/health"}
    assert one["ports"] == [{"name": "http", "containerPort": configured(docs).server.port, "protocol": "TCP"}]


def _unsafe(path: str, value: Any) -> Callable[[Doc], None]:
    def change(pod: Doc) -> None:
        at: Any = pod
        *parts, last = path.split("/")
        for part in parts:
            at = at[int(part) if part.isdigit() else part]
        if value is None:
            del at[last]
        else:
            at[last] = value

    return change


@pytest.mark.parametrize(("change", "words"), [
    (_unsafe("spec/securityContext/runAsNonRoot", False), "may run as root"),
    (_unsafe("spec/securityContext/seccompProfile", None), "no seccomp profile"),
    (_unsafe("spec/hostNetwork", True), "has hostNetwork"),
    (_unsafe("spec/automountServiceAccountToken", None), "a token of the API"),
    (_unsafe("spec/containers/0/image", "example.org:5000/pointsman"), "no certain version"),
    (_unsafe("spec/containers/0/image", "pointsman:latest"), "no certain version"),
    (_unsafe("spec/containers/0/resources/limits/memory", None), "no limits.memory"),
    (_unsafe("spec/containers/0/securityContext/readOnlyRootFilesystem", None), "readOnlyRootFilesystem: None"),
    (_unsafe("spec/containers/0/env", [{"name": "OPENAI_API_KEY", "value": "sk-1"}]), "has the text of OPENAI_API_KEY"),
    (_unsafe("spec/containers/0/readinessProbe", None), "no readinessProbe"),
    (_unsafe("spec/containers/0/livenessProbe/httpGet/port", "admin"), "a port admin that is not there"),
    (_unsafe("spec/containers/0/volumeMounts", [{"name": "x", "mountPath": "/x"}]), "mounts x, which is no volume"),
    (_unsafe("spec/volumes", [{"name": "config", "hostPath": {"path": "/etc"}}, {"name": "tmp", "emptyDir": {}}]), "has no limit"),
    (_unsafe("spec/containers/0/lifecycle", {"preStop": {"sleep": {"seconds": 600}}}), "killed before its preStop is over"),
    (_unsafe("metadata/labels", {}), "selects no pod"),
])  # fmt: skip
def test_what_breaks_a_rule_is_found(change: Callable[[Doc], None], words: str) -> None:
    docs = charts.shipped("pointsman")
    change(charts.gateway(docs)["spec"]["template"])
    assert any(words in found for found in policy.problems(docs)), policy.problems(docs)


def test_rights_that_are_too_wide_are_found() -> None:
    docs = charts.shipped("gpu-vllm")
    charts.of_kind(docs, "Role")[0]["rules"][0]["resources"].append("secrets")
    assert policy.problems(docs) == ["Role/pointsman: may more than look for endpoints"]
