"""Who may call: keys by hash, and what pages of elsewhere must not do to a gateway without keys."""

from __future__ import annotations

import hashlib

import pytest

from backends.types import Fault
from gateway.auth import ANYONE, Door, Tenant, allowed, digest
from gateway.config import KeyConfig


def key(name: str, plain: str, routes: tuple[str, ...] | None = None, admin: bool = False) -> KeyConfig:
    return KeyConfig(name=name, hash="sha256:" + hashlib.sha256(plain.encode()).hexdigest(), routes=routes, admin=admin)


def refused(door: Door, headers: dict[bytes, bytes]) -> Fault:
    with pytest.raises(Fault) as caught:
        door.identify(headers)
    return caught.value


def test_a_key_is_known_by_its_hash_in_every_header_that_clients_use() -> None:
    door = Door([key("team", "s3cret", ("m",)), key("boss", "päss", admin=True)], (), ())
    assert door.locked
    bearer = b"authorization"
    for name, value in ((bearer, b"Bearer s3cret"), (bearer, b"bearer  s3cret "), (b"x-api-key", b"s3cret"), (b"api-key", b"s3cret")):
        assert door.identify({name: value}).name == "team"
    assert door.identify({b"x-api-key": "päss".encode()}).admin
    assert digest("s3cret") in door.tenants and "s3cret" not in repr(vars(door))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({b"authorization": b""}, "missing_api_key"),
        ({b"authorization": b"Bearer "}, "missing_api_key"),
        ({b"authorization": b"Basic czNjcmV0"}, "missing_api_key"),
        ({b"authorization": b"Bearer wrong"}, "invalid_api_key"),
        ({b"authorization": b"Bearer wrong", b"x-api-key": b"s3cret"}, "invalid_api_key"),
        ({b"x-api-key": b"wrong"}, "invalid_api_key"),
    ],
)
def test_no_key_and_wrong_keys(headers: dict[bytes, bytes], code: str) -> None:
    fault = refused(Door([key("team", "s3cret")], (), ()), headers)
    assert (fault.kind, fault.status, fault.code, fault.origin) == ("auth", 401, code, "client") and "wrong" not in fault.message


@pytest.mark.parametrize(
    ("host", "origin", "code"),
    [
        (b"127.0.0.1:8484", None, ""),
        (b"LOCALHOST", None, ""),
        (b"[::1]:8484", None, ""),
        (b"gpu.lan:1", None, ""),
        (b"localhost", b"http://localhost:3000", ""),
        (b"localhost", b"http://[::1]:3000", ""),
        (b"localhost", b"https://app.example", ""),
        (b"evil.example", None, "host_not_allowed"),
        (b"localhost.evil.example", None, "host_not_allowed"),
        (b"", None, "host_not_allowed"),
        (b"localhost", b"https://evil.example", "origin_not_allowed"),
        (b"localhost", b"https://app.example.evil", "origin_not_allowed"),
        (b"localhost", b"null", "origin_not_allowed"),
    ],
)
def test_without_keys_only_this_machines_pages(host: bytes, origin: bytes | None, code: str) -> None:
    door = Door([], ("GPU.lan",), ("https://app.example",))
    headers = {b"host": host} | ({} if origin is None else {b"origin": origin})
    if code:
        assert refused(door, headers).code == code
    else:
        assert door.identify(headers) is ANYONE and not door.locked
    assert not code or refused(Door([], (), ()), {b"origin": b"x"}).status == 403


def test_a_star_lets_every_origin_in_but_no_foreign_host() -> None:
    door = Door([], (), ("*",))
    assert door.identify({b"host": b"localhost", b"origin": b"https://any.example"}) is ANYONE
    assert refused(door, {b"host": b"evil.example", b"origin": b"https://any.example"}).code == "host_not_allowed"
    assert b"access-control-allow-origin: https://any.example\r\n" in door.cors({b"origin": b"https://any.example"})


def test_cors_lines() -> None:
    door = Door([], (), ("https://app.example",))
    assert door.cors({b"origin": b"https://app.example"}) == b"access-control-allow-origin: https://app.example\r\nvary: origin\r\n"
    assert door.cors({b"origin": b"https://other.example"}) == door.cors({}) == b""
    assert Door([], (), ()).cors({b"origin": b"https://app.example"}) == b""


def test_routes_of_a_tenant() -> None:
    assert allowed(ANYONE, "m") and allowed(Tenant("t", frozenset({"m"})), "m") and not allowed(Tenant("t", frozenset({"m"})), "n")
    assert not allowed(Tenant("t", frozenset()), "m")
