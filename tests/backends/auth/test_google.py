"""Google's credentials by google-auth itself against a token server on loopback."""

from __future__ import annotations

import importlib
import json
import queue
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from backends.auth import google
from backends.auth.google import GoogleADC
from backends.types import Fault
from tests.backends.auth.served import Asked, served

LONG = 20.0  # seconds that nothing here takes


@pytest.fixture(scope="module")
def pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain).decode()


def account(folder: Path, pem: str, url: str, **more: str) -> str:
    """The file of a service account whose tokens come from `url`."""
    info = {
        "type": "service_account", "project_id": "p", "private_key_id": "1", "private_key": pem, "client_email": "x@p.example",
        "client_id": "1", "token_uri": f"{url}/token", **more,
    }  # fmt: skip
    path = folder / "account.json"
    path.write_text(json.dumps(info))
    return str(path)


def token(text: str, seconds: int = 3600) -> tuple[int, bytes]:
    return 200, json.dumps({"access_token": text, "expires_in": seconds, "token_type": "Bearer"}).encode()


def test_a_service_account(tmp_path: Path, pem: str) -> None:
    with served(lambda asked: token("ya29.canary")) as server:
        one = GoogleADC("vertex", file=account(tmp_path, pem, server.url))
        with pytest.raises(Fault) as e:
            one.lines("POST", "/x", b"")
        assert (e.value.kind, e.value.code, e.value.retry) == ("unavailable", "credentials_pending", True)
        assert one.token.wait(LONG)
        assert one.lines("POST", "/x", b"") == b"authorization: Bearer ya29.canary\r\n"
        assert "canary" not in repr(one) and "fresh" in repr(one)
        held = one.token._held
        assert held is not None and held[1] is not None
        assert 0 < held[1] - time.time() <= 3600
        one.close()
        path, _, body = server.asked[0]
        assert path == "/token"
        assert parse_qs(body.decode())["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]


def test_what_google_finds_by_itself(tmp_path: Path, pem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(lambda asked: token("adc")) as server:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", account(tmp_path, pem, server.url))
        monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")
        one = GoogleADC("vertex")
        one.start()
        assert one.token.wait(LONG)
        assert one.lines("POST", "/x", b"") == b"authorization: Bearer adc\r\nx-goog-user-project: payer\r\n"
        one.close()


def test_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `gcloud auth application-default login` leaves behind."""
    with served(lambda asked: token("user")) as server:
        path = tmp_path / "user.json"
        info = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
        monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{server.url}/token")
        path.write_text(json.dumps(info))
        one = GoogleADC("vertex", file=str(path))
        assert one.token.wait(LONG), one.token.problem
        assert one.lines("POST", "/x", b"") == b"authorization: Bearer user\r\n"
        one.close()
        assert parse_qs(server.asked[0][2].decode())["grant_type"] == ["refresh_token"]


def test_workload_identity(tmp_path: Path) -> None:
    """A token of another provider, in a file, exchanged for Google's."""
    (tmp_path / "subject").write_text("other-token")
    with served(lambda asked: (200, json.dumps({
        "access_token": "federated", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "token_type": "Bearer",
        "expires_in": 3600,
    }).encode())) as server:  # fmt: skip
        path = tmp_path / "external.json"
        info = {
            "type": "external_account", "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": f"{server.url}/v1/token",
            "credential_source": {"file": str(tmp_path / "subject")},
        }  # fmt: skip
        path.write_text(json.dumps(info))
        one = GoogleADC("vertex", file=str(path))
        assert one.token.wait(LONG), one.token.problem
        assert one.lines("POST", "/x", b"") == b"authorization: Bearer federated\r\n"
        one.close()


def test_a_token_is_renewed_while_the_old_one_serves(tmp_path: Path, pem: str) -> None:
    outcomes: queue.Queue[None] = queue.Queue()
    names = iter(["one", "two"])

    def answer(asked: Asked) -> tuple[int, bytes]:
        name = next(names)
        if name == "two":  # a renewal is under way: requests do not wait for it
            assert one.lines("POST", "/x", b"") == b"authorization: Bearer one\r\n"
        return token(name)

    with served(answer) as server:
        one = GoogleADC("vertex", file=account(tmp_path, pem, server.url), on_change=lambda: outcomes.put(None))
        one.start()
        outcomes.get(timeout=LONG)
        one.token.renew()
        outcomes.get(timeout=LONG)
        assert one.lines("POST", "/x", b"") == b"authorization: Bearer two\r\n"
        one.close()


def test_a_revoked_account_is_told_with_what_to_do(tmp_path: Path, pem: str) -> None:
    refusal = json.dumps({"error": "invalid_grant", "error_description": "canary-secret-text"}).encode()
    with served(lambda asked: (400, refusal)) as server:
        one = GoogleADC("vertex", file=account(tmp_path, pem, server.url))
        assert not one.token.wait(LONG)
        with pytest.raises(Fault) as e:
            one.lines("POST", "/x", b"")
        one.close()
    assert e.value.code == "credentials_failed"
    assert "'vertex' cannot be used (RefreshError invalid_grant); run 'gcloud auth application-default login'" in e.value.message
    assert "canary" not in e.value.message and "canary" not in repr(e.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "service_account"}', '{"type": "service_account", "private_key": "canary"}'])
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.json").write_text(text)
    one = GoogleADC("vertex", file=str(tmp_path / "file.json"))
    assert not one.token.wait(LONG)
    one.close()
    assert one.token.problem is not None and "cannot be used" in one.token.problem
    assert "canary" not in one.token.problem


def test_a_file_that_is_missing_or_too_large(tmp_path: Path) -> None:
    (tmp_path / "large.json").write_bytes(b" " * (1 << 20) + b" ")
    for name in ("missing.json", "large.json"):
        one = GoogleADC("vertex", file=str(tmp_path / name))
        assert not one.token.wait(LONG)
        assert one.token.state == "failed"
        one.close()


@pytest.mark.parametrize(
    ("info", "module"),
    [
        ({"type": "external_account", "credential_source": {"environment_id": "aws1"}}, "auth.aws"),
        ({"type": "external_account", "credential_source": {"executable": {}}}, "auth.pluggable"),
        ({"type": "external_account", "credential_source": {"url": "u"}}, "auth.identity_pool"),
        ({"type": "impersonated_service_account"}, "auth.impersonated_credentials"),
        ({"type": "authorized_user"}, "oauth2.credentials"),
    ],
)
def test_every_kind_of_file_has_a_class_of_googles(info: dict[str, Any], module: str) -> None:
    found, make = google._maker(info)
    assert found == module
    assert callable(getattr(importlib.import_module(f"google.{module}").Credentials, make))


@pytest.mark.parametrize("missing", ["google", "google.auth", "requests"])
def test_without_google_auth_it_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(ValueError, match=r"backend 'vertex': Google credentials need .*pip install 'pointsman\[vertex\]'"):
        GoogleADC("vertex")
