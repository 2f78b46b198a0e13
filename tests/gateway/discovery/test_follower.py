"""The follower with the official client, against an API server on real sockets."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest

from gateway.discovery import kubernetes
from gateway.discovery.kubernetes import Api, Follower, Seen, Trouble
from gateway.discovery.slices import Endpoint, Found, Service
from tests.fakes.kubernetes import DEADLINE, Cluster, ending, endpoint, port, slice_of, status
from tests.gateway.discovery.following import REASON, following, hosts, way_to

pytest.importorskip("kubernetes", reason=REASON)
SERVICE = Service("models", "vllm", None, "/v1")


def pods(*numbers: int, name: str = "vllm-a", gone: int = 0) -> dict[str, object]:
    found = [endpoint(f"10.0.0.{i}", pod=f"p{i}") for i in numbers]
    return slice_of(name, "vllm", [*found, *([ending(f"10.0.0.{gone}", pod=f"p{gone}")] if gone else [])], [port(8000)])


def test_a_list_and_what_happens_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster() as cluster:
        way_to(cluster, tmp_path, monkeypatch)
        cluster.put(pods(1, 2), pods(9, name="other") | {"metadata": {"name": "other", "labels": {"kubernetes.io/service-name": "x"}}})
        with following(SERVICE) as heard:
            assert heard.next() == Seen(Found((Endpoint("http://10.0.0.1:8000/v1"), Endpoint("http://10.0.0.2:8000/v1"))))
            cluster.put(pods(2, 3, gone=1))
            assert hosts(heard.next()) == ["10.0.0.2", "10.0.0.3"]
            cluster.put(pods(4, name="vllm-b"))
            assert hosts(heard.next()) == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
            cluster.delete("vllm-a")
            assert hosts(heard.next()) == ["10.0.0.4"]
            cluster.delete("vllm-b")
            assert heard.next() == Seen(Found())
        assert len(cluster.watches()) == 1 and cluster.watches()[0]["allowWatchBookmarks"].lower() == "true"
        assert kubernetes.WATCH_SECONDS[0] <= int(cluster.watches()[0]["timeoutSeconds"]) <= kubernetes.WATCH_SECONDS[1]


def test_a_list_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster() as cluster:
        way_to(cluster, tmp_path, monkeypatch)
        cluster.page = 2
        cluster.put(*(pods(i, name=f"s{i}") for i in range(1, 8)))
        with following(SERVICE) as heard:
            assert hosts(heard.next()) == [f"10.0.0.{i}" for i in range(1, 8)]
        assert [one.get("continue", "") for one in cluster.asked if "watch" not in one] == ["", "s2", "s4", "s6"]


def test_a_broken_watch_keeps_what_is_known_and_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster() as cluster:
        way_to(cluster, tmp_path, monkeypatch)
        cluster.put(pods(1))
        with following(SERVICE) as heard:
            first = heard.next()
            cluster.until_watched()
            cluster.refusals += [503, 429]
            cluster.cut()
            lost = heard.next()
            assert lost.found == first.found and lost.trouble.startswith("the watch was broken off: ")
            assert heard.next() == Seen(first.found, "the Kubernetes API answered 503")
            assert heard.next() == Seen(first.found, "the Kubernetes API answered 429")
            assert heard.next() == first
            cluster.put(pods(1, 2))
            assert hosts(heard.next()) == ["10.0.0.1", "10.0.0.2"]


def test_a_bookmark_says_from_where_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API ends a watch well; the next begins where the bookmark said, and no list is needed though all before is forgotten."""
    with Cluster() as cluster:
        way_to(cluster, tmp_path, monkeypatch)
        cluster.put(pods(1))
        meta = {"metadata": {"resourceVersion": "4000"}}
        cluster.utter(json.dumps({"type": "BOOKMARK", "object": meta}).encode() + b"\n\n")
        with following(SERVICE) as heard:
            heard.next()
            with cluster.changed:
                assert cluster.changed.wait_for(lambda: len(cluster.watches()) == 2, DEADLINE)
            assert heard.told.empty(), heard.told.get()
        assert [one["resourceVersion"] for one in cluster.watches()] == ["101", "4000"]
        assert len(cluster.asked) == 3


