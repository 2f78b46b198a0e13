"""Plain requests in blocks: they say what they would one by one, wait within bounds, and are in the file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import wire
from backends.types import Target, Usage
from gateway.experiments.ended import seen
from gateway.experiments.plain import MANY, Blocks, Plain, block_of, ended_of, together
from gateway.experiments.store import Keep, TrialStore
from gateway.experiments.tables import CHUNK, seen_of
from tests.gateway.experiments.recorded import opened
from tests.gateway.serving import eventually

FREE = Target("b", "m")
COUNTS = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
CHOICE: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi", "refusal": None}}


def price(usage: Usage) -> float:
    return usage.input * 0.5 + usage.output


def tail_of(usage: Any) -> bytes:
    return json.dumps({"usage": usage}, separators=(",", ":")).encode()


def left(n: int, *, arm: str = "a", tenant: str = "t", target: Target = FREE, tail: bytes | None = tail_of(COUNTS), **more: Any) -> Plain:
    whole = {"id": f"chatcmpl-{n}", "choices": [{**CHOICE, **more}]}
    answer = more.pop("answer", None) or json.dumps(whole, separators=(",", ":")).encode()
    return (("e", 0, arm), n, tenant, b"req-%d" % n, float(n), 0.25 + n, target, tail, answer)


ALL = [
    left(0),
    left(1, arm="b"),
    left(2, tenant="u"),
    left(3, tail=None),
    left(4, tail=b"no JSON"),
    left(5, tail=tail_of({**COUNTS, "prompt_tokens_details": {"cached_tokens": 2}})),
    left(6, tail=tail_of({**COUNTS, "cost": 0.5})),
    left(7, target=Target("b", "m", price=price)),
    left(8, finish_reason="content_filter"),
    left(9, message={"role": "assistant", "content": None, "refusal": "no"}),
    left(10, message={"role": "assistant", "content": 'about "content_filter" and "refusal"'}),
    left(11, answer=b'{"object":"x","id":"late"}'),
    left(12, answer=b'{"id":"a\\u0062c"}'),
    left(13, answer=b'{"id":"cut'),
    left(14, answer='{"id":"é"}'.encode()),
    left(15, answer=b'{"id":""}'),
    left(2**64 - 1),
]


@pytest.mark.parametrize("read", [False, True], ids=["unread", "read by the recorder"])
def test_a_block_says_what_its_requests_would_one_by_one(read: bool) -> None:
    told: dict[bytes, wire.Told] = {}
    if read:
        wire.usage_sum([plain[7] for plain in ALL if plain[7] is not None], None, told)
    block = block_of(ALL, told)
    assert [*seen_of(block)] == [seen(ended_of(plain)) for plain in ALL]
    assert block.kinds == [("e", 0, "a", "t"), ("e", 0, "b", "t"), ("e", 0, "a", "u")]


@given(st.binary(max_size=60), st.booleans())
def test_any_answer_can_be_read(answer: bytes, begun: bool) -> None:
    plain = left(1, answer=b'{"id":"' + answer if begun or not answer else answer)
    assert [*seen_of(block_of([plain]))] == [seen(ended_of(plain))]


def test_many_are_not_left_waiting() -> None:
    blocks = Blocks(10 * MANY, ALL.append)
    for n in range(2 * MANY + 1):
        blocks.put(left(n))
    assert (len(blocks), blocks.packed) == (2 * MANY + 1, 2 * MANY)
    blocks.gather()
    blocks.gather()
    assert [block.requests for block in blocks.ready()] == [MANY, MANY, 1] and blocks.ready()[0].unix == MANY - 1
    blocks.written(2)
    assert (len(blocks), blocks.packed, len(blocks.ready())) == (1, 1, 1)


def test_what_does_not_fit_is_counted() -> None:
    blocks = Blocks(MANY, ALL.append)
    for n in range(2 * MANY):
        blocks.put(left(n))
    assert (len(blocks), blocks.dropped) == (MANY, MANY)


def test_what_cannot_be_read_together_goes_one_by_one() -> None:
    alone: list[Any] = []
    blocks = Blocks(100, alone.append)
    odd: Any = ("e", 0, "a"), 2, "t", b"req-2", 1.0, 0.5, FREE, "no bytes", b"{}"
    for plain in (left(1), odd):
        blocks.put(plain)
    blocks.gather()
    assert alone == [ended_of(left(1)), ended_of(odd)] and not blocks.ready()


def test_blocks_share_rows() -> None:
    blocks = Blocks(1000, ALL.append)
    for n in range(50):
        blocks.put(left(n))
        if n % 10 == 9:
            blocks.gather()
    assert [(row.requests, row.unix) for row in together(blocks.ready(), 25)] == [(20, 19.0), (20, 39.0), (10, 49.0)]
    assert [*together([], 25)] == []


def test_the_file_has_them_with_all_others(tmp_path: Path) -> None:
    count = 2 * CHUNK + 3
    store = TrialStore(str(tmp_path / "e.db"))

    async def act() -> None:
        await store.start()
        for n in range(count):
            store.put_plain(left(n))
        store.put(ended_of(left(count)))
        assert store.queued == count + 1
        await store.flush()
        assert (store.queued, store.written) == (0, count + 1)
        store.put_plain(left(count + 1))
        await store.stop()

    asyncio.run(act())
    assert (store.written, store.dropped, store.lost) == (count + 2, 0, 0)
    with opened(tmp_path / "e.db") as tables:
        chunks = tables.chunks(0, 100)
    found = [one for chunk in chunks for one in chunk.seen]
    assert sorted(one.unit for one in found) == [*range(count + 2)]
    assert max(len(chunk.seen) for chunk in chunks) <= CHUNK and {one.experiment for one in found} == {"e"}
    assert [bool(chunk.blocks) for chunk in chunks].count(False) == 1


def test_without_a_hint_they_are_written_within_a_second(tmp_path: Path) -> None:
    async def act() -> None:
        store = TrialStore(str(tmp_path / "e.db"))
        await store.start()
        try:
            store.put_plain(left(1))
            store.plain.gather()
            await asyncio.to_thread(eventually, lambda: store.written or None, "the request")
        finally:
            await store.stop()

    asyncio.run(act())


def test_a_store_that_is_full_says_so(tmp_path: Path) -> None:
    store = TrialStore(str(tmp_path / "e.db"), Keep(queue=MANY))
    for n in range(3 * MANY):
        store.put_plain(left(n))
    assert (store.queued, store.dropped) == (MANY, 2 * MANY)
