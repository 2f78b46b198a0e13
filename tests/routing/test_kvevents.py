"""KV events: every encoding to one meaning, and a publisher followed through gaps, restarts, silence and nonsense."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import kvevents as kv
from routing.kvevents import BadEvents, Cleared, Feed, Need, Removed, Stored, decode, read_frames, replay_request
from routing.prefix import PrefixIndex, salted, token_blocks

pack = msgspec.msgpack.encode
TOKENS = list(range(16))


def stored(hashes: list[Any], tokens: list[int], parent: Any = None, size: int = 16, **more: Any) -> dict[str, Any]:
    return {
        "type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "token_ids": tokens, "block_size": size,
        "lora_id": None, "medium": "GPU", "lora_name": None, **more,
    }  # fmt: skip


def batch(*events: Any, ts: float = 1.0) -> bytes:
    return pack([ts, list(events)])


def feed(replay: bool = False, size: int = 32) -> Feed:
    return Feed(0, PrefixIndex(2), PrefixIndex(2), "m", size, replay)


def cached(f: Feed, tokens: list[int], root: int | None = None, size: int = 32) -> int:
    return f.device.index.match(token_blocks(tokens, salted("m", "", "") if root is None else root, size))[0] * size


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
    assert list(found.events) == [Stored([7], None, TOKENS, 16, True, "", "", (), 0, "")]
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
        (batch(stored([1.5], TOKENS)), "neither a number nor bytes"),
        (batch(stored([1], TOKENS, parent="x")), "neither a number nor bytes"),
        (batch(["BlockRemoved", None]), "no list"),
        (batch(stored([1, 2], TOKENS)), "2 blocks need"),
        (batch(stored([1], TOKENS, size=0)), "need `block_size`"),
        (batch(*[["Tick"]] * (kv.EVENTS_MAX + 1)), "at most"),
    ],
)
def test_what_is_no_batch_is_refused_in_a_sentence(payload: bytes, says: str) -> None:
    with pytest.raises(BadEvents, match=says):
        decode(payload)


def test_a_batch_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv, "PAYLOAD_MAX", 10)
    with pytest.raises(BadEvents, match="at most 10"):
        decode(batch(stored([1], TOKENS)))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(payload: bytes) -> None:
    f = feed()
    f.message(0, payload)
    f.device.index.check()


def test_frames_of_messages_and_of_replays() -> None:
    assert read_frames([b"topic", (5).to_bytes(8, "big"), b"x"]) == (5, b"x")
    assert read_frames([b"", b"topic", (5).to_bytes(8, "big"), b"x"]) == (5, b"x")
    assert read_frames([b"", b"", b"\xff" * 8, b""]) == (kv.END_OF_REPLAY, b"")
    assert replay_request(258) == b"\0\0\0\0\0\0\x01\x02"
    for bad in ([b"x"], [b"1234", b"x"]):
        with pytest.raises(BadEvents, match="sequence number"):
            read_frames(bad)


def test_engine_blocks_make_up_ours_across_events() -> None:
    f, tokens = feed(), list(range(100, 180))
    f.message(0, batch(stored([1], tokens[:16])))
    assert f.live and cached(f, tokens) == 0  # half of one of ours
    f.message(1, batch(stored([2, -3], tokens[16:48], parent=1)))
    assert cached(f, tokens) == 32
    f.message(2, batch(stored([4, 5], tokens[48:80], parent=2**64 - 3)))
    assert cached(f, tokens) == 64
    f.message(3, batch(["BlockRemoved", [5]]))
    assert cached(f, tokens) == 64  # ends in the middle of a block of ours
    f.message(4, batch({"type": "BlockRemoved", "block_hashes": [4, 99]}))
    assert cached(f, tokens) == 32
    f.message(5, batch(["AllBlocksCleared"]))
    assert cached(f, tokens) == 0 and f.device.index.counts == [0, 0]


def test_engine_blocks_larger_than_ours() -> None:
    f, tokens = feed(), list(range(128))
    f.message(0, batch(stored([1, 2], tokens, size=64)))
    assert cached(f, tokens) == 128
    f.message(1, batch(["BlockRemoved", [2]]))
    f.message(2, batch(["BlockRemoved", [1]]))
    assert f.device.index.counts == [0, 0]


def test_salts_adapters_and_images_lead_to_other_chains() -> None:
    f, tokens = feed(), list(range(32))
    f.message(0, batch(stored([1, 2], tokens, extra_keys=[["s"], None])))
    f.message(1, batch(stored([3, 4], tokens, lora_name="l", extra_keys=[["l"], ["l"]])))
    assert cached(f, tokens) == 0
    assert cached(f, tokens, salted("m", "", "s")) == 32
    assert cached(f, tokens, salted("m", "l", "")) == 32
    f.message(2, batch(stored([5, 6], tokens, extra_keys=[[["img", 0]], None])))
    assert cached(f, tokens) == 0


def test_lower_tiers_are_kept_apart_and_may_continue_device_blocks() -> None:
    f, tokens = feed(), list(range(64))
    f.message(0, batch(stored([1, 2], tokens[:32]), stored([3, 4], tokens[32:], parent=2, medium="CPU")))
    assert cached(f, tokens) == 32 and f.lower.index.counts == [1, 0]
    f.message(1, batch(["BlockRemoved", [3, 4], "CPU"]))
    assert cached(f, tokens) == 32 and f.lower.index.counts == [0, 0]


def test_groups_without_full_attention_are_passed_over() -> None:
    f, tokens = feed(), list(range(32))
    f.message(0, batch(stored([1, 2], tokens, group_idx=1, kv_cache_spec_kind="sliding_window")))
    assert cached(f, tokens) == 0
    f.message(1, batch(stored([1, 2], tokens, group_idx=0, kv_cache_spec_kind="full_attention"), stored([8, 9], tokens, group_idx=1)))
    f.message(2, batch(["BlockRemoved", [1, 2], "GPU", 1]))
    assert cached(f, tokens) == 32


def test_orphans_and_impossible_tokens_are_counted_not_guessed() -> None:
    f = feed()
    f.message(0, batch(stored([2, 3], list(range(32)), parent=1), stored([5, 6], [-1] * 32)))
    assert (f.orphans, f.skipped, f.device.index.counts) == (1, 1, [0, 0])


def test_a_gap_is_filled_by_replay_in_order() -> None:
    f, tokens = feed(replay=True), list(range(96))
    parts = [batch(stored([2 * k + 1, 2 * k + 2], tokens[32 * k : 32 * k + 32], parent=2 * k or None), ts=k) for k in range(3)]
    assert f.message(0, parts[0]) is None
    assert f.message(2, parts[2]) == Need(1)
    assert f.message(3, batch(ts=3)) is None  # kept back
    f.replayed([(0, parts[0]), (1, parts[1]), (2, parts[2]), (kv.END_OF_REPLAY, b"")])
    assert cached(f, tokens) == 96
    assert (f.expected, f.gaps, f.orphans) == (4, 1, 0)


def test_a_late_start_asks_for_everything_and_goes_on_when_nothing_comes() -> None:
    f = feed(replay=True)
    assert f.message(7, batch(stored([1, 2], list(range(32))))) == Need(0)
    f.replayed(())
    assert cached(f, list(range(32))) == 32 and f.expected == 8


def test_a_replay_that_never_comes_holds_back_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv, "HELD_MAX", 2)
    f = feed(replay=True)
    f.message(5, batch())
    f.message(6, batch())
    assert f.expected is None
    assert f.message(7, batch()) is None
    assert f.expected == 8


def test_without_replay_a_gap_is_counted_and_what_follows_is_taken() -> None:
    f = feed()
    f.message(0, batch(stored([1, 2], list(range(32)))))
    assert f.message(5, batch(ts=2.0)) is None
    assert (f.gaps, f.expected) == (1, 6) and cached(f, list(range(32))) == 32


def test_a_restart_forgets_and_a_late_copy_does_not() -> None:
    f, tokens = feed(), list(range(32))
    f.message(0, batch(stored([1, 2], tokens), ts=10.0))
    f.message(1, batch(ts=11.0))
    f.message(0, batch(stored([1, 2], tokens), ts=10.0))
    assert (f.restarts, f.expected) == (0, 2) and cached(f, tokens) == 32
    f.message(0, batch(ts=20.0))
    assert (f.restarts, f.expected) == (1, 1) and cached(f, tokens) == 0
    f.message(1, batch(ts=21.0))
    late = feed(replay=True)
    late.message(0, batch(ts=1.0))
    late.message(1, batch(ts=2.0))
    late.message(2, batch(ts=3.0))
    assert late.message(1, batch(ts=9.0)) == Need(0)  # the first one after the restart was missed


def test_hits_that_no_event_explains_end_the_belief() -> None:
    f = feed()
    assert f.state == "waiting" and not f.live
    assert [f.hit(64, 0) for _ in range(kv.SILENT_HITS + 1)] == [False] * (kv.SILENT_HITS - 1) + [True, False]
    assert f.state == "silent" and "publisher" in f.reason
    f.message(0, batch())
    assert f.live and f.reason == ""
    assert not any(f.hit(64, 64) for _ in range(100))  # as predicted: no event is due


def test_unreadable_batches_end_the_belief_until_a_good_one() -> None:
    f, tokens = feed(), list(range(32))
    f.message(0, batch(stored([1, 2], tokens)))
    f.message(1, b"\xc1")
    assert f.live
    for seq in range(2, 2 + kv.BAD_MAX):
        f.message(seq, b"\xc1")
    assert f.state == "broken" and "cannot be read" in f.reason and cached(f, tokens) == 0
    f.replayed([(1, b"\xc1")])
    f.message(9, batch())
    assert f.live


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv, "LINKS_MAX", 4)
    f = feed()
    for k in range(10):
        f.message(k, batch(stored([2 * k, 2 * k + 1], [k] * 32)))
    assert len(f.device.links) == 4 and f.device.index.counts == [2, 0]


def test_a_publisher_with_random_eviction_is_followed_exactly() -> None:
    rng, f, have, seq = random.Random(3), feed(size=16), dict[int, tuple[list[int], int]](), 0
    root = salted("m", "", "")
    for _ in range(400):
        leaves = [h for h in have if not any(p == h for _, p in have.values())]
        if have and rng.random() < 0.45:
            gone = rng.choice(leaves)
            del have[gone]
            event: Any = ["BlockRemoved", [gone - 2**63]]
        else:
            parent = rng.choice([0, *have])
            path = have[parent][0] if parent else []
            more = [rng.randrange(3)] * 16
            same = next((h for h, (p, _) in have.items() if p == path + more), None)
            name = same or rng.getrandbits(62) + 1
            have[name] = (path + more, parent)
            event = ["BlockStored", [name - 2**63], parent - 2**63 if parent else None, more, 16, None]
        f.message(seq, batch(event, ts=float(seq)))
        seq += 1
        assert set(f.device.index.masks) == {token_blocks(path, root, 16)[-1] for path, _ in have.values()}
    f.device.index.check()