@pytest.mark.parametrize("way", ["event", "status"])
def test_a_version_that_is_forgotten_needs_a_list(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster() as cluster:
        way_to(cluster, tmp_path, monkeypatch)
        cluster.put(pods(1))
        if way == "event":
            cluster.utter(json.dumps({"type": "ERROR", "object": status(410, "Expired", "too old resource version")}).encode() + b"\n")
        else:
            monkeypatch.setattr(cluster, "refusals", _Later([200, 410], cluster))
        with following(SERVICE) as heard:
            first = heard.next()
            cluster.until_watched()
            with cluster.changed:
                assert cluster.changed.wait_for(lambda: len([one for one in cluster.asked if "watch" not in one]) == 2, DEADLINE)
            cluster.put(pods(1, 2))
            assert hosts(heard.next()) == ["10.0.0.1", "10.0.0.2"], "nothing was said between: it was followed all the time"
        assert first.trouble == ""


class _Later(list[int]):
    """Refusals of which 200 is none."""

    def __init__(self, statuses: list[int], cluster: Cluster) -> None:
        super().__init__()
        self.statuses = statuses

    def __bool__(self) -> bool:
        return bool(self.statuses) and (self.statuses[0] != 200 or not self.statuses.pop(0))

    def pop(self, index: int = -1) -> int:  # type: ignore[override]
        return self.statuses.pop(0)


EVENT = json.dumps({"type": "ADDED", "object": {"metadata": {"name": "s", "resourceVersion": "7"}}}).encode()
BAD = {
    "no JSON": b"{nonsense\n", "half a line": EVENT[:30] + b"\n", "a list": b"[]\n", "no type": b'{"object": {}}\n',
    "an unknown type": b'{"type": "EXPLODED", "object": {}}\n', "no slice": b'{"type": "ADDED", "object": {"endpoints": 7}}\n',
    "no UTF-8": b'{"type": "ADDED", "object": {"metadata": {"name": "\xff\xfe"}}}\n',
    "an error": json.dumps({"type": "ERROR", "object": status(500, "InternalError", "etcd is\nill")}).encode() + b"\n",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_read_begins_anew(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster() as cluster:
        way_to(cluster, tmp_path, monkeypatch)
        cluster.put(pods(1))
        cluster.utter(BAD[what])
        with following(SERVICE) as heard:
            first = heard.next()
            trouble = heard.next()
            assert trouble.found == first.found and trouble.trouble and "\n" not in trouble.trouble
            assert heard.next() == first
            cluster.put(pods(2))
            assert hosts(heard.next()) == ["10.0.0.2"]


def test_an_event_without_end_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "LINE_MAX", 100_000)
    with Cluster() as cluster:
        way_to(cluster, tmp_path, monkeypatch)
        cluster.utter(b'{"type": "ADDED", "object": {"x": "', *[b"y" * 65536] * 3)
        with following(SERVICE) as heard:
            assert heard.until(lambda seen: bool(seen.trouble)).trouble.startswith("the Kubernetes API sent an event of more than")


def test_slices_and_pages_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "SLICES_MAX", 3)
    with Cluster() as cluster:
        way_to(cluster, tmp_path, monkeypatch)
        cluster.put(*(pods(i, name=f"s{i}") for i in range(1, 4)))
        with following(SERVICE) as heard:
            assert len(hosts(heard.next())) == 3
            cluster.put(pods(4, name="s4"))
            assert heard.next().trouble == "the Service has more than 3 EndpointSlices"
        monkeypatch.setattr(kubernetes, "PAGE_MAX", 1000)
        with following(SERVICE) as heard:
            assert heard.next() == Seen(None, "the Kubernetes API gave more than 0 MiB at once")


@pytest.mark.parametrize(
    ("code", "words"), [(401, "does not know the gateway's credentials"), (403, "in the namespace models"), (404, "answered 404")]
)
def test_who_is_refused_is_told_what_to_do(code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster() as cluster:
        way_to(cluster, tmp_path, monkeypatch)
        cluster.refusals.append(code)
        with following(SERVICE) as heard:
            seen = heard.next()
            assert seen.found is None and words in seen.trouble
            assert heard.next() == Seen(Found())


def test_a_new_token_is_used_when_the_old_one_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster() as cluster:
        file = way_to(cluster, tmp_path, monkeypatch)
        with following(SERVICE) as heard:
            assert heard.next() == Seen(Found())
            cluster.until_watched()
            cluster.tokens = {"the-next-token"}
            file.write_text(file.read_text().replace("a-token-of-a-service-account", "the-next-token"))
            cluster.cut()
            assert heard.next().trouble
            assert heard.next() == Seen(Found())


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster() as cluster:
        file = way_to(cluster, tmp_path, monkeypatch)
    with following(SERVICE) as heard:
        trouble = heard.next().trouble
        assert trouble.startswith("the Kubernetes API cannot be asked: ") and "refused" in trouble and " object at 0x" not in trouble
    file.write_text("clusters: [")
    with following(SERVICE) as heard:
        assert heard.next().trouble.startswith("there is no way to the Kubernetes API: ")
    file.unlink()
    with following(SERVICE) as heard:
        assert heard.next().trouble.startswith("there is no way to the Kubernetes API: ")


def test_the_namespace_of_the_context_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster() as cluster:
        way_to(cluster, tmp_path, monkeypatch)
        cluster.put(pods(1))
        with following(Service("", "vllm")) as heard:
            assert hosts(heard.next()) == ["10.0.0.1"]


def test_stop_ends_a_watch_at_once_and_a_wait_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster() as cluster:
        way_to(cluster, tmp_path, monkeypatch)
        with following(SERVICE) as heard:
            heard.next()
            cluster.until_watched()
        cluster.refusals.append(500)
        with following(SERVICE, base=3600.0) as heard:
            assert heard.next().trouble
    never = Follower(SERVICE, lambda seen: None)
    never.stop()
    never.join(0.0)


def test_waits_grow_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    follower = Follower(SERVICE, lambda seen: None, connect=_refused, draw=lambda: 1.0)

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 20:
            follower.stop()

    monkeypatch.setattr(follower._over, "wait", wait)
    follower._run()
    assert waits == [min(30.0, 0.5 * 2**i) for i in range(20)]


def _refused(namespace: str) -> Api:
    raise Trouble("no")


def test_a_bug_is_logged_and_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    again = threading.Event()

    def connect(namespace: str) -> Api:
        if again.is_set():
            raise Trouble("something else")
        again.set()
        raise KeyError("what nobody thought of")

    with caplog.at_level(logging.ERROR, "pointsman.discovery"), following(SERVICE, connect) as heard:
        assert heard.next().trouble == "the gateway failed; its log says why"
        assert heard.next().trouble == "something else"
    assert "a bug: the endpoints of models/vllm" in caplog.text
