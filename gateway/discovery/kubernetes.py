"""Follows the EndpointSlices of one Service, in a thread of its own: the official client blocks.

A list, then a watch from the list's version on, as https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
says. The client brings addresses, certificates and tokens (of a service account, renewed as the kubelet renews its file; or of a
kubeconfig); the answers are read here, since what it makes of them differs between its versions and has no bounds.
Needs get, list and watch of `endpointslices` in the group `discovery.k8s.io`.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from gateway.discovery.slices import Found, Meta, Service, Slice, endpoints

log = logging.getLogger("pointsman.discovery")
T = TypeVar("T")
WATCH_SECONDS = (240, 360)  # after which the API ends a watch and we begin the next, drawn so that gateways do not all do so at once
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0
BASE_SECONDS, CAP_SECONDS = 0.5, 30.0  # of the wait before a failed session is begun again
LEAST_SECONDS = 5.0  # a watch that says nothing and ends sooner counts as failed
PAGE, SLICES_MAX = 200, 2000
LINE_MAX, PAGE_MAX = 16 << 20, 64 << 20  # bytes of an event, of a page of a list
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MISSING = "the Python package `kubernetes` is not installed; run `pip install 'pointsman[kubernetes]'`"


class Trouble(Exception):
    """Why the Service cannot be followed now, in half a sentence. `lasting`: trying again cannot help."""

    def __init__(self, why: str, *, lasting: bool = False) -> None:
        super().__init__(why)
        self.lasting = lasting


class Gone(Trouble):
    """The API does not know the version any more from which we watch: a new list is needed (410)."""


class Seen(msgspec.Struct, frozen=True):
    """What a follower knows. `found` None: nothing yet. `trouble`: why it cannot follow just now, and what it knows is kept; "" while it
    follows."""

    found: Found | None = None
    trouble: str = ""


class _List(msgspec.Struct):
    metadata: Meta = Meta()
    items: list[Slice] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Bookmark(msgspec.Struct):
    metadata: Meta = Meta()


_lists, _events = msgspec.json.Decoder(_List), msgspec.json.Decoder(_Event)
_slices, _statuses, _bookmarks = msgspec.json.Decoder(Slice), msgspec.json.Decoder(_Status), msgspec.json.Decoder(_Bookmark)


class Api:
    """The one question that we ask of a cluster, through the official client. Every method blocks and raises Trouble."""

    def __init__(self, namespace: str = "") -> None:
        try:
            # Loaded here and by name: it takes seconds and 50 MB, which only who discovers should pay. urllib3 is the client's own; its
            # errors are what the client lets through.
            self._client = importlib.import_module("kubernetes.client")
            self._config = importlib.import_module("kubernetes.config")
            http = importlib.import_module("urllib3.exceptions")
        except ImportError:
            raise Trouble(_MISSING, lasting=True) from None
        self._refused = self._client.ApiException
        self._errors = (http.HTTPError, self._config.ConfigException, OSError, ValueError)
        self._session: Any = None
        try:
            self.namespace = namespace
            settings = self._settings()
        except self._errors as e:
            raise Trouble(f"there is no way to the Kubernetes API: {_line(e)}") from None
        except (yaml.YAMLError, LookupError, TypeError, AttributeError) as e:  # nothing of what it says: a kubeconfig holds secrets
            raise Trouble(f"there is no way to the Kubernetes API: the kubeconfig cannot be read ({type(e).__name__})") from None
        settings.retries = False  # they are ours
        settings.keep_alive = True  # or a peer that is gone is noticed after minutes
        self._session = self._client.ApiClient(settings)
        self._slices = self._client.DiscoveryV1Api(self._session)

    def _settings(self) -> Any:
        """Of the cluster that we are in, unless $KUBECONFIG or its absence says otherwise; also fills in our namespace."""
        settings = self._client.Configuration()
        if "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
            self._config.load_incluster_config(client_configuration=settings)
            if not self.namespace:
                self.namespace = (_ACCOUNT / "namespace").read_text("ascii").strip()
            return settings
        file = os.environ.get("KUBECONFIG")
        self._config.load_kube_config(config_file=file, client_configuration=settings, persist_config=False)
        if not self.namespace:
            _, context = self._config.list_kube_config_contexts(config_file=file)
            self.namespace = context["context"].get("namespace") or "default"
        return settings

    def ask(self, service: Service, *, read_seconds: float, **more: Any) -> Any:
        """A list or a watch of the Service's slices: urllib3's response, not read yet, to be closed."""
        try:
            return self._slices.list_namespaced_endpoint_slice(
                self.namespace, label_selector=f"kubernetes.io/service-name={service.name}", _preload_content=False,
                _request_timeout=(CONNECT_SECONDS, read_seconds), **more,
            )  # fmt: skip
        except self._refused as e:
            raise self._why(e) from None
        except self._errors as e:
            raise Trouble(f"the Kubernetes API cannot be asked: {_line(e)}") from None

    def _why(self, e: Any) -> Trouble:
        if e.status == 410:
            return Gone("the Kubernetes API has forgotten the version that was watched")
        if e.status == 403:
            return Trouble(
                "the Kubernetes API does not allow it (403): give the gateway's service account get, list and watch on endpointslices "
                f"(discovery.k8s.io) in the namespace {self.namespace}"
            )
        if e.status == 401:
            return Trouble("the Kubernetes API does not know the gateway's credentials (401)")
        return Trouble(f"the Kubernetes API answered {e.status}" if e.status else f"the Kubernetes API cannot be asked: {_line(e)}")

    def read(self, response: Any) -> bytes:
        """The whole body of an answer, bounded."""
        try:
            body: bytes = response.read(PAGE_MAX + 1)
        except self._errors as e:
            raise Trouble(f"the Kubernetes API broke off its answer: {_line(e)}") from None
        if len(body) > PAGE_MAX:
            raise Trouble(f"the Kubernetes API gave more than {PAGE_MAX >> 20} MiB at once")
        return body

    def lines(self, response: Any) -> Iterator[bytes]:
        """The lines of an answer as they come, bounded. Ends when the API ends the answer."""
        held = bytearray()
        try:
            for part in response.stream(1 << 16, decode_content=False):
                held += part
                if b"\n" not in part and len(held) <= LINE_MAX:
                    continue
                *whole, rest = held.split(b"\n")
                yield from map(bytes, filter(None, whole))
                held = rest
                if len(held) > LINE_MAX:
                    raise Trouble(f"the Kubernetes API sent an event of more than {LINE_MAX >> 20} MiB")
        except self._errors as e:
            raise Trouble(f"the watch was broken off: {_line(e)}") from None

    def close(self) -> None:
        """Closes its connections."""
        if self._session is not None:
            self._session.close()


def _line(e: Exception) -> str:
    """An error as part of a sentence: what went wrong, without the objects and addresses that libraries put around it."""
    cause = getattr(e, "reason", None)
    found = cause if isinstance(cause, Exception | str) else e
    text = " ".join(str(found).split()).rpartition(">: ")[2]
    return (text or type(e).__name__)[:300].rstrip(".")


class Follower:
    """Follows one Service until it is stopped. `tell` is called in the follower's thread, whenever what it knows is new.

    `connect` makes the way to the API, for a namespace; `draw`: in [0, 1); `base`: seconds of the first wait after a failure. All state
    belongs to the thread, but for what stops it.
    """

    def __init__(
        self, service: Service, tell: Callable[[Seen], None], *, connect: Callable[[str], Api] = Api,
        draw: Callable[[], float] = random.random, base: float = BASE_SECONDS,
    ) -> None:  # fmt: skip
        self.service, self.tell = service, tell
        self._connect, self._draw, self._base = connect, draw, base
        self._known: dict[str, Slice] = {}  # by name
        self._seen = Seen()
        self._failures = 0  # in a row
        self._over = threading.Event()
        self._lock = threading.Lock()  # over what `stop` interrupts
        self._response: Any = None
        self._thread = threading.Thread(target=self._run, name=f"endpoints of {service}"[:60], daemon=True)

    def start(self) -> None:
        """Begins to follow. Returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it: a watch is broken off, a question that is under way is not waited for. Returns at once. Idempotent."""
        self._over.set()
        with self._lock:
            if self._response is not None:
                _break(self._response)

    def join(self, seconds: float) -> None:
        """Waits for the thread's end. Blocks."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    # --- the thread
    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._session()
                continue
            except Trouble as e:
                trouble = type(e)(str(e), lasting=e.lasting)  # without what it came of, which would keep the connection open
            except Exception:
                log.exception("a bug: the endpoints of %s", self.service)
                trouble = Trouble("the gateway failed; its log says why")
            if self._over.is_set():
                return
            if not isinstance(trouble, Gone):
                self._say(Seen(self._seen.found, str(trouble)))
            if trouble.lasting:
                return
            self._failures += 1
            most = min(CAP_SECONDS, self._base * 2 ** min(self._failures - 1, 16))
            self._over.wait(most * (0.5 + 0.5 * self._draw()))

    def _session(self) -> None:
        """One list, and watches for as long as they last. Returns when stopped."""
        api = self._connect(self.service.namespace)
        try:
            version = self._list(api)
            while not self._over.is_set():
                version = self._watch(api, version)
        finally:
            api.close()

    def _list(self, api: Api) -> str:
        """Learns all slices anew; the version that they are of."""
        known: dict[str, Slice] = {}
        more: dict[str, Any] = {}
        while True:
            with self._asking(api, READ_SECONDS, limit=PAGE, **more) as response:
                page = _decoded(_lists, api.read(response))
            known.update((one.metadata.name, one) for one in page.items or ())
            if len(known) > SLICES_MAX:
                raise Trouble(f"the Service has more than {SLICES_MAX} EndpointSlices")
            if not page.metadata.continue_ or self._over.is_set():
                break
            more = {"_continue": page.metadata.continue_}
        self._known = known
        self._changed()
        return page.metadata.resource_version

    def _watch(self, api: Api, version: str) -> str:
        """Follows one watch to its end; the version to go on from."""
        seconds = round(WATCH_SECONDS[0] + (WATCH_SECONDS[1] - WATCH_SECONDS[0]) * self._draw())
        asked = {"watch": True, "allow_watch_bookmarks": True, "resource_version": version, "timeout_seconds": seconds}
        began, events = time.monotonic(), 0
        with self._asking(api, seconds + READ_SECONDS, **asked) as response:
            for line in api.lines(response):
                version = self._take(_decoded(_events, line)) or version
                events += 1
                self._failures = 0
        if not events and time.monotonic() - began < LEAST_SECONDS and not self._over.is_set():
            raise Trouble("the Kubernetes API ends every watch at once")
        return version

    def _take(self, event: _Event) -> str:
        """What one event says; the version that it is of."""
        if event.type == "ERROR":
            status = _decoded(_statuses, event.object)
            if status.code == 410:
                raise Gone("the Kubernetes API has forgotten the version that was watched")
            raise Trouble(f"the Kubernetes API ended the watch: {' '.join(status.message.split())[:300] or status.code}")
        if event.type == "BOOKMARK":
            return _decoded(_bookmarks, event.object).metadata.resource_version
        if event.type not in ("ADDED", "MODIFIED", "DELETED"):
            raise Trouble("the Kubernetes API sent an event of an unknown type")
        one = _decoded(_slices, event.object)
        if event.type == "DELETED":
            self._known.pop(one.metadata.name, None)
        else:
            self._known[one.metadata.name] = one
        if len(self._known) > SLICES_MAX:
            raise Trouble(f"the Service has more than {SLICES_MAX} EndpointSlices")
        self._changed()
        return one.metadata.resource_version

    def _changed(self) -> None:
        self._say(Seen(endpoints(self._known.values(), self.service)))

    def _say(self, seen: Seen) -> None:
        if seen != self._seen and not self._over.is_set():
            self._seen = seen
            self.tell(seen)

    def _asking(self, api: Api, seconds: float, **more: Any) -> _Asking:
        return _Asking(self, api.ask(self.service, read_seconds=seconds, **more))

    def hold(self, response: Any) -> None:
        """The answer that is being read from now on, which `stop` breaks off; None: there is none."""
        with self._lock:
            self._response = response
            if response is not None and self._over.is_set():
                _break(response)


class _Asking:
    """An answer while it is read. A context; closes it."""

    def __init__(self, follower: Follower, response: Any) -> None:
        self._follower, self._response = follower, response

    def __enter__(self) -> Any:
        self._follower.hold(self._response)
        return self._response

    def __exit__(self, *_: object) -> None:
        self._follower.hold(None)
        self._response.close()
        self._response.release_conn()


def _break(response: Any) -> None:
    """Wakes the thread that reads an answer, from another one: closing it would wait for that thread."""
    try:
        response.shutdown()  # of urllib3 from 2.3 on
    except (OSError, ValueError, RuntimeError, AttributeError):
        return  # it has ended by itself


def _decoded(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise Trouble(f"the Kubernetes API sent what is no EndpointSlice: {e}") from None
