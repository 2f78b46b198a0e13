"""KV events: a publisher followed through gaps, replays, restarts, silence and nonsense."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import kvevents as kv
from routing import kvtier
from routing.kvevents import Feed, Need
from routing.prefix import PrefixIndex, salted, token_blocks
from tests.routing.kvmade import TOKENS, batch, cached, feed, stored


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(payload: bytes) -> None:
    f = feed()
    f.message(0, payload)
    f.device.index.check()


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


def test_blocks_of_one_name_are_counted_but_not_what_is_announced_again() -> None:
    f, tokens = feed(), list(range(64))
    f.message(0, batch(stored([1, 2], tokens[:32]), stored([3, 4], tokens[32:], parent=2)))
    f.message(1, batch(stored([3, 4], tokens[32:], parent=2), ts=2.0))  # computed twice at a time
    f.message(2, batch(stored([1, 2, 3, 4], tokens), ts=3.0))  # reported once more
    f.message(3, batch(["BlockRemoved", [4, 3]], ts=4.0))
    assert cached(f, tokens) == 64
    f.message(4, batch(["BlockRemoved", [4, 3]], ts=5.0))
    assert cached(f, tokens) == 32 and not f.device.copies
    f.message(5, batch(["BlockRemoved", [2, 1]], ts=6.0))
    assert f.device.index.counts == [0, 0]


def test_who_joins_late_is_believed_once_it_knows_the_roots() -> None:
    f = feed()
    for k in range(kv.ENOUGH):
        f.message(k, batch(stored([k], TOKENS, parent=10_000 + k), ts=k))
    assert f.state == "partial" and "before this gateway listened" in f.reason
    assert not f.hit(64, 0)
    seq = kv.ENOUGH
    while not f.live:
        f.message(seq, batch(stored([seq], TOKENS), ts=seq))
        seq += 1
    assert seq <= kv.ENOUGH + kv.WINDOW
    g = feed()
    for k in range(kv.ENOUGH):
        g.message(k, batch(stored([k], TOKENS, parent=10_000 + k), ts=k))
    g.message(kv.ENOUGH, batch(["AllBlocksCleared"], ts=99.0))
    assert g.live


@pytest.mark.parametrize(("error", "word"), [(-64, "fewer"), (64, "more")])
def test_predictions_that_are_wrong_too_often_end_the_belief(error: int, word: str) -> None:
    f, tokens = feed(), list(range(32))
    told = 0
    for k in range(kv.MISSES):
        f.message(k, batch(stored([k], tokens[:16]), ts=k))
        told += f.hit(100 + error, 100)
        if k < 4:
            f.hit(100, 100)  # each right one takes a wrong one back
    assert told == 0 and f.live
    for k in range(kv.MISSES, kv.MISSES + 4):
        f.message(k, batch(ts=k))
        told += f.hit(100 + error, 100)
    assert told == 1 and f.state == "partial" and word in f.reason and f.resyncs == 1 and not f.device.links


def test_pairs_of_a_drafting_model_are_its_tokens_and_nonsense_is_skipped() -> None:
    f, tokens = feed(), list(range(32))
    pairs = [[t, t + 1] for t in tokens]
    f.message(0, batch(stored([1, 2], pairs)))  # type: ignore[arg-type]
    assert cached(f, tokens) == 32
    nonsense: list[Any] = ["x" * 16, [[]] * 16, [None] * 16, [1.5] * 16, [2**32] * 16, [*TOKENS, 1]]
    for k, bad in enumerate(nonsense):
        f.message(k + 1, batch(stored([k + 10], list(bad))))
    assert f.skipped == len(nonsense) and f.live and len(f.device.links) == 2


def test_a_group_that_turns_out_to_leave_blocks_out_is_given_up() -> None:
    f, tokens = feed(), list(range(32))
    f.message(0, batch(stored([1, 2], tokens, group_idx=1)))
    f.message(1, batch(stored([8, 9], tokens, group_idx=0)))
    assert len(f.device.links) == 2
    f.message(2, batch(stored([3], tokens, parent=2, group_idx=1)))  # 32 tokens for one block: a window
    assert not f.device.links
    f.message(3, batch(stored([8, 9], tokens, group_idx=0), ["BlockRemoved", [8], "GPU", 1]))
    assert cached(f, tokens) == 32


def test_what_is_not_believed_stands_in_no_index_but_is_followed() -> None:
    f, tokens = feed(), list(range(64))
    f.message(0, batch(stored([1, 2], tokens[:32])))
    f.show(False)
    assert f.device.index.counts == [0, 0]
    f.message(1, batch(stored([3, 4], tokens[32:], parent=2)))
    f.message(2, batch(stored([7, 8], tokens[::-1][:32]), ["BlockRemoved", [7, 8]]))
    assert f.device.index.counts == [0, 0]
    f.show(True)
    assert cached(f, tokens) == 64 and f.device.index.counts == [2, 0]
    f.show(False)
    f.closed()
    f.show(True)
    assert f.device.index.counts == [0, 0]


def test_ranks_of_one_replica_count_together() -> None:
    index, lower = PrefixIndex(2), PrefixIndex(2)
    ranks = kvtier.Ranks(1, index, 2)
    feeds = [Feed(r, ranks, kvtier.Ranks(1, lower, 2), "m", 32) for r in range(2)]
    tokens = list(range(32))
    for f in feeds:
        f.message(0, batch(stored([1, 2], tokens)))
    feeds[0].message(1, batch(["BlockRemoved", [1, 2]], ts=2.0))
    assert index.counts == [0, 1]
    feeds[1].message(1, batch(["AllBlocksCleared"], ts=2.0))
    assert index.counts == [0, 0] and not ranks.own.masks


def test_without_replay_a_gap_is_counted_and_what_follows_is_taken() -> None:
    f = feed()
    f.message(0, batch(stored([1, 2], list(range(32)))))
    assert f.message(5, batch(ts=2.0)) is None
    assert (f.gaps, f.lost, f.expected) == (1, 4, 6) and cached(f, list(range(32))) == 32


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
    assert not any(f.hit(64 + k % 32, 64) for k in range(100))  # as predicted: no event is due


def test_unreadable_batches_end_the_belief_until_a_good_one() -> None:
    f, tokens = feed(), list(range(32))
    f.message(0, batch(stored([1, 2], tokens)))
    f.message(1, b"\xc1")
    assert f.live
    for seq in range(2, 2 + kv.BAD_MAX):
        f.message(seq, b"\xc1")
    assert f.state == "broken" and "cannot be read" in f.reason and cached(f, tokens) == 0
    f.message(9, batch())
    assert f.live


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvtier, "LINKS_MAX", 4)
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
            if same:
                continue  # an engine finds it and says nothing
            name = rng.getrandbits(62) + 1
            have[name] = (path + more, parent)
            event = ["BlockStored", [name - 2**63], parent - 2**63 if parent else None, more, 16, None]
        f.message(seq, batch(event, ts=float(seq)))
        seq += 1
        assert set(f.device.index.masks) == {token_blocks(path, root, 16)[-1] for path, _ in have.values()}
    f.device.index.check()
