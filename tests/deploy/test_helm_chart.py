"""The chart under the original Helm: what it makes of other values, and what it refuses. Skipped where no Helm is installed."""

from __future__ import annotations

import json
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import charts, policy
from tests.deploy.charts import Doc

pytestmark = pytest.mark.skipif(charts.helm() is None, reason="no helm; python -m tests.deploy.install_helm puts one there")

ZEROS = f"sha256:{'0' * 64}"
ENGINE: Doc = {"name": "qwen", "kind": "vllm", "model": "Qwen/Qwen3-8B"}
# Sets of values that between them reach every template and every branch of it.
VARIANTS: dict[str, Doc] = {
    "another name": {"fullnameOverride": "gate", "nameOverride": "g", "image": {"digest": ZEROS}, "pullSecrets": ["registry"]},
    "secrets in values": {"secrets": {"values": {"clients": "sk-1", "OPENAI_API_KEY": "sk-2"}}, "secretEnv": ["OPENAI_API_KEY"]},
    "a key by its hash": {"keys": [{"name": "a", "hash": ZEROS}, {"name": "b", "secretKey": "other", "admin": True}]},
    "redis elsewhere": {"redis": {"url": "redis://redis.infra:6379/1"}},
    "redis with a password": {"redis": {"secretKey": "redis-url", "port": 6380}},
    "redis in the chart": {"redis": {"enabled": True}},
    "every metric": {"autoscaling": {"enabled": True}, "serviceMonitor": {"enabled": True}, "podDisruptionBudget": {"enabled": False}},
    "open": {"networkPolicy": {"enabled": False}, "ingress": {"enabled": True}, "gateway": {"rollOnConfigChange": False}},
    "from outside": {
        "ingress": {"enabled": True, "className": "nginx", "host": "llm.example.org", "tlsSecret": "llm-tls"},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "edge"}], "hostnames": ["llm.example.org"]},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
    },
    "tls": {"config": {"server": {"tls": {"cert": "/tls/tls.crt", "key": "/tls/tls.key"}}}, "serviceMonitor": {"enabled": True},
            "gateway": {"extraVolumes": [{"name": "tls", "secret": {"secretName": "t"}}],
                        "extraVolumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}]}},
    "placed": {"gateway": {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "affinity": {"nodeAffinity": {}},
                           "priorityClassName": "high", "podLabels": {"x": "y"}, "podAnnotations": {"x": "y"}, "workers": 4,
                           "env": {"TZ": "UTC"}, "readinessPath": "/ready"},
               "serviceAccount": {"name": "there", "annotations": {}}, "discovery": {"namespaces": ["team-a", "team-b"]}},
    "engines of all kinds": {"engines": [
        {**ENGINE, "gpus": 2, "context": 4096, "kvEvents": True, "route": "r", "weight": 3,
         "models": {"size": "1Gi", "storageClassName": "fast"}},
        {"name": "sg", "kind": "sglang", "model": "m", "route": "r", "gpus": 4, "context": 4096, "workload": "Deployment",
         "models": {"size": "1Gi", "accessModes": ["ReadWriteMany"]}, "args": ["--x"], "env": {"A": 1}, "runtimeClassName": "nvidia"},
        {"name": "lc", "kind": "llama-server", "model": "/m/x.gguf", "workload": "DaemonSet", "context": 100, "slots": 3,
         "models": {"hostPath": "/m", "mountPath": "/m", "readOnly": True}},
        {"name": "hf", "kind": "llama-server", "model": "o/r:Q8_0", "models": {"existingClaim": "c"}, "secretEnv": ["HF_TOKEN"]},
        {"name": "sc", "kind": "sglang", "model": "m", "policy": "session", "podAnnotations": {"a": "b"}, "autoscaling": {
            "minReplicas": 1, "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}]}},
    ], "serviceMonitor": {"enabled": True}},
}  # fmt: skip


@cache
def text(values: str) -> str:
    """What Helm makes of values in JSON, which is YAML; the pod of `helm test` too."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "values.yaml")
        file.write_text(values, encoding="utf-8")
        return charts.render(file, more=())


def rendered(values: Doc) -> list[Doc]:
    return charts.read(text(json.dumps(values)))


def command(docs: list[Doc], name: str) -> list[str]:
    found = next(d for d in docs if d["kind"] in ("StatefulSet", "Deployment", "DaemonSet") and d["metadata"]["name"] == name)
    words: list[str] = found["spec"]["template"]["spec"]["containers"][0]["command"]
    return words


@pytest.mark.parametrize("profile", sorted(charts.PROFILES))
def test_the_manifests_are_what_helm_makes(profile: str) -> None:
    assert charts.made(profile) == charts.manifest(profile).read_text(encoding="utf-8"), f"run: {charts.AGAIN}"


def test_helm_finds_nothing_to_say() -> None:
    assert "0 chart(s) failed" in charts.call("lint", "--strict", str(charts.CHART))


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_values(variant: str) -> None:
    docs = rendered(VARIANTS[variant])
    assert policy.problems(docs) == []
    if variant != "tls":  # whose files are elsewhere
        assert charts.configured(docs).server.port == 8484
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    for doc in docs:
        if doc["kind"] not in ("ServiceMonitor", "HTTPRoute"):
            validate(doc, "1.34", strict=True)


def test_every_template_is_reached() -> None:
    """The variants above leave no template without an object."""
    all_of_it = "".join(text(json.dumps(values)) for values in VARIANTS.values())
    seen = set(re.findall(r"^# Source: pointsman/templates/(\S+)$", all_of_it, re.MULTILINE))
    files = {p.relative_to(charts.CHART / "templates").as_posix() for p in (charts.CHART / "templates").rglob("*.yaml")}
    assert files == seen


def test_engines_get_their_words() -> None:
    docs = rendered(VARIANTS["engines of all kinds"])
    vllm, sglang, local = (command(docs, f"pointsman-{name}") for name in ("qwen", "sg", "lc"))
    assert vllm[:3] == ["vllm", "serve", "Qwen/Qwen3-8B"]
    assert vllm[vllm.index("--tensor-parallel-size") + 1] == "2"
    assert json.loads(vllm[vllm.index("--kv-events-config") + 1])["endpoint"] == "tcp://*:5557"
    assert sglang[sglang.index("--tp") + 1] == "4"
    assert sglang[-1] == "--x"
    assert local[local.index("--ctx-size") + 1] == "300"  # it divides them among its slots
    assert command(docs, "pointsman-hf")[1:3] == ["--hf-repo", "o/r:Q8_0"]


def test_engines_of_one_route_share_it() -> None:
    docs = rendered(VARIANTS["engines of all kinds"])
    config = charts.configured(docs)
    assert [(t.backend, t.weight) for t in config.routes["r"].targets] == [("qwen", 3), ("sg", 1)]
    assert config.routes["lc"].policy == "least_busy"
    assert config.routes["sc"].policy == "session"


def test_what_is_configured_wins() -> None:
    more = {"server": {"wait_seconds": 7, "limits": {"body_bytes": 33554432}}, "routes": {"qwen": {"policy": "latency"}}}
    docs = rendered({"engines": [ENGINE], "config": more})
    config = charts.configured(docs)
    assert (config.server.wait_seconds, config.server.limits.body_bytes) == (7, 33554432)
    assert config.routes["qwen"].policy == "latency"
    assert [t.backend for t in config.routes["qwen"].targets] == ["qwen"]


def test_long_names_stay_short_enough() -> None:
    docs = rendered({"fullnameOverride": "g" * 63, "engines": [{**ENGINE, "name": "e" * 20}], "redis": {"enabled": True}})
    assert policy.problems(docs) == []
    assert max(len(doc["metadata"]["name"]) for doc in charts.of_kind(docs, "StatefulSet")) == 51


def test_rights_are_in_the_namespaces_that_are_used() -> None:
    docs = rendered({"engines": [ENGINE], "discovery": {"namespaces": ["team-a", charts.NAME]}})
    assert sorted(d["metadata"]["namespace"] for d in charts.of_kind(docs, "Role")) == ["pointsman", "team-a"]


def test_a_changed_configuration_makes_new_pods() -> None:
    def checksum(values: Doc) -> Any:
        found = charts.gateway(rendered(values))["spec"]["template"]["metadata"]["annotations"]
        return found.get("checksum/config")

    assert checksum({}) == checksum({"autoscaling": {"minReplicas": 3}})
    assert checksum({}) != checksum({"config": {"server": {"wait_seconds": 5}}})
    assert checksum({"gateway": {"rollOnConfigChange": False}}) is None


def test_another_chart_restarts_no_engine() -> None:
    docs = rendered({"engines": [ENGINE]})
    labels = charts.of_kind(docs, "StatefulSet")[0]["spec"]["template"]["metadata"]["labels"]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & labels.keys()


@pytest.mark.parametrize(("values", "words"), [
    ({"redis": {"enabled": True, "url": "redis://r:6379"}}, "redis: say one of"),
    ({"secrets": {"existingSecret": "a", "values": {"clients": "b"}}}, "secrets: say `existingSecret` or `values`, not both"),
    ({"engines": [ENGINE, ENGINE]}, "the name `qwen` is there twice"),
    ({"engines": [{**ENGINE, "models": {"size": "1Gi", "hostPath": "/m"}}]}, "more than one of models.size"),
    ({"engines": [{**ENGINE, "kind": "llama-server", "kvEvents": True}]}, "has no KV events"),
    ({"serviceMonitor": {"enabled": True, "key": "nobody"}}, "serviceMonitor.key: `nobody` is none of `keys`"),
    ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs: say which Gateway"),
    ({"ingress": {"enabled": True, "tlsSecret": "t"}}, "ingress.host: say which host"),
    ({"gateway": {"replica": 3}}, "replica"),
])  # fmt: skip
def test_values_that_contradict_are_refused(values: Doc, words: str) -> None:
    with pytest.raises(charts.RenderError, match=re.escape(words)):
        rendered(values)
