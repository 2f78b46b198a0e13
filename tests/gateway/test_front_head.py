"""What the connection protocol reads of a head before any parser does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.front import HOT
from gateway.heads import status_line, without_h2c

LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"


def head(*lines: bytes) -> bytes:
    return LINE + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            (b"Host: h", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk", b"X: y"),
            (b"Host: h", b"Connection:", b"X: y"),
        ),
        ((b"connection: keep-alive, Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: A"), (b"connection: keep-alive",)),
        ((b"Connection: Upgrade, keep-alive", b"UPGRADE: H2C"), (b"Connection: keep-alive",)),
        ((b"Connection: Upgrade", b"Upgrade: websocket"), (b"Connection: Upgrade", b"Upgrade: websocket")),
        ((b"Connection: close", b"X: upgrade"), (b"Connection: close", b"X: upgrade")),
    ],
)
def test_an_offer_of_h2c_is_taken_out_and_nothing_else(before: tuple[bytes, ...], after: tuple[bytes, ...]) -> None:
    assert without_h2c(head(*before)) == head(*after)


names = st.sampled_from([b"Host", b"X-Upgrade-Me", b"Accept", b"Authorization"])
values = st.text("abcUPGRADEupgrade h2c,;=", max_size=20).map(str.encode)


@given(st.lists(st.tuples(names, values), max_size=6))
def test_other_heads_are_left_alone(fields: list[tuple[bytes, bytes]]) -> None:
    given_head = head(*(name + b": " + value for name, value in fields))
    assert without_h2c(given_head) == given_head


def test_status_lines() -> None:
    assert status_line(200) == b"HTTP/1.1 200 OK\r\n"
    assert status_line(499) == b"HTTP/1.1 499 Client Closed Request\r\n" and status_line(529).startswith(b"HTTP/1.1 529 ")
    assert status_line(599) == b"HTTP/1.1 599 Status\r\n"


def test_hot_paths_are_whole_request_lines() -> None:
    assert HOT[LINE] == "chat" and all(line.startswith(b"POST /v1/") and line.endswith(b" HTTP/1.1\r\n") for line in HOT)
