"""What must hold for objects that we give to a cluster, whatever values they were made with. Pure: objects in, sentences out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.deploy.charts import Doc, gateway, of_kind, pods

Problems = Iterator[str]
_SECRET_NAME = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET)")
_DENIED = ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")


def problems(docs: Sequence[Doc]) -> list[str]:
    """Every violation, as `Kind/name: what`."""
    found = [f"{name}: {what}" for name, pod in pods(docs) for check in POD for what in check(pod["spec"], pod)]
    return found + [what for check in ALL for what in check(docs)]


def _user(spec: Doc, _: Doc) -> Problems:
    said = spec.get("securityContext", {})
    if said.get("runAsNonRoot") is not True or not said.get("runAsUser"):
        yield "may run as root"
    if said.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"
    yield from (f"has {name}" for name in _DENIED if spec.get(name))
    if "automountServiceAccountToken" not in spec:
        yield "does not say whether it gets a token of the API"
    if spec.get("enableServiceLinks") is not False:
        yield "gets variables of services"


def _container(spec: Doc, _: Doc) -> Problems:
    for one in spec["containers"] + spec.get("initContainers", []):
        said = one.get("securityContext", {})
        wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "privileged": False, "capabilities": {"drop": ["ALL"]}}
        yield from (f"{one['name']} has {k}: {said.get(k)}" for k, value in wanted.items() if said.get(k) != value)
        for kind in ("requests", "limits"):
            yield from (f"{one['name']} has no {kind}.{what}" for what in ("cpu", "memory") if what not in one["resources"].get(kind, {}))
        image = one["image"]
        if "@sha256:" not in image and (":" not in image.rsplit("/", 1)[-1] or image.endswith(":latest")):
            yield f"{one['name']} has an image of no certain version: {image}"
        yield from (
            f"{one['name']} has the text of {e['name']}" for e in one.get("env", []) if _SECRET_NAME.search(e["name"]) and "value" in e
        )


def _probed(spec: Doc, pod: Doc) -> Problems:
    if pod.get("kind") == "Pod":
        return
    for one in spec["containers"]:
        ports = {port["name"] for port in one.get("ports", [])}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = one.get(kind)
            if probe is None:
                yield f"{one['name']} has no {kind}"
            elif (port := (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port")) is not None and port not in ports:
                yield f"{one['name']}: {kind} asks a port {port} that is not there"


def _mounted(spec: Doc, pod: Doc) -> Problems:
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for one in spec["containers"]:
        for mount in one.get("volumeMounts", []):
            volume = volumes.get(mount["name"])
            if volume is None and mount["name"] != "models":  # a StatefulSet's claim; the API server knows it by its template
                yield f"{one['name']} mounts {mount['name']}, which is no volume"
            if volume is not None and "hostPath" in volume and not mount.get("readOnly"):
                yield f"{one['name']} may write {mount['mountPath']} of the node"
    yield from (f"{name} has no limit" for name, v in volumes.items() if v.get("emptyDir") == {} and name != "models")


def _ends(spec: Doc, pod: Doc) -> Problems:
    for one in spec["containers"]:
        before = one.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if spec.get("terminationGracePeriodSeconds", 30) < before + 15:
            yield f"{one['name']} is killed before its preStop is over"


def labelled(selector: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def _selects(docs: Sequence[Doc]) -> Problems:
    all_labels = [pod["metadata"]["labels"] for _, pod in pods(docs)]
    for doc in of_kind(docs, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = doc["spec"]
        selector = spec.get("podSelector", spec.get("selector", {}))
        selector = selector.get("matchLabels", selector)
        if not any(labelled(selector, labels) for labels in all_labels):
            yield f"{doc['kind']}/{doc['metadata']['name']}: selects no pod"
    for doc in of_kind(docs, "Deployment", "StatefulSet", "DaemonSet"):
        if not labelled(doc["spec"]["selector"]["matchLabels"], doc["spec"]["template"]["metadata"]["labels"]):
            yield f"{doc['kind']}/{doc['metadata']['name']}: does not select its own pods"


def _selects_once(docs: Sequence[Doc]) -> Problems:
    """One Service, one workload: a second set of engines behind the same name would be asked for the wrong model."""
    for doc in of_kind(docs, "Service", "PodDisruptionBudget"):
        selector = doc["spec"]["selector"]
        selector = selector.get("matchLabels", selector)
        found = [name for name, pod in pods(docs) if labelled(selector, pod["metadata"]["labels"])]
        if len(found) > 1:
            yield f"{doc['kind']}/{doc['metadata']['name']}: selects the pods of {' and '.join(found)}"


def _ports(docs: Sequence[Doc]) -> Problems:
    for doc in of_kind(docs, "Service"):
        for _, pod in pods(docs):
            if labelled(doc["spec"]["selector"], pod["metadata"]["labels"]):
                known = {port["name"] for one in pod["spec"]["containers"] for port in one["ports"]}
                yield from (
                    f"Service/{doc['metadata']['name']}: no {p['targetPort']}" for p in doc["spec"]["ports"] if p["targetPort"] not in known
                )


def _guarded(docs: Sequence[Doc]) -> Problems:
    policies = [doc["spec"]["podSelector"]["matchLabels"] for doc in of_kind(docs, "NetworkPolicy")]
    for name, pod in pods(docs):
        if pod.get("kind") != "Pod" and policies and not any(labelled(p, pod["metadata"]["labels"]) for p in policies):
            yield f"{name}: no NetworkPolicy is about it"


def _rights(docs: Sequence[Doc]) -> Problems:
    wanted = [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}]
    for doc in of_kind(docs, "Role", "ClusterRole", "ClusterRoleBinding"):
        if doc["kind"] != "Role" or doc["rules"] != wanted:
            yield f"{doc['kind']}/{doc['metadata']['name']}: may more than look for endpoints"
    roles = {(doc["metadata"]["namespace"], doc["metadata"]["name"]) for doc in of_kind(docs, "Role")}
    for doc in of_kind(docs, "RoleBinding"):
        if (doc["metadata"]["namespace"], doc["roleRef"]["name"]) not in roles:
            yield f"RoleBinding/{doc['metadata']['name']}: its role is not there"


def _named(docs: Sequence[Doc]) -> Problems:
    seen = set()
    for doc in docs:
        meta = doc["metadata"]
        identity = (doc["apiVersion"], doc["kind"], meta.get("namespace"), meta["name"])
        if identity in seen:
            yield f"{doc['kind']}/{meta['name']}: is there twice"
        if not meta.get("namespace") or "app.kubernetes.io/component" not in meta.get("labels", {}):
            yield f"{doc['kind']}/{meta['name']}: has no namespace, or not the labels"
        if len(meta["name"]) > (52 if doc["kind"] == "StatefulSet" else 63):  # its pods bear it, with a hash behind, in a label
            yield f"{doc['kind']}/{meta['name']}: its name is too long"
        seen.add(identity)


def _targets(docs: Sequence[Doc]) -> Problems:
    known = {(doc["kind"], doc["metadata"]["name"]): doc for doc in docs}
    for doc in of_kind(docs, "HorizontalPodAutoscaler"):
        aim = doc["spec"]["scaleTargetRef"]
        target = known.get((aim["kind"], aim["name"]))
        if target is None:
            yield f"HorizontalPodAutoscaler/{doc['metadata']['name']}: scales what is not there"
        elif "replicas" in target["spec"]:
            yield f"{aim['kind']}/{aim['name']}: says replicas and is scaled: each upgrade would set it back"


def _rolls(docs: Sequence[Doc]) -> Problems:
    deployment = gateway(docs)
    if deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] != 0:
        yield "the gateway: a rolling update takes pods away before others are there"


POD: Sequence[Callable[[Doc, Doc], Problems]] = (_user, _container, _probed, _mounted, _ends)
ALL: Sequence[Callable[[Sequence[Doc]], Problems]] = (
    _selects, _selects_once, _ports, _guarded, _rights, _named, _targets, _rolls,
)  # fmt: skip
