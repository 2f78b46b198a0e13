"""AWS keys by botocore's own chain: environment, profile, and a container's credentials server on loopback."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from backends.auth import aws
from backends.auth.aws import Chain, bedrock
from backends.auth.keys import Bearer
from backends.auth.renewed import Unobtainable
from backends.auth.sigv4 import AwsKeys, SigV4
from backends.types import Fault
from tests.backends.auth.served import Asked, served

HOST = "bedrock-runtime.us-east-1.amazonaws.com"
LONG = 20.0  # seconds that nothing here takes


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No keys of the machine that runs the tests."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", raising=False)
    monkeypatch.delenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain("aws")
    for number in ("1", "2"):  # put in their place while we run: found, since keys without an end are looked for anew
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"AKID{number}")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"secret{number}")
        monkeypatch.setenv("AWS_SESSION_TOKEN", f"token{number}")
        assert chain() == (AwsKeys(f"AKID{number}", f"secret{number}", f"token{number}"), None)


def test_keys_of_a_profile(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = AKIDW\naws_secret_access_key = s\n")
    assert Chain("aws", "work")() == (AwsKeys("AKIDW", "s"), None)


def test_keys_of_a_container_with_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    end = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(hours=6)

    def answer(asked: Asked) -> tuple[int, bytes]:
        told = {"AccessKeyId": "AKIDC", "SecretAccessKey": "s", "Token": "t", "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ")}
        return 200, json.dumps(told).encode()

    with served(answer) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/keys")
        chain = Chain("aws")
        assert chain() == chain() == (AwsKeys("AKIDC", "s", "t"), end.timestamp())
        assert len(server.asked) == 1  # botocore asks again when they end soon, not before


def test_nothing_found_is_told_with_what_to_do() -> None:
    with pytest.raises(Unobtainable, match="'aws' has no AWS keys; set AWS_ACCESS_KEY_ID"):
        Chain("aws")()


def test_a_broken_profile_is_told_without_its_text(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile work]\ncredential_process = false canary-secret\n")
    with pytest.raises(Unobtainable, match=r"'aws' could not be obtained \(CredentialRetrievalError\); set") as e:
        Chain("aws", "work")()
    assert "canary" not in str(e.value)


def test_the_signer_signs_once_keys_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    seen: list[str] = []
    signer = bedrock("aws", "us-east-1", HOST, environ={}, on_change=lambda: seen.append("changed"))
    assert isinstance(signer, SigV4)
    with pytest.raises(Fault) as e:
        signer.lines("POST", "/x", b"{}")
    assert e.value.code == "credentials_pending"
    keys = signer._keys.__self__  # type: ignore[attr-defined]
    assert keys.wait(LONG)
    assert b"Credential=AKID/" in signer.lines("POST", "/x", b"{}")
    signer.start()
    signer.close()
    assert seen


def test_a_bedrock_key_comes_first() -> None:
    environ = {"AWS_BEARER_TOKEN_BEDROCK": "from-env"}
    written = bedrock("aws", "us-east-1", HOST, key="written", environ=environ)
    assert isinstance(written, Bearer)
    assert written.lines("POST", "/", b"") == b"authorization: Bearer written\r\n"
    assert bedrock("aws", "us-east-1", HOST, environ=environ).lines("POST", "/", b"") == b"authorization: Bearer from-env\r\n"
    assert isinstance(bedrock("aws", "us-east-1", HOST, profile="work", environ=environ), SigV4)  # a profile is asked for by name


def test_without_botocore_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"backend 'aws': signing for AWS needs .*pip install 'pointsman\[bedrock\]'"):
        bedrock("aws", "us-east-1", HOST, environ={})
