"""Plain requests in blocks: they say what they would one by one."""

from __future__ import annotations

import json
import logging
from copy import copy
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.types import Target
from gateway.experiments.ended import SHORT, id_of, refused, short
from gateway.experiments.entry import Part
from gateway.experiments.plain import ANY, Blocks, Kind, Marks, kept, shape_of
from gateway.experiments.tables import seen_of
from gateway.metrics import Metrics
from gateway.record import Plain
from gateway.recorder import Recorder
from routing.experiments.words import Block
from routing.types import Decision, Route
from tests.gateway.experiments.plains import (
    COUNTS,
    FREE,
    PRICED,
    alone,
    block_from,
    in_a_block,
    left,
    plain_of,
    tail_of,
)  # fmt: skip
from tests.routing.made import replica

if TYPE_CHECKING:
    from gateway.answering import Answering

ALL = [
    left(0),
    left(1, arm="b"),
    left(2, tenant="u"),
    left(3, tail=None),
    left(4, tail=b"no JSON"),
    left(5, tail=tail_of({**COUNTS, "prompt_tokens_details": {"cached_tokens": 2}})),
    left(6, tail=tail_of({**COUNTS, "cost": 0.5})),
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


@pytest.mark.parametrize("target", [FREE, PRICED], ids=["free", "priced"])
def test_a_block_says_what_its_requests_would_one_by_one(target: Target) -> None:
    group = [(Decision(plain[0].replica, target, ""), *plain[1:]) for plain in ALL]
    assert in_a_block(group) == alone(group)
    block = block_from(group)
    assert block is not None and block.kinds == [("e", 0, "a", "t"), ("e", 0, "b", "t"), ("e", 0, "a", "u")]


def test_who_is_in_several_experiments_counts_in_each_and_who_is_in_none_nowhere() -> None:
    one, two = Kind("e", 0, "a", "t"), Kind("f", 0, "b", "t")
    parts: list[Marks] = [((one, 1), (two, 2)), (), ((two, 3),), (), ((one, 4),)]
    group = [plain_of(part, n, b'{"id":"a%d"}' % n, tail=tail_of({**COUNTS, "prompt_tokens": n})) for n, part in enumerate(parts)]
    found = in_a_block(group)
    assert found == alone(group) and [(seen.experiment, seen.unit, seen.input) for seen in found] == [
        ("e", 1, 0), ("f", 2, 0), ("f", 3, 2), ("e", 4, 4),
    ]  # fmt: skip
    assert block_from([group[1], group[3]]) is None


@given(st.binary(max_size=60), st.booleans())
def test_any_answer_can_be_read(answer: bytes, begun: bool) -> None:
    plain = left(1, answer=b'{"id":"' + answer if begun or not answer else answer)
    assert in_a_block([plain]) == alone([plain])


@pytest.mark.parametrize("some", [ALL[:1], ALL[:3], ALL[6:7], ALL[5:6], ALL[8:9], [left(n, message=None) for n in range(3)]])
def test_usual_requests_say_so_too(some: list[Plain]) -> None:
    assert in_a_block(some) == alone(some)


def test_the_recorder_hands_on_what_counts_and_each_has_its_own_tokens() -> None:
    """From its queue to the blocks, some without usage, some in two experiments, some in none."""
    recorder, others = Recorder(Metrics(), log=logging.getLogger("silent")), list[Any]()
    recorder.hears = blocks = Blocks(10_000, others.append, lambda: 0.0)
    one, two = Kind("e", 0, "a", "t"), Kind("f", 0, "b", "t")
    marks: list[Marks] = [((one, 1),), (), ((one, 2), (two, 3)), (), ((two, 4),)]
    decision, group = Decision(replica("r"), FREE, ""), list[Plain]()
    for n in range(400):
        tail = None if n % 7 == 0 else b"" if n % 11 == 0 else tail_of({**COUNTS, "prompt_tokens": n})
        group.append((decision, *plain_of(marks[n % 5], n, b'{"id":"a%d"}' % n, tail=tail)[1:]))
        recorder.put_plain(group[-1])
    recorder.catch_up()
    found = [seen for packed in blocks.ready() for seen in seen_of(msgspec.msgpack.decode(packed.body, type=Block))]
    assert found == alone(group) and len(found) == len(blocks) == 320 and not others


@pytest.mark.parametrize(
    "heads",
    [
        [b'ab"', b'cd"'],
        [b'ab"', b'longer"'],
        [b'a\\u0031"', b'a\\u0032"'],
        [b'a\\""', b'abc"'],
        [b'a""', b'bc"'],
        [b'a"c"', b'def"'],
        ['\u00e9"'.encode(), b'ab"'],
        [b'"', b'"'],
        [b'ab"', b'{"id":"cd","x":1}'],
        [b'{"id":"ab","a":1}', b'{"id":"cd","x":1}'],
    ],
)
def test_ids_together_are_those_of_each(heads: list[bytes]) -> None:
    kind = Kind("e", 0, "a", "t")
    group = [plain_of(((kind, n),), n, head) for n, head in enumerate(heads)]
    closed = [head if head.endswith(b"}") else b'{"id":"%b}' % head for head in heads]
    assert [one.response for one in in_a_block(group)] == [id_of(answer) for answer in closed]
    assert in_a_block(group) == alone(group)


def test_blocks_as_they_were_first_written_can_be_read() -> None:
    fields = [[("e", 0, "a", "t")], [0], [7], [b"req"], [b"chatcmpl-1"], [1000.5], [0.25], [], [5], [3], []]
    (one,) = seen_of(msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=Block))
    assert (one.unit, one.request, one.response, one.unix, one.seconds, one.input) == (7, "req", "chatcmpl-1", 1000.5, 0.25, 5)
    fields[4] = []
    (two,) = seen_of(msgspec.msgpack.decode(msgspec.msgpack.encode([*fields, 0.0, b'{"id":"chatcmpl-1"', 18]), type=Block))
    assert two == one


