"""Inside a cluster: the service account's token and authority from their files, over TLS."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.discovery import kubernetes
from gateway.discovery.kubernetes import Follower, Seen
from gateway.discovery.slices import Found, Service
from tests.fakes import certs
from tests.fakes.kubernetes import TOKEN, Cluster, endpoint, port, slice_of
from tests.gateway.discovery.following import REASON, Following, following, hosts, way_to


def inside(cluster: Cluster, account: Path, authority: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes this process a pod of the cluster, as the kubelet does."""
    incluster = pytest.importorskip("kubernetes.config.incluster_config", reason=REASON)
    (account / "token").write_text(TOKEN)
    (account / "namespace").write_text("models\n")
    (account / "ca.crt").write_bytes(authority.read_bytes())
    patch.setattr(kubernetes, "_ACCOUNT", account)
    patch.setattr(incluster, "SERVICE_TOKEN_FILENAME", str(account / "token"))
    patch.setattr(incluster, "SERVICE_CERT_FILENAME", str(account / "ca.crt"))
    parts = urlsplit(cluster.url)
    patch.setenv("KUBERNETES_SERVICE_HOST", str(parts.hostname))
    patch.setenv("KUBERNETES_SERVICE_PORT", str(parts.port))
    patch.delenv("KUBECONFIG", raising=False)
    patch.setenv("no_proxy", "127.0.0.1")


def test_the_service_account_and_its_next_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = certs.make(tmp_path)
    account = tmp_path / "account"
    account.mkdir()
    with Cluster(files.server) as cluster:
        inside(cluster, account, files.authority, monkeypatch)
        cluster.put(slice_of("a", "vllm", [endpoint("10.0.0.1")], [port(8000)]))
        with following(Service("", "vllm")) as heard:
            assert hosts(heard.next()) == ["10.0.0.1"]
            cluster.until_watched()
            cluster.tokens = {"the-next-token"}
            (account / "token").write_text("the-next-token")
            cluster.cut()
            assert heard.next().trouble
            assert hosts(heard.next()) == ["10.0.0.1"]
            cluster.until_watched()
        (account / "token").unlink()
        with following(Service("", "vllm")) as heard:
            assert heard.next().trouble.startswith("there is no way to the Kubernetes API: ")


def test_whoever_has_another_authority_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kubernetes", reason=REASON)
    others = tmp_path / "others"
    others.mkdir()
    with Cluster(certs.make(tmp_path).server) as cluster:
        way_to(cluster, tmp_path, monkeypatch, authority=str(certs.make(others).authority))
        with following(Service("models", "vllm")) as heard:
            assert "certificate verify failed" in heard.next().trouble.lower().replace("_", " ")
        assert not cluster.asked


def test_a_follower_says_the_same_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kubernetes", reason=REASON)
    with Cluster() as cluster:
        way_to(cluster, tmp_path, monkeypatch)
        cluster.refusals += [500] * 5
        with following(Service("models", "vllm")) as heard:
            assert heard.next() == Seen(None, "the Kubernetes API answered 500")
            assert heard.next() == Seen(Found())


def test_without_the_client_it_says_what_to_install_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes.client", None)
    heard = Following()
    heard.follower = Follower(Service("models", "vllm"), heard.told.put)
    heard.follower.start()
    heard.follower.join(30.0)
    assert heard.next() == Seen(None, "the Python package `kubernetes` is not installed; run `pip install 'pointsman[kubernetes]'`")
    assert not heard.follower._thread.is_alive()
