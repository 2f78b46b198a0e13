"""What a head that was learned takes for a whole message: one whose length is written as it must be, whatever came before it."""

from __future__ import annotations

import random

from backends.heads import DECIMALS, MAX_LEARNED, Known, learn

HEAD = b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: %b\r\nC: d\r\n\r\n"


def known() -> Known:
    found = learn(HEAD % b"3", {b"a": b"b", b"content-length": b"3", b"c": b"d"})
    assert found is not None and found.fields == {b"a": b"b", b"c": b"d"}
    return found


def message(size: int, number: bytes | None = None) -> bytes:
    return HEAD % (b"%d" % size if number is None else number) + b"x" * size


def test_messages_of_every_length_in_any_order() -> None:
    one, sizes = known(), [*range(1200), 9_998, 9_999, 10_000, 10_001, *range(DECIMALS - 8, DECIMALS + 8), 123_456, 1_000_000]
    random.Random(1).shuffle(sizes)
    short = 0
    for size in sizes:
        body = one.body(message(size))
        short += body is None  # of a very short one after a long one, which is the parser's
        assert body in (b"x" * size, None) and (body is not None or size < 10)
        assert one.body(message(size)) in (b"x" * size, None)
    assert short < 10
    for size in sizes:  # alone, each is one
        assert known().body(message(size)) == b"x" * size


def test_an_empty_body_after_longer_ones() -> None:
    for size in (5, 50, 500):
        one = known()
        assert one.body(message(size)) == b"x" * size
        assert one.body(message(0)) == b""


def test_a_length_that_is_not_the_message_s() -> None:
    for size in (0, 1, 8, 9, 10, 11, 98, 99, 100, 101, 998, 999, 1000, 1001, 8190, 8191, 8192, 9999, 10_000):
        for digits in (1, 2, 3, 4, 5):
            one = known()
            assert one.body(message(10 ** (digits - 1))) is not None and one.digits == digits
            wrong = [b"%d" % n for n in (size - 1, size + 1, size + 10, size * 10, size // 10) if n != size]
            odd = [form % size for form in (b"0%d", b"+%d", b" %d", b"%d ", b"-%d")]
            for number in (*wrong, *odd, b"%x" % (size + 10), b"", b"\0"):
                assert one.body(message(size, number)) is None, (size, digits, number)


def test_what_is_no_such_message_at_all() -> None:
    one, whole = known(), message(10)
    assert one.body(b"") is None and one.body(b"x") is None
    for at in range(len(whole)):
        assert one.body(whole[:at]) is None
    assert one.body(whole + b"x") is None
    for at in range(len(whole) - 10):  # another byte anywhere in the head
        assert one.body(whole[:at] + b"?" + whole[at + 1 :]) is None


def test_a_head_as_long_as_can_be_and_less_than_all_of_it() -> None:
    for size in range(MAX_LEARNED - 10, MAX_LEARNED + 1):
        pad = size - len(b"HTTP/1.1 200 OK\r\nA: \r\ncontent-length: 3\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nA: " + b"b" * pad + b"\r\ncontent-length: %b\r\n\r\n"
        one = learn(head % b"3", {b"content-length": b"3"})
        assert one is not None
        for digits in (1, 2, 3, 4, 5, 6):
            long = 10 ** (digits - 1)
            assert one.body(head % (b"%d" % long) + b"x" * long) == b"x" * long and one.digits == digits
            for data in (b"", b"x", head[:10], head[:-1] % b"3", head % b"3"):
                assert one.body(data) is None
                assert one.body(head % (b"%d" % long) + b"x" * long) == b"x" * long


def test_a_head_that_is_longer_is_not_learned() -> None:
    assert learn(b"x" * MAX_LEARNED + HEAD % b"3", {b"content-length": b"3"}) is None
