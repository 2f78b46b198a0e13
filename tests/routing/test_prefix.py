"""The prefix index: chains of hashes, exact and approximate contents, what is expected; each against a plain model of it."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import prefix
from routing.prefix import Approximate, Expected, PrefixIndex, salted, text_blocks, token_blocks

N = 4
CHAINS = st.lists(st.integers(0, 2), max_size=6).map(lambda path: [tuple(path[: k + 1]) for k in range(len(path))])


def leading(have: set[Any], blocks: list[Any]) -> int:
    return next((k for k, b in enumerate(blocks) if b not in have), len(blocks))


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "clear"]), st.integers(0, N - 1), CHAINS)), CHAINS)
def test_the_index_equals_a_set_a_replica(steps: list[tuple[str, int, list[Any]]], probe: list[Any]) -> None:
    index, model = PrefixIndex(N), [set[Any]() for _ in range(N)]
    for kind, i, blocks in steps:
        before, version = [set(m) for m in model], index.version
        if kind == "add":
            index.add(i, blocks)
            model[i] |= set(blocks)
        elif kind == "remove":
            index.remove(i, blocks)
            model[i] -= set(blocks)
        else:
            index.clear(i)
            model[i].clear()
        assert (index.version != version) == (before != model)
    index.check()
    assert len(index) == len(set().union(*model))
    assert index.match(probe) == [leading(m, probe) for m in model]


@given(st.lists(st.tuples(st.integers(0, N - 1), CHAINS), max_size=8), CHAINS)
def test_what_is_expected_lasts_as_long_as_someone_brings_it(adds: list[tuple[int, list[Any]]], probe: list[Any]) -> None:
    expected = Expected(N)
    for i, blocks in adds:
        expected.add(i, blocks)
    for at, (i, blocks) in enumerate(adds):
        left: list[set[Any]] = [set() for _ in range(N)]
        for j, more in adds[at:]:
            left[j] |= set(more)
        assert expected.match(probe) == [leading(m, probe) for m in left]
        expected.drop(i, blocks)
    assert not expected.masks


def test_dropping_what_was_never_expected_is_an_error() -> None:
    with pytest.raises(KeyError):
        Expected(2).drop(0, [1])


def test_text_blocks_are_chained_and_full() -> None:
    text = bytes(range(256)) * 8
    blocks = text_blocks(text + b"tail")
    assert len(blocks) == 4 and len(set(blocks)) == 4  # equal text, other prefix
    assert text_blocks(text[:1200]) == blocks[:2]
    assert text_blocks(text[:511]) == []
    assert text_blocks(text, salted("other")) != blocks
    assert len(text_blocks(b"x" * 40_000, size=2)) == prefix.MAX_BLOCKS


def test_token_blocks_take_every_token_into_account() -> None:
    ids = list(range(200))
    assert token_blocks(ids)[:2] == token_blocks(ids[:128])
    assert len(token_blocks(ids)) == 3
    assert token_blocks([*ids[:63], 7])[0] != token_blocks(ids)[0]
    with pytest.raises(OverflowError):
        token_blocks([1 << 32] * 64)


def test_salts_do_not_run_into_each_other() -> None:
    roots = {salted("ab", "c"), salted("a", "bc"), salted("abc"), salted("", "abc"), salted("c", "ab")}
    assert len(roots) == 5


def test_the_standard_library_serves_where_xxhash_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(prefix, "import_module", missing)
    fallback = prefix._fastest()
    assert fallback(b"a", 1) == fallback(b"a", 1) != fallback(b"a", 2)
    assert 0 <= fallback(b"a", (1 << 64) - 1) < 1 << 64
    there = SimpleNamespace(xxh3_64_intdigest=lambda data, seed=0: 7)
    monkeypatch.setattr(prefix, "import_module", {"xxhash": there}.__getitem__)
    assert prefix._fastest() is there.xxh3_64_intdigest


class LRU:
    """A cache of `size` blocks as an engine has it."""

    def __init__(self, size: int) -> None:
        self.size, self.have = size, OrderedDict[Any, None]()

    def serve(self, blocks: list[Any]) -> int:
        hit = leading(set(self.have), blocks)
        for b in reversed(blocks):
            self.have[b] = None
            self.have.move_to_end(b)
        while len(self.have) > self.size:
            self.have.popitem(last=False)
        return hit


def test_the_capacity_is_learned_from_reports() -> None:
    for start in (40, 4000):
        cache, engine = Approximate(1, start, least=16), LRU(400)
        wrong: list[int] = []
        for turn in range(6000):
            chain: list[Any] = [(turn * 7 % 90, k) for k in range(10)]  # 900 blocks in all, 400 fit: a cyclic reuse of every second round
            if turn % 3 == 0:
                chain = [(turn // 3 % 30, k) for k in range(10)]
            predicted, truth = cache.match(chain)[0], engine.serve(chain)
            cache.report(0, chain, predicted, truth)
            cache.touch(0, chain)
            wrong.append(abs(predicted - truth))
        cache.check()
        assert sum(wrong[-600:]) < 600, f"from {start}: {sum(wrong[-600:])} blocks wrong of 6000, capacity {cache.capacity}"


@given(st.lists(st.tuples(st.integers(0, 1), CHAINS, st.integers(0, 6)), max_size=40))
def test_an_approximate_cache_stays_within_bounds_whatever_is_reported(steps: list[tuple[int, list[Any], int]]) -> None:
    cache = Approximate(2, 8, least=4, most=10)
    for i, blocks, reported in steps:
        cache.report(i, blocks, cache.match(blocks)[i], min(reported, len(blocks)))
        cache.touch(i, blocks)
        cache.check()
        assert 4 <= cache.capacity[i] <= 10
    version, had = cache.version, cache.count(0)
    cache.clear(0)
    assert cache.count(0) == 0 and (cache.version > version) == (had > 0)
    cache.check()


def test_an_impossible_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="must lie between"):
        Approximate(1, 10, least=64)


def test_what_another_gateway_knows_is_older_than_all_that_we_know() -> None:
    cache = Approximate(1, 8, least=4)
    cache.touch(0, ["a", "b"], 5.0)
    cache.seed(0, ["x", "a", "y", "x", "z"], 5, 9.0)
    assert cache.kept(0) == ["a", "b", "x", "y", "z"] and cache.capacity == [5.0]
    cache.touch(0, ["c"], 6.0)
    assert cache.kept(0) == ["c", "a", "b", "x", "y"]  # the last one told goes first
    cache.seed(0, ["q"], 100, 9.0)
    assert cache.kept(0) == ["c", "a", "b", "x", "y"] and cache.capacity == [5.0]  # no room, and a capacity of our own
    cache.check()


def test_entries_live_as_long_as_they_are_used() -> None:
    cache = Approximate(0, 8, least=4)
    cache.grow(2)
    cache.begin(0, 6, 10.0)
    cache.begin(1, 1000)
    for i in (0, 1):
        cache.touch(i, ["a", "b"], 0.0)
        cache.touch(i, ["a", "c"], 5.0)
        cache.expire(i, 12.0)
    assert [set(cache.kept(i)) for i in (0, 1)] == [{"a", "c"}, {"a", "b", "c"}] and cache.capacity == [6.0, 1000.0]
    cache.report(1, ["a", "b", "c"], 3, 0, late=True)
    assert cache.capacity[1] == 980.0 and len(cache.kept(1)) == 3
    cache.check()
