"""Plain answers, counted together, count the same as one by one; and they stand among the others in the ring and in the log."""

from __future__ import annotations

import copy
import io
import logging
import random
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from backends import wire
from backends.types import Target, Usage
from gateway import logs
from gateway.experiments.plain import Blocks, Kind
from gateway.lines import log_record
from gateway.metrics import Metrics
from gateway.record import PLAIN_SECONDS, Columns, Plain, Record, record_of
from gateway.recorder import PLAIN, Recorder
from routing.types import Decision
from tests.gateway.parts import NO_PART
from tests.gateway.test_recorder import lines as lines
from tests.gateway.test_recorder import written
from tests.routing.made import replica


class Hearing:
    """Who is told of plain answers in experiments."""

    def __init__(self) -> None:
        self.heard: list[tuple[list[bytes], list[wire.Told | None]]] = []
        self.priced: list[bool] = []
        self.missing = 0

    def add(self, columns: Columns, told: Sequence[wire.Told | None], *, priced: bool) -> bool:
        self.heard.append(([*columns[4]], [*told]))
        self.priced.append(priced)
        return False

    def missed(self, plain: Plain) -> None:
        self.missing += plain[9] is not None

    def lasting(self, batch: list[Plain]) -> list[Plain]:
        return batch


MARKS = Kind("e", 0, "a", "t"), 1, b""
NONE = None, (), None


def test_who_asks_hears_of_plain_answers_in_experiments_once() -> None:
    recorder, hears = Recorder(Metrics(), log=logging.getLogger("silent")), Hearing()
    recorder.hears = hears
    decisions = [Decision(replica("r"), Target("b", model), "") for model in "xyz"]
    tails = [b'{"usage":{"prompt_tokens":5,"completion_tokens":4}}', b'{"usage":{"prompt_tokens":7}}', b"no JSON", None]
    for n, tail in enumerate(tails):
        for decision, tried in zip(decisions, (MARKS, MARKS if n == 0 else NONE, NONE), strict=True):
            if tail is not None or decision is decisions[0]:
                recorder.put_plain((decision, "a", "t", "chat", b"%d" % n, 0.0, 0.5, 10, tail, *tried))
    recorder.drain()
    recorder.drain()
    assert hears.heard == [
        ([b"0", b"1", b"2", b"3"], [(5, 0, 4), (7, 0, 0), None, None]),
        ([b"0", b"1", b"2"], [(5, 0, 4), (7, 0, 0), None]),
    ]


def test_who_asks_hears_all_that_waits_at_once_and_of_those_that_were_dropped() -> None:
    recorder, hears = Recorder(Metrics(), capacity=600), Hearing()
    recorder.hears = hears
    decision = Decision(replica("r"), Target("b", "m"), "")
    for n in range(602):
        recorder.put_plain((decision, "a", "t", "chat", b"%d" % n, 0.0, 0.5, 10, None, *(NONE if n == 601 else MARKS)))
    assert (recorder.dropped, hears.missing, hears.heard) == (2, 1, [])
    recorder.catch_up()
    recorder.catch_up()
    assert [names for names, _ in hears.heard] == [[b"%d" % n for n in range(600)]]


def test_an_answer_that_cannot_be_counted_costs_no_other_and_experiments_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def price(usage: Usage) -> float:
        raise OverflowError

    metrics = Metrics(["a"])
    telling = logging.getLogger("telling")
    telling.setLevel(logging.INFO)
    recorder, hears = Recorder(metrics, log=telling), Hearing()
    recorder.hears = hears
    tail = b'{"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9}}'
    for n, target in enumerate([Target("b", "m"), Target("b", "odd", price=price), Target("b", "n")]):
        recorder.put_plain((Decision(replica("r"), target, ""), "a", "t", "chat", b"%d" % n, 0.0, 0.5, 10, tail, *MARKS))
    recorder.catch_up()
    assert [names for names, _ in hears.heard] == [[b"0"], [b"1"], [b"2"]] and recorder.dropped == 1
    assert "a bug: 1 answers are not in the figures" in caplog.text


def test_no_text_of_an_answer_stays_in_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("pointsman.recorder"), "disabled", True)  # what it tells of an exception has the text too
    recorder = Recorder(Metrics(), log=logging.getLogger("silent"))
    recorder.hears = Blocks(1000, lambda ended: None)
    text = b'{"id":"1","choices":[{"message":{"content":"%b"}}]}' % (b"secret" * 9)
    decision = Decision(replica("r"), Target("b", "m"), "")
    unknown = Decision(replica("r"), Target("b", "odd", price=lambda usage: 1 / 0), "")  # what it cost cannot be told
    given = [(decision, text), (unknown, text), (decision, b'{"id":"2"'), (decision, None)]
    held = sys.getrefcount(text)
    tail = b'{"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9}}'
    for n, (made, answer) in enumerate(given):
        kind, unit, _ = NONE if answer is None else MARKS
        recorder.put_plain((made, "a", "t", "chat", b"%d" % n, float(n), 0.5, 10, tail, kind, unit, answer))
    assert sys.getrefcount(text) == held + 2
    recorder.catch_up()
    assert sys.getrefcount(text) == held and [one.id for one in recorder.recent(9)] == ["3", "2", "1", "0"]
    assert len(recorder.hears) == 2 and recorder.dropped == 1