def test_kinds_are_known_by_identity() -> None:
    twice = [left(0), plain_of(((Kind("e", 0, "a", "t"), 1),), 1, b'{"id":"chatcmpl-1"}'), left(2)]
    block = block_from(twice)
    assert block is not None and block.kinds == [("e", 0, "a", "t")] * 2 and block.kind == [0, 1, 0]
    assert [*seen_of(block)] == alone(twice)


HEAD = b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant",'
USAGE = b'"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}'
TAIL = b"{" + USAGE


def spoken(text: bytes = b"hi", *, then: bytes = b'},"logprobs":null,"finish_reason":"stop"}],') -> bytes:
    return HEAD + b'"content":"' + text + b'"' + then + USAGE


class Nowhere:
    def put(self, ended: Any) -> None:
        raise AssertionError


def usage_at(answer: bytes) -> int:
    """Where its usage begins, as the gateway finds it."""
    return answer.rfind(b',"usage":{', -1024)


def keep(kind: Kind, answer: bytes) -> bytes:
    return kept(kind, answer, usage_at(answer))


def test_of_answers_like_those_before_the_id_is_kept() -> None:
    kind = Kind("e", 0, "a", "t")
    assert keep(kind, spoken()) == spoken() and kind.shape is not ANY
    head = b'chatcmpl-1"'
    for text in (b"", b"other words", b"x" * 5000):
        assert keep(kind, spoken(text)) == head
    assert keep(kind, spoken().replace(b":5,", b":12345,")) == head
    assert kept(kind, spoken(), -1) == spoken()
    block = block_from([plain_of(((kind, 1),), 1, head, tail=TAIL), left(2)])
    assert block is not None and block.response == [b"chatcmpl-1", b"chatcmpl-2"] and not block.refused
    both = [plain_of(((kind, 1),), 1, head, tail=TAIL), plain_of(((kind, 1),), 2, b'chatcmpl-2"', tail=TAIL)]
    block = block_from(both)
    assert block is not None and block.response == [] and (block.heads, block.step) == (b'chatcmpl-1"chatcmpl-2"', 11)
    assert [one.response for one in in_a_block(both)] == ["chatcmpl-1", "chatcmpl-2"] and in_a_block(both) == alone(both)


def test_what_a_part_cuts_is_what_is_kept() -> None:
    kind, exchange = Kind("e", 0, "a", "t"), cast("Answering", object())  # of which a part of many asks nothing
    part = Part(Nowhere(), ((kind, 1),), Route("m", ()), None)
    for answer in (spoken(), spoken(b"more"), spoken(b'say \\"no\\"'), spoken(b"", then=b',"refusal":"no"}}],'), HEAD, spoken(b"x" * 3000)):
        at = usage_at(answer)
        cut = part.cut(answer, at)
        assert cut in (None, kept(copy(kind), answer, at))
        assert part.whole(exchange, 0.5, None, answer, at) == (kind, 1, cut or short(answer))
    assert part.cut(spoken(), usage_at(spoken())) == b'chatcmpl-1"'
    none = Part(Nowhere(), (), Route("m", ()), None)
    assert none.cut(spoken(), usage_at(spoken())) is None and none.whole(exchange, 0.5, None, spoken(), -1) == (None, (), None)


@pytest.mark.parametrize(
    "answer",
    [
        spoken(b'say \\"no\\"'),
        spoken(b"cut", then=b'},"logprobs":null,"finish_reason":"length"}],'),
        spoken(b"", then=b'},"logprobs":null,"finish_reason":"content_filter"}],'),
        spoken(b"", then=b',"refusal":"no"},"logprobs":null,"finish_reason":"stop"}],'),
        HEAD + b'"refusal":"' + b'no"},"logprobs":null,"finish_reason":"stop"}],' + USAGE,
        HEAD + b'"refusal":"no","content":"a"},"logprobs":null,"finish_reason":"stop"}],' + USAGE,
        spoken(b"a" * SHORT, then=b'},"finish_reason":"stop"},{"index":1,"message":{"role":"assistant","content":"b"}}],'),
        spoken().replace(b"chatcmpl-1", b"chatcmpl-12"),
        b'{"object":"x","id":"late",' + USAGE,
        b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],' + USAGE,
    ],
)
def test_of_another_answer_all_is_kept(answer: bytes) -> None:
    kind = Kind("e", 0, "a", "t")
    keep(kind, spoken())
    known = kind.shape
    assert known is not ANY and keep(kind, answer) == short(answer)
    found = shape_of(answer, usage_at(answer))
    assert kind.shape is known if found is ANY else (kind.shape.before, kind.shape.after) == (found.before, found.after)
    assert len(kind.shape.before) + len(kind.shape.after) < 1024, "no text is held"


