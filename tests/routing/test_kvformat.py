"""KV events on the wire: every encoding to one meaning, and nonsense refused in a sentence."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import kvformat
from routing.kvformat import BadEvents, Cleared, Removed, Stored, decode
from tests.routing.kvmade import TOKENS, batch, pack, stored

RAW = array("I", TOKENS).tobytes()


@pytest.mark.parametrize(
    "payload",
    [
        pack([1.5, [["BlockStored", [7], None, TOKENS, 16, None]]]),  # vLLM 0.10, SGLang 0.4: arrays, defaults left out
        pack([1.5, [["BlockStored", [7], None, TOKENS, 16, None, "GPU", None, None, None, None, None]], 0]),
        pack([1.5, [stored([7], TOKENS)], 0]),  # vLLM 0.26, SGLang since: maps in an array
        pack({"ts": 1.5, "events": [stored([7], TOKENS)], "data_parallel_rank": 0}),
        pack([1.5, [{**stored([7], TOKENS), "unheard_of": {"x": 1}}, {"type": "BlockMoved", "to": 1}, ["Tick"]], None, "later"]),
    ],
)
def test_all_encodings_mean_the_same(payload: bytes) -> None:
    found = decode(payload)
    assert found.ts == 1.5
    assert list(found.events) == [Stored([7], None, RAW, 16, True, "", "", (), 0, "")]
    assert found.skipped in (0, 2)


def test_hashes_signed_unsigned_and_bytes() -> None:
    found = decode(batch(["BlockRemoved", [-1, 2**64 - 1, b"\x01" * 32], "CPU_PINNED"], ["AllBlocksCleared"], {"type": "AllBlocksCleared"}))
    assert list(found.events) == [Removed([2**64 - 1, 2**64 - 1, b"\x01" * 32], False, 0), Cleared(), Cleared()]


def test_extra_keys_are_told_apart() -> None:
    keys = [["adapter", ["img", 3], "salt", b"embeds"], None, [["img", -13]]]
    one = decode(batch(stored([1, 2, 3], TOKENS * 3, lora_name="adapter", extra_keys=keys))).events[0]
    assert isinstance(one, Stored)
    assert (one.lora, one.salt) == ("adapter", "salt")
    assert one.extra[1] == b"" and one.extra[0] != one.extra[2] != b""
    named = decode(batch(stored([1], TOKENS, cache_salt="own"))).events[0]
    assert isinstance(named, Stored) and named.salt == "own"


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"\xc1", "no msgpack"),
        (b"\x91" * 5000, "no msgpack"),
        (pack(7), "batch: neither"),
        (pack([1.0, "x"]), "needs a time"),
        (pack(["x", []]), "needs a time"),
        (batch(7), r"events\[0\]: neither"),
        (batch([]), r"events\[0\]: neither"),
        (batch(stored([1.5], TOKENS)), "neither a number nor at most 64 bytes"),
        (batch(stored([1], TOKENS, parent="x")), "neither a number nor at most 64 bytes"),
        (batch(["BlockRemoved", None]), "no list"),
        (batch(stored([1, 2], TOKENS)), "2 blocks need"),
        (batch(stored([1], TOKENS, size=0)), "need `block_size`"),
        (batch(*[["Tick"]] * (kvformat.EVENTS_MAX + 1)), "at most"),
    ],
)
def test_what_is_no_batch_is_refused_in_a_sentence(payload: bytes, says: str) -> None:
    with pytest.raises(BadEvents, match=says):
        decode(payload)


def test_a_batch_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvformat, "PAYLOAD_MAX", 10)
    with pytest.raises(BadEvents, match="at most 10"):
        decode(batch(stored([1], TOKENS)))


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=80),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8) | st.integers(0, 9), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "medium", "lora_name", "extra_keys", "group_idx", "cache_salt")


@given(st.binary(max_size=200) | SHAPES.map(pack))
def test_bytes_of_any_kind_are_a_batch_or_refused(payload: bytes) -> None:
    try:
        decode(payload)
    except BadEvents as e:
        assert len(str(e)) < 400


@given(st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared"]), st.dictionaries(st.sampled_from(FIELDS), SHAPES))
def test_events_of_any_fields_are_read_or_refused(kind: str, fields: dict[str, Any]) -> None:
    usual = stored([1, 2], TOKENS * 2)
    for event in ({**usual, **fields, "type": kind}, [kind, *fields.values()]):
        try:
            decode(batch(event))
        except BadEvents as e:
            assert "events[0]" in str(e)
