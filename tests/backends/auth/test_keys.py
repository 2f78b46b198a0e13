"""Keys as header lines, and that nothing but the line shows them."""

from __future__ import annotations

import pytest

from backends.auth.keys import ApiKey, Bearer, Nothing

KEY = "sk-canary-0123456789abcdef"


def test_the_lines() -> None:
    assert Bearer(KEY).lines("POST", "/v1/x", b"{}") == f"authorization: Bearer {KEY}\r\n".encode()
    assert ApiKey("x-goog-api-key", KEY).lines("POST", "/", b"") == f"x-goog-api-key: {KEY}\r\n".encode()
    both = ApiKey("x-api-key", KEY, (("anthropic-version", "2023-06-01"),)).lines("POST", "/", b"")
    assert both == f"x-api-key: {KEY}\r\nanthropic-version: 2023-06-01\r\n".encode()
    assert Nothing().lines("POST", "/", b"") == b""


def test_they_need_no_start_and_no_end() -> None:
    key = Bearer(KEY)
    key.start()
    key.close()
    assert key.lines("GET", "/", b"")


@pytest.mark.parametrize("key", ["", "a\nb", "a\r\nx-evil: 1", "a\0b", "schlüssel-€"])
def test_what_no_header_may_hold_is_refused_without_telling_it(key: str) -> None:
    for make in (Bearer, lambda value: ApiKey("api-key", value)):
        with pytest.raises(ValueError, match="is it the key") as e:
            make(key)
        assert not key or key not in str(e.value)


def test_no_repr_shows_a_key() -> None:
    assert [repr(one) for one in (Bearer(KEY), ApiKey("api-key", KEY), Nothing())] == ["<Bearer>", "<ApiKey api-key>", "<Nothing>"]