def test_one_with_quotation_marks_in_its_text_changes_nothing_for_the_next() -> None:
    kind = Kind("e", 0, "a", "t")
    keep(kind, spoken())
    known = kind.shape
    for text in (b'\\"hi\\" ' + b"x" * 5000, b'it ends with \\"', b"a \\\\"):
        assert (keep(kind, spoken(text)) == b'chatcmpl-1"') is (text == b"a \\\\") and kind.shape is known
    assert keep(kind, spoken(b"plain")) == b'chatcmpl-1"'


@pytest.mark.parametrize("id", [b'"id":"other-ids-"', b'"id":"chat\\u0031"', '"id":"chatcmé-1"'.encode(), b'"id":"","n":"late"'])
def test_an_id_at_the_beginning_is_found(id: bytes) -> None:
    kind = Kind("e", 0, "a", "t")
    keep(kind, spoken())
    answer = spoken().replace(b'"id":"chatcmpl-1"', id)
    for _ in range(2):  # first after others, then after one like it
        group = [plain_of(((kind, 1),), 1, keep(kind, answer), tail=TAIL)] * 2
        assert [one.response for one in in_a_block(group)] == [id_of(answer)] * 2
        assert in_a_block(group) == alone(group)


def test_an_id_that_is_not_first_is_found_whatever_its_length() -> None:
    """Where all else is where it was, and a quotation mark where the id of others ended."""
    for id in ("x" * n for n in range(1, 40)):
        kind = Kind("e", 0, "a", "t")
        answer = spoken().replace(b"chatcmpl-1", id.encode())
        other = answer.replace(b'"id":"%b","object":"chat.completion"' % id.encode(), b'"object":"chat.completion","id":"%b"' % id.encode())
        assert keep(kind, answer) == answer and len(other) == len(answer) and other != answer
        (one,) = in_a_block([plain_of(((kind, 1),), 1, keep(kind, other), tail=TAIL)])
        assert one.response == id


def test_ids_of_other_lengths_are_found() -> None:
    kind = Kind("e", 0, "a", "t")
    answers = [spoken().replace(b"chatcmpl-1", b"chatcmpl-%d" % n) for n in (8, 9, 10, 11, 9, 8, 1234, 7, 6)]
    group = [plain_of(((kind, n),), n, keep(kind, answer), tail=TAIL) for n, answer in enumerate(answers)]
    assert [one.response for one in in_a_block(group)] == [id_of(answer) for answer in answers]
    assert {plain[11][-1:] for plain in group if plain[11]} == {b'"', b"}"}


@pytest.mark.parametrize(
    "answer",
    [
        spoken().replace(b'"id":"chatcmpl-1",', b"")[:-1] + b',"id":"chatcmpl-1"}',
        spoken().replace(b'"id":"chatcmpl-1",', b"").replace(b'],"usage"', b'],"id":"chatcmpl-1","usage"'),
        spoken().replace(b'"id":"chatcmpl-1"', b'"n":1,"id":"chatcmpl-1"'),
    ],
    ids=["behind all", "before the usage", "not first"],
)
def test_an_id_elsewhere_is_found(answer: bytes) -> None:
    kind, tail = Kind("e", 0, "a", "t"), b"{" + answer[answer.rfind(b'"usage"') :]
    for _ in range(3):
        found = keep(kind, answer)
        assert found == answer
        (one,) = in_a_block([plain_of(((kind, 1),), 1, found, tail=tail)])
        assert one.response == "chatcmpl-1"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["content", "refusal", "reasoning"]),
            st.text(st.sampled_from('ab"\\{},:é'), max_size=6),
            st.sampled_from(["stop", "length", "content_filter"]),
            st.sampled_from(["1", "2", "11", '"', "\\"]),
            st.permutations(["id", "object", "choices", "usage"]),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_what_is_kept_says_what_the_answer_would(drawn: list[tuple[str, str, str, str, list[str]]]) -> None:
    kind = Kind("e", 0, "a", "t")
    for key, text, finish, id, order in drawn:
        message = {"role": "assistant", key: text, "refusal": None} if key == "reasoning" else {"role": "assistant", key: text}
        whole = {"id": id, "object": "o", "choices": [{"message": message, "finish_reason": finish}], "usage": COUNTS}
        if order[-1] == "choices" or order.index("choices") < order.index("usage"):  # whatever is behind the usage says no refusal
            whole = {name: whole[name] for name in order}
        answer = json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()
        found = keep(kind, answer)
        closed = b'{"id":"%b}' % found if found != answer else found
        assert (id_of(closed), refused(closed)) == (id_of(answer), refused(answer))
        assert shape_of(answer, usage_at(answer)) is ANY or not refused(answer)