def test_who_hears_of_them_knows_whether_their_cost_may_be_known() -> None:
    recorder, hears = Recorder(Metrics(), log=logging.getLogger("silent")), Hearing()
    recorder.hears = hears
    free, paid = Target("b", "m"), Target("b", "n", price=lambda usage: 1.0)
    told = b'{"usage":{"prompt_tokens":5,"cost":0}}'
    for target, tail in ((free, None), (free, told), (paid, None)):
        recorder.put_plain((Decision(replica("r"), target, ""), "a", "t", "chat", b"x", 0.0, 0.5, 10, tail, *MARKS))
        recorder.catch_up()
    assert hears.priced == [False, True, True]


@pytest.mark.parametrize("seed", range(40))
def test_plain_answers_counted_together_count_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    records = [_any(rng) for _ in range(rng.randint(1, 80))]

    for one in records:
        if is_plain(one):
            one.ttft = one.duration  # a whole answer comes at once

    def counted(together: bool) -> tuple[Any, Any]:
        metrics = Metrics(["a", "b"])
        recorder = Recorder(metrics, log=logging.getLogger("silent"), clock=lambda: 100.5)
        decisions: dict[tuple[str, str], Decision] = {}
        for one in records:
            if together and is_plain(one):
                decision = decisions.setdefault((one.route, one.backend), Decision(replica(one.replica), Target(one.backend, "m"), ""))
                figures = (0.0, one.duration, one.bytes_out, usage_of(one))
                recorder.put_plain((decision, one.route, one.tenant, one.api, b"x", *figures, *NO_PART))
            else:
                recorder.put(copy.copy(one))
        while recorder.drain(7 + seed % 40):
            pass
        rows = sorted(metrics.snapshot()["rows"], key=lambda row: (row["route"], row["backend"], row["api"]))
        return rounded(rows), rounded(msgspec.to_builtins(recorder.window()))

    assert counted(True) == counted(False)


def is_plain(one: Record) -> bool:
    whole = not (one.fault or one.stream or one.chunks) and one.attempts == 1
    return whole and one.status == 200 and one.duration <= PLAIN_SECONDS


def usage_of(one: Record) -> bytes | None:
    """The end of an answer that tells this usage."""
    u = one.usage
    if u is None:
        return None
    return msgspec.json.encode({"usage": {
        "prompt_tokens": u.input + u.cached + u.cache_write, "completion_tokens": u.output + u.reasoning,
        "prompt_tokens_details": {"cached_tokens": u.cached, "cache_write_tokens": u.cache_write},
        "completion_tokens_details": {"reasoning_tokens": u.reasoning},
    }})  # fmt: skip


def test_plain_answers_stand_among_the_recent_ones_and_in_the_log(lines: io.StringIO) -> None:
    recorder = Recorder(Metrics(["a"]))
    decision = Decision(replica("r"), Target("b", "m"), "weighted")
    tails = [b'{"usage":{"prompt_tokens":5,"completion_tokens":7}}', None, b"{broken", None, None]
    for i, tail in enumerate(tails):
        recorder.put_plain((decision, "a", "t", "chat", b"id-%d" % i, float(i), 0.25, 10, tail, *NO_PART))
    assert recorder.drain(1) == 1 and recorder.drain(1) == 0 and recorder.unparsed == 1
    newest = recorder.recent(9)
    assert [r.id for r in newest] == ["id-4", "id-3", "id-2", "id-1", "id-0"]
    assert [r.usage for r in newest] == [*[None] * 4, Usage(5, 0, 0, 7, 0)]
    last = newest[-1]
    assert (last.backend, last.replica, last.route, last.tenant, last.status, last.ttft) == ("b", "r", "a", "t", 200, 0.25)
    assert [line["id"] for line in written(lines)] == [f"id-{i}" for i in range(5)]


def test_many_are_counted_before_the_tick_with_what_has_come_since() -> None:
    recorder, asked = Recorder(Metrics(), recent=PLAIN + 5), list[Any]()
    recorder.soon = asked.append
    decision = Decision(replica("r"), Target("b", "m"), "")
    for n in range(PLAIN + 5):
        assert bool(asked) is (n >= PLAIN)
        recorder.put_plain((decision, "a", "", "chat", b"x", 0.0, 0.1, 1, None, *NO_PART))
    (drain,) = asked
    drain()
    assert len(recorder.recent(PLAIN + 9)) == PLAIN + 5 and "0 of" in repr(recorder)
    drain()  # nothing waits any more


