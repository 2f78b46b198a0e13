"""From a Service's EndpointSlices to the addresses of its pods, and which replica has which. Pure.

The format is `discovery.k8s.io/v1`: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/. What its
reader must do itself (join slices, drop duplicates, read a missing condition) is said there and in
https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

ENDPOINTS_MAX = 1000  # of one Service; what is beyond is left out, and the log says so
SCHEME = "k8s:"
FORM = "k8s:NAMESPACE/SERVICE[:PORT][/PATH]"
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"  # RFC 1123, which names of namespaces, Services and ports are in
_WRITTEN = re.compile(rf"k8s:({_LABEL})?/({_LABEL})(?::({_LABEL}))?(/[^\s?#\x00-\x1f\x7f]*)?")
_PREFERRED = ("IPv4", "IPv6", "FQDN")  # of a pod that has addresses of several types


class Service(msgspec.Struct, frozen=True):
    """What `k8s:NAMESPACE/SERVICE:PORT/PATH` names. `namespace` "": the gateway's own. `port`: the name or the number of a port of the
    pods (not the Service's own number), None: the only one. `path` is put behind every address."""

    namespace: str
    name: str
    port: str | int | None = None
    path: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def parse(text: str) -> Service:
    """The Service that a text of the configuration names. Raises ValueError, in half a sentence that begins with a verb."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError(
            f"is not {FORM}, as in k8s:models/vllm:http/v1; names have lower-case letters, digits and hyphens, at most 63 of them"
        )
    namespace, name, port, path = found.groups()
    if port is not None and port.isdecimal() and not 1 <= int(port) <= 65535:
        raise ValueError(f"names the port {port}; write 1 to 65535, or the port's name")
    at = int(port) if port is not None and port.isdecimal() else port
    return Service(namespace or "", name, at, (path or "").rstrip("/"))


# --- what the API says: only what is read here, so that a field more or less does no harm


class Conditions(msgspec.Struct, frozen=True):
    """What is said of an endpoint. A missing `ready` means ready; a missing `serving` means the same as `ready`."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Target(msgspec.Struct, frozen=True):
    """The object behind an endpoint, a pod as a rule."""

    uid: str = ""
    namespace: str = ""
    name: str = ""


class Address(msgspec.Struct, frozen=True, rename="camel"):
    """One endpoint of a slice. All its addresses are the same server, the first is to be used."""

    addresses: tuple[str, ...] = ()
    conditions: Conditions | None = None
    target_ref: Target | None = None


class Port(msgspec.Struct, frozen=True, rename="camel"):
    """One port of a slice's endpoints. A missing `port` means any."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """What every object of the API has."""

    name: str = ""
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")
    labels: dict[str, str] | None = None


class Slice(msgspec.Struct, frozen=True, rename="camel"):
    """One EndpointSlice. `endpoints` and `ports` null: none."""

    metadata: Meta = Meta()
    address_type: str = "IPv4"
    endpoints: tuple[Address, ...] | None = None
    ports: tuple[Port, ...] | None = None


# --- what we make of it


class Endpoint(msgspec.Struct, frozen=True):
    """One server. `ready`: it takes new calls; else it starts, or its readiness probe fails."""

    url: str
    ready: bool = True


class Found(msgspec.Struct, frozen=True):
    """What the slices of a Service come to: its endpoints, the ready ones first, without those that are ending. `problem`: why some or all
    are left out, one sentence; "" where none is."""

    endpoints: tuple[Endpoint, ...] = ()
    problem: str = ""


State = Literal["ready", "unready", "ending"]


def endpoints(slices: Iterable[Slice], service: Service) -> Found:
    """The servers behind a Service, each once. Of a pod with addresses of several types IPv4 counts. An endpoint that is ending gets no
    new call, whatever else is said of it, in any slice; the same address in two slices is ready where one says so."""
    states: dict[str, State] = {}  # by URL
    ranks: dict[str, int] = {}  # the best type of address of a pod
    of: dict[str, tuple[str, int]] = {}  # by URL: whose it is, and its type's rank
    wrong = ""
    for one in sorted(slices, key=lambda s: s.metadata.name):
        if not one.endpoints:
            continue  # it has no ports either
        rank = _PREFERRED.index(one.address_type) if one.address_type in _PREFERRED else len(_PREFERRED)
        at, why = _port(one, service.port)
        if at is None or rank == len(_PREFERRED):
            wrong = why or f"a slice of {service} has addresses of the type {one.address_type}, which nobody can connect to"
            continue
        for address in one.endpoints:
            if not address.addresses:
                continue
            url = _url(address.addresses[0], at, service.path)
            pod = _pod(address) or url
            ranks[pod] = min(rank, ranks.get(pod, rank))
            of.setdefault(url, (pod, rank))
            states[url] = _both(states.get(url), _state(address.conditions))
    kept = [(state, url) for url, state in states.items() if state != "ending" and ranks[of[url][0]] == of[url][1]]
    kept.sort()  # "ready" before "unready"
    if len(kept) > ENDPOINTS_MAX:
        wrong = f"{service} has {len(kept)} endpoints; {ENDPOINTS_MAX} of them are used"
    return Found(tuple(Endpoint(url, state == "ready") for state, url in kept[:ENDPOINTS_MAX]), wrong)


def _state(said: Conditions | None) -> State:
    if said is None:
        return "ready"
    if said.terminating:  # with publishNotReadyAddresses it is called ready all the same
        return "ending"
    return "unready" if said.ready is False else "ready"


def _both(one: State | None, other: State) -> State:
    if one is None or other == "ending":
        return other
    return one if one in ("ending", "ready") else other


def _pod(address: Address) -> str:
    ref = address.target_ref
    return "" if ref is None else ref.uid or (f"{ref.namespace}/{ref.name}" if ref.name else "")


def _port(one: Slice, wanted: str | int | None) -> tuple[Port | None, str]:
    """The port that is meant, or why there is none."""
    ports = [port for port in one.ports or () if port.protocol in (None, "TCP")]
    if isinstance(wanted, int):
        found = [port for port in ports if port.port == wanted]
        if found or all(port.port is None for port in ports):  # none defined, or any
            return (found[0] if found else Port(port=wanted)), ""
    else:
        found = [port for port in ports if port.port is not None and wanted in (None, port.name)]
        if len(found) == 1:
            return found[0], ""
    return None, _no_port(ports, wanted)


def _no_port(ports: list[Port], wanted: str | int | None) -> str:
    there = ", ".join(sorted(f"{port.name or 'unnamed'} ({port.port})" for port in ports if port.port is not None)) or "none"
    if wanted is None:
        return f"its pods' TCP ports are {there}: say which one, as in k8s:NAMESPACE/SERVICE:PORT"
    kind = "with the number" if isinstance(wanted, int) else "named"
    return f"its pods have no TCP port {kind} {wanted}; there is: {there}"


def _url(host: str, port: Port, path: str) -> str:
    scheme = "https" if port.app_protocol is not None and port.app_protocol.lower() in ("https", "kubernetes.io/https") else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port.port}{path}"


def numbered(before: Mapping[str, int], found: Iterable[Endpoint]) -> dict[str, int]:
    """By URL, the number of each endpoint: those that were there keep theirs, others get the smallest that are free. So names of replicas,
    which metrics and logs are full of, are as few as there were endpoints at once."""
    urls = list(dict.fromkeys(endpoint.url for endpoint in found))
    kept = {url: before[url] for url in urls if url in before}
    used = set(kept.values())
    free = (number for number in range(len(urls)) if number not in used)
    return {url: kept[url] if url in kept else next(free) for url in urls}
