"""Signatures for AWS against AWS's published vector and botocore's own signer."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from hashlib import sha256
from unittest.mock import patch
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from backends.auth.sigv4 import AwsKeys, SigV4, canonical_request

UNIX = 1440938160.0  # 2015-08-30 12:36:00 UTC, as in AWS's test suite
KEYS = AwsKeys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
HOST = "bedrock-runtime.us-east-1.amazonaws.com"


def fields(lines: bytes) -> dict[str, str]:
    assert lines.endswith(b"\r\n")
    return dict(line.split(": ", 1) for line in lines.decode().split("\r\n")[:-1])


def by_botocore(method: str, url: str, body: bytes, keys: AwsKeys, service: str = "bedrock") -> dict[str, str]:
    request = AWSRequest(method, url, data=body, headers={"content-type": "application/json"})
    now = datetime.datetime.fromtimestamp(UNIX, datetime.UTC)
    with patch("botocore.auth.get_current_datetime", lambda: now):
        SigV4Auth(Credentials(keys.access_key, keys.secret_key, keys.token), service, "us-east-1").add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


def test_the_published_vector() -> None:
    """`get-vanilla` of AWS's Signature Version 4 test suite."""
    canonical = canonical_request("GET", "/", {"host": "example.amazonaws.com", "x-amz-date": "20150830T123600Z"}, b"")
    assert sha256(canonical.encode()).hexdigest() == "bb579772317eb040ac9ed261061d46c1f17a8133879d6129b6e1c25292927e63"


models = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1, max_size=60).map(lambda m: quote(m, safe=""))
queries = st.lists(st.tuples(st.sampled_from(["a", "b", "api-version", "A"]), st.sampled_from(["", "1", "x%20y", "é".encode().hex()])))


@given(models, queries, st.binary(max_size=200), st.none() | st.just("session//token=="))
def test_the_same_signature_as_botocore(model: str, query: list[tuple[str, str]], body: bytes, token: str | None) -> None:
    keys = AwsKeys(KEYS.access_key, KEYS.secret_key, token)
    path = f"/model/{model}/converse" + ("?" + "&".join(f"{name}={value}" for name, value in query) if query else "")
    ours = fields(SigV4("us-east-1", "bedrock", HOST, lambda: keys, clock=lambda: UNIX).lines("POST", path, body))
    theirs = by_botocore("POST", f"https://{HOST}{path}", body, keys)
    assert ours["authorization"] == theirs["authorization"]
    assert ours["x-amz-date"] == theirs["x-amz-date"]
    assert ours.get("x-amz-security-token") == theirs.get("x-amz-security-token")


@pytest.mark.parametrize("path", ["/", "/a//b/", "/a/./b", "/a/../b", "/..", "/a/", "//"])
def test_paths_that_are_not_plain(path: str) -> None:
    ours = fields(SigV4("us-east-1", "bedrock", HOST, lambda: KEYS, clock=lambda: UNIX).lines("POST", path, b""))
    assert ours["authorization"] == by_botocore("POST", f"https://{HOST}{path}", b"", KEYS)["authorization"]


def test_a_port_is_part_of_the_host() -> None:
    ours = fields(SigV4("us-east-1", "bedrock", "127.0.0.1:8443", lambda: KEYS, clock=lambda: UNIX).lines("POST", "/x", b"{}"))
    assert ours["authorization"] == by_botocore("POST", "https://127.0.0.1:8443/x", b"{}", KEYS)["authorization"]


def test_the_key_of_the_day_is_derived_once_and_anew_for_new_keys() -> None:
    keys = iter([KEYS, KEYS, AwsKeys("AKIDOTHER", "other"), KEYS])
    signer = SigV4("us-east-1", "bedrock", HOST, lambda: next(keys), clock=lambda: UNIX)
    first, again, other, back = (fields(signer.lines("POST", "/x", b""))["authorization"] for _ in range(4))
    assert first == again == back != other
    later = SigV4("us-east-1", "bedrock", HOST, lambda: KEYS, clock=lambda: UNIX + 86400)
    assert fields(later.lines("POST", "/x", b""))["authorization"] != first


def test_its_owner_starts_and_ends_the_keys() -> None:
    seen: list[str] = []
    signer = SigV4("r", "s", HOST, lambda: KEYS, on_start=lambda: seen.append("start"), on_close=lambda: seen.append("close"))
    signer.start()
    signer.close()
    assert seen == ["start", "close"]
    alone = SigV4("r", "s", HOST, lambda: KEYS)
    alone.start()
    alone.close()


@pytest.fixture
def secrets() -> Iterator[AwsKeys]:
    yield AwsKeys("AKIDCANARY", "canary-secret", "canary-token")


def test_no_repr_shows_a_secret(secrets: AwsKeys) -> None:
    shown = repr(secrets) + str(secrets) + repr(SigV4("us-east-1", "bedrock", HOST, lambda: secrets))
    assert "canary" not in shown.lower()
