"""A small Kubernetes API server on real sockets: EndpointSlices, listed in pages and watched, as strict as the real one.

What it is asked otherwise than the API has it (path, parameters, credentials) is a violation, which `Cluster.check` raises.
"""

from __future__ import annotations

import copy
import json
import ssl
import threading
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

TOKEN = "a-token-of-a-service-account"
DEADLINE = 30.0
_LIST = {"labelSelector", "limit", "continue"}
_WATCH = {"labelSelector", "watch", "allowWatchBookmarks", "resourceVersion", "timeoutSeconds"}
Doc = dict[str, Any]


def endpoint(*addresses: str, pod: str = "", **conditions: bool) -> Doc:
    """One endpoint. `pod`: the name of what is behind it."""
    said: Doc = {"addresses": list(addresses)}
    if conditions:
        said["conditions"] = conditions
    if pod:
        said["targetRef"] = {"kind": "Pod", "name": pod, "namespace": "models", "uid": f"uid-of-{pod}"}
    return said


def ending(address: str, pod: str = "") -> Doc:
    """An endpoint whose pod was told to stop."""
    return endpoint(address, pod=pod, ready=False, serving=True, terminating=True)


def port(number: int, name: str = "http", **more: Any) -> Doc:
    return {"name": name, "port": number, "protocol": "TCP", **more}


def slice_of(name: str, service: str, endpoints: Iterable[Doc], ports: Iterable[Doc] = (), kind: str = "IPv4") -> Doc:
    """One EndpointSlice as a controller writes it."""
    return {
        "metadata": {"name": name, "namespace": "models", "labels": {"kubernetes.io/service-name": service}},
        "addressType": kind, "endpoints": list(endpoints), "ports": list(ports),
    }  # fmt: skip