def test_plain_answers_beyond_the_queue_are_dropped_and_counted() -> None:
    recorder = Recorder(Metrics(), capacity=2)
    decision = Decision(replica("r"), Target("b", "m"), "")
    for _ in range(3):
        recorder.put_plain((decision, "a", "", "chat", b"x", 0.0, 0.1, 1, None, *NO_PART))
    assert recorder.dropped == 1 and "2 of 2" in repr(recorder)


def rounded(value: Any) -> Any:
    """Sums of floats depend on their order in the last bits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return round(value, 9) if isinstance(value, float) else value


def _any(rng: random.Random) -> Record:
    status, took = rng.choice([200] * 6 + [500, 429]), rng.choice([0.0005, 0.001, 0.0025, 2 * rng.random(), rng.expovariate(20)])
    usage = rng.choice([None, Usage(5, 0, 0, 7, 0), Usage(5, 3, 1, 7, 2)])
    fault, origin = ("upstream", "backend") if status == 500 else ("", "")
    return Record(
        "i", 1.0, rng.choice(["chat", "embeddings"]), rng.choice(["a", "b", "other one"]), "k", "k#0", "", rng.random() < 0.2, status, took,
        rng.choice([None, took, took / 2]), rng.choice([1, 1, 1, 2]), rng.choice([0, 0, 3]), 100, usage, fault, origin,
    )  # fmt: skip


NAMES = ["a", "", 'two "words"', "modèle ✓", "x" * 5000, "half \ud800 a pair", "https://user:hunter2@example.com/v1", "sk-abcdefghijkl"]
TAILS = [
    None, b"{broken", b'{"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}', b'{"usage":null}', b'{"usage":{}}',
    b'{"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":9,"cache_write_tokens":1},'
    b'"completion_tokens_details":{"reasoning_tokens":3}}}', b'{"usage":{"prompt_tokens":5,"completion_tokens":7,"cost":0.5}}',
]  # fmt: skip
IDS = [b"req-0123456789ab-17", b"123e4567-e89b-12d3-a456-426614174000", b"client:1", b"sk-abcdefghijkl", b"x" * 128, b""]


@pytest.mark.parametrize("formatter", [logs.JsonFormatter(), logs.TextFormatter()])
def test_the_line_of_a_plain_answer_is_its_records_line(formatter: logging.Formatter) -> None:
    rng, log, stream = random.Random(7), logging.getLogger("plain-lines"), io.StringIO()
    log.propagate, writer = False, logs.Writer(stream, formatter)
    log.setLevel(logging.INFO)
    log.addHandler(writer)
    made = [Decision(replica(name), Target("b", "m", price=price), "") for name in NAMES for price in (None, lambda usage: 0.25)]
    some = [
        (rng.choice(made), rng.choice(NAMES), rng.choice(NAMES), "chat", rng.choice(IDS), 1.0, rng.random() ** 3, 99, rng.choice(TAILS))
        for _ in range(400)
    ]
    plains = [(*one, *NO_PART) for one in some]
    recorder = Recorder(Metrics(), log=log)
    for plain in plains:
        recorder.put_plain(plain)
    while recorder.drain(32):
        pass
    writer.flush()
    found = stream.getvalue().splitlines()
    assert len(found) == len(plains)
    for line, plain in zip(found, plains, strict=True):
        unix = 0.0  # the time stands in the line; everything else must be the same
        wanted = formatter.format(log_record(log, record_of(plain, 0.0), False, unix))
        assert without_time(line) == without_time(wanted)
    assert "hunter2" not in stream.getvalue() and "sk-abc" not in stream.getvalue()
    log.removeHandler(writer)
    writer.close()


def without_time(line: str) -> str:
    return line.partition(",")[2] if line.startswith("{") else line.partition(" ")[2]


def test_every_duration_is_written_as_the_encoder_writes_it() -> None:
    for tenths in range(10_001):
        assert msgspec.json.encode(tenths / 10_000.0).decode() == f"{tenths / 10_000.0}"


@pytest.mark.parametrize("odd", [b"{}", b"{},{}", b'{"usage":', b'{"usage":{"prompt_tokens":-1}}', b'{"usage":{"prompt_tokens":"9"}}', b""])
def test_one_that_cannot_be_read_costs_only_itself(odd: bytes) -> None:
    good = [b'{"usage":{"prompt_tokens":%d,"completion_tokens":3,"total_tokens":%d}}' % (n, n + 3) for n in range(4)]
    told: list[wire.Told | None] = []
    usage, bad = wire.usage_sum([*good[:2], odd, *good[2:]], None, told)
    assert (usage.input, usage.output, bad) == (6, 12, 1)
    assert wire.usage_sum([*good[:2], odd, *good[2:]]) == (usage, bad)
    rare = b'{"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":4}}}'
    assert wire.usage_sum([rare]) == wire.usage_sum([rare], [], []) == (Usage(1, 4, 0, 7, 0), 0)
    assert told == [(0, 0, 3), (1, 0, 3), None, (2, 0, 3), (3, 0, 3)]