class Cluster:
    """The server and what a test does to it. Its methods may be called from any thread; a context."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.slices: dict[str, Doc] = {}
        self.tokens = {TOKEN}
        self.asked: list[dict[str, str]] = []  # the parameters of each request
        self.violations: list[str] = []
        self.page = 0  # slices of a page at most; 0: as asked
        self.refusals: list[int] = []  # statuses of the next requests
        self.changed = threading.Condition()
        self._version, self._forgotten = 100, 0
        self._events: list[tuple[int, Doc]] = []
        self._cuts = 0  # times that all watches were broken off
        self._raw: list[bytes] = []  # what the next watch sends before its end
        self.watching = 0
        self.over = False
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.cluster = self
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if tls is not None else ''}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.changed:
            self.over = True
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if kind is None:
            self.check()

    def check(self) -> None:
        assert not self.violations, self.violations

    # --- what a test does
    def put(self, *slices: Doc) -> None:
        """Creates slices, or changes those of their names."""
        with self.changed:
            for one in slices:
                made = copy.deepcopy(one)
                name = made["metadata"]["name"]
                self._happened("MODIFIED" if name in self.slices else "ADDED", made)
                self.slices[name] = made

    def delete(self, name: str) -> None:
        with self.changed:
            self._happened("DELETED", self.slices.pop(name))

    def _happened(self, kind: str, made: Doc) -> None:
        self._version += 1
        made["metadata"]["resourceVersion"] = str(self._version)
        self._events.append((self._version, {"type": kind, "object": copy.deepcopy(made)}))
        self.changed.notify_all()

    def bookmark(self) -> None:
        """Tells all watches how far they are."""
        with self.changed:
            self._version += 1
            meta = {"resourceVersion": str(self._version), "annotations": {}}
            said = {"type": "BOOKMARK", "object": {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": meta}}
            self._events.append((self._version, said))
            self.changed.notify_all()

    def forget(self) -> None:
        """Compacts: nobody can watch from a version before this one."""
        with self.changed:
            self._version += 1
            self._forgotten, self._events = self._version, []

    def cut(self) -> None:
        """Breaks off all watches."""
        with self.changed:
            self._cuts += 1
            self.changed.notify_all()

    def utter(self, *raw: bytes) -> None:
        """The next watch sends this, whatever it is, and ends well."""
        with self.changed:
            self._raw += raw

    def until_watched(self) -> None:
        """Blocks until somebody watches."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.watching > 0, DEADLINE), "nobody watches"

    def watches(self) -> list[dict[str, str]]:
        """The parameters of every watch so far."""
        with self.changed:
            return [one for one in self.asked if "watch" in one]

    # --- what the server asks
    def refusal(self, handler: _Handler) -> tuple[int, str] | None:
        given = handler.headers.get("authorization", "")
        kind, _, token = given.partition(" ")
        with self.changed:
            if self.refusals:
                return self.refusals.pop(0), "as the test has it"
            if kind.lower() != "bearer" or token not in self.tokens:
                return 401, "Unauthorized"
        return None

    def listed(self, service: str, limit: int, after: str) -> Doc:
        with self.changed:
            names = sorted(n for n, s in self.slices.items() if s["metadata"]["labels"]["kubernetes.io/service-name"] == service)
            most = self.page or limit or len(names)
            rest = [n for n in names if n > after]
            meta = {"resourceVersion": str(self._version)}
            if len(rest) > most:
                meta["continue"] = rest[most - 1]
            items = [copy.deepcopy(self.slices[n]) for n in rest[:most]]
        return {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": meta, "items": items}

    def watch(self, handler: _Handler, service: str, version: int) -> None:
        """Streams events until the watch is broken off."""
        with self.changed:
            cuts, raw = self._cuts, self._raw
            self._raw = []
            self.watching += 1
            self.changed.notify_all()
        try:
            for one in raw:
                handler.chunk(one)
            if not raw:
                self._stream(handler, service, version, cuts)
        except OSError:
            handler.close_connection = True
        finally:
            with self.changed:
                self.watching -= 1

    def _stream(self, handler: _Handler, service: str, version: int, cuts: int) -> None:
        while True:
            with self.changed:
                while not (self.over or cuts != self._cuts or any(v > version for v, _ in self._events)):
                    self.changed.wait()
                if self.over or cuts != self._cuts:
                    handler.close_connection = True
                    handler.broken = True
                    return
                news = [(v, e) for v, e in self._events if v > version]
            if version < self._forgotten:
                handler.chunk(json.dumps({"type": "ERROR", "object": status(410, "Expired", "too old resource version")}).encode() + b"\n")
                return
            for at, event in news:
                version = at
                labels = event["object"]["metadata"].get("labels")
                if labels is None or labels["kubernetes.io/service-name"] == service:
                    line = json.dumps(event).encode() + b"\n"
                    handler.chunk(line[: len(line) // 2])  # events come in whatever pieces
                    handler.chunk(line[len(line) // 2 :])


def status(code: int, reason: str, message: str) -> Doc:
    """The API's error object."""
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}


class _Server(ThreadingHTTPServer):
    cluster: Cluster
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        return None  # a client that leaves, or that does not trust us


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = DEADLINE
    server: _Server
    broken = False

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def do_GET(self) -> None:
        cluster, parts = self.server.cluster, urlsplit(self.path)
        given: Mapping[str, str] = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        with cluster.changed:
            cluster.asked.append(dict(given))
        refusal = cluster.refusal(self)
        if refusal is not None:
            self.answer(refusal[0], status(refusal[0], "Refused", refusal[1]))
            return
        wrong = _wrong(parts.path, given)
        if wrong:
            cluster.violations.append(f"{self.path}: {wrong}")
            self.answer(400, status(400, "BadRequest", wrong))
            return
        service = given["labelSelector"].partition("=")[2]
        if "watch" not in given:
            self.answer(200, cluster.listed(service, int(given.get("limit", 0)), given.get("continue", "")))
            return
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        cluster.watch(self, service, int(given["resourceVersion"]))
        if not self.broken:
            self.chunk(b"")

    def answer(self, code: int, doc: Doc) -> None:
        body = json.dumps(doc).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()


def _wrong(path: str, given: Mapping[str, str]) -> str:
    """Why the API would not understand a request."""
    if path != "/apis/discovery.k8s.io/v1/namespaces/models/endpointslices":
        return f"no such resource: {path}"
    known = _WATCH if "watch" in given else _LIST
    if not given.keys() <= known:
        return f"parameters {sorted(given.keys() - known)}"
    if not given.get("labelSelector", "").startswith("kubernetes.io/service-name="):
        return "no label selector"
    if "watch" in given and (given["watch"].lower() != "true" or not given["resourceVersion"].isdecimal()):
        return "not a watch from a version"
    return ""


def kubeconfig(cluster: Cluster, token: str = TOKEN, authority: str = "") -> str:
    """A kubeconfig that leads to a cluster, as JSON, which is YAML. `authority`: the path of its CA's certificate."""
    at: Doc = {"server": cluster.url, **({"certificate-authority": authority} if authority else {})}
    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": at}], "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "models"}}],
    })  # fmt: skip
