"""From the hot path's queue to metrics, figures, the ring and the log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends.types import Usage
from gateway import logs
from gateway.lines import MESSAGES, NAME, NAMES, TEXT, Names, lines_for, log_record
from gateway.metrics import Metrics
from gateway.recorder import BATCH, Recorder, failed
from tests.gateway.test_metrics import record


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    writer = logs.setup("info", "json", stream=stream)
    yield stream
    logging.getLogger().removeHandler(writer)
    writer.close()


def written(stream: io.StringIO) -> list[dict[str, object]]:
    for handler in logging.getLogger().handlers:
        handler.flush()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def sample(metrics: Metrics, name: str) -> float:
    return sum(s.value for family in text_string_to_metric_families(metrics.render()) for s in family.samples if s.name == name)


def test_a_full_queue_drops_and_counts() -> None:
    metrics = Metrics()
    recorder = Recorder(metrics, capacity=3)
    for _ in range(5):
        recorder.put(record())
    assert sample(metrics, "pointsman_records_waiting") == 3
    assert recorder.drain() == 0
    assert (recorder.dropped, sample(metrics, "pointsman_records_dropped_total")) == (2, 2)
    assert sample(metrics, "pointsman_requests_total") == 3
    assert recorder.traffic().dropped == 2


def test_drain_keeps_to_its_limit_and_the_ring_to_its_size() -> None:
    recorder = Recorder(Metrics(), recent=4)
    for i in range(10):
        recorder.put(record(id=str(i)))
    assert recorder.drain(7) == 3
    assert recorder.drain(7) == 0
    assert [r.id for r in recorder.recent(3)] == ["9", "8", "7"]
    assert [r.id for r in recorder.recent(99)] == ["9", "8", "7", "6"]
    assert recorder.recent(-1) == []


def test_usage_is_read_late_and_a_bad_answer_stops_nobody() -> None:
    metrics = Metrics()
    recorder = Recorder(metrics)
    good = b'{"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":2}}}'
    waiting = record(usage=None)
    recorder.put(waiting, good)
    assert waiting.usage is None, "nothing is parsed on the hot path"
    bad = [b"{", b"", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b'{"usage":{"prompt_tokens":"x"}}', b'{"usage":null}']
    for tail in bad:
        recorder.put(record(usage=None), tail)
    recorder.put(record(usage=Usage(5, 0, 0, 5)))
    recorder.drain()
    last, *middle, first = recorder.recent(99)
    assert (first.usage, last.usage) == (Usage(3, 2, 0, 7), Usage(5, 0, 0, 5))
    assert [r.usage for r in middle] == [None] * len(bad)
    assert recorder.unparsed == len(bad) == sample(metrics, "pointsman_usage_unreadable_total")


def test_a_batch_is_drained_before_the_tick_under_load() -> None:
    recorder = Recorder(Metrics())
    asked: list[Callable[[], None]] = []
    recorder.soon = asked.append
    for _ in range(BATCH):
        assert asked == []
        recorder.put(record())
    (drain,) = asked
    drain()
    assert len(recorder.recent(99)) == BATCH and recorder.drain() == 0


def test_the_last_minute() -> None:
    clock = Clock()
    recorder = Recorder(Metrics(), clock=clock)
    for i in range(120):
        clock.now = 1000.0 + i
        recorder.put(record(route="a", duration=0.5, ttft=0.1 if i % 10 else 1.0, usage=Usage(1, 0, 0, 30)))
        recorder.put(record(route="b", stream=False, status=502, fault="upstream", origin="backend", ttft=None, usage=None))
        recorder.drain()
    clock.now += 1
    traffic = recorder.traffic()
    total, (a, b) = traffic.total, traffic.routes
    assert (a.route, a.requests, a.errors, a.rps, a.tokens_per_second) == ("a", 60, 0, 1.0, 30.0)
    assert (b.route, b.requests, b.errors, b.ttft_p50) == ("b", 60, 60, None)
    assert (total.requests, total.errors, total.rps) == (120, 60, 2.0)
    assert a.ttft_p50 == pytest.approx(0.1, rel=0.06) and a.ttft_p95 == pytest.approx(1.0, rel=0.06)
    assert len(a.rates) == 30 and set(a.rates[:-1]) == {1.0}
    history = traffic.history
    assert {len(x) for x in (history.rps, history.errors, history.tokens_per_second, history.ttft_p50, history.ttft_p95)} == {149}
    assert history.rps[:60] == [0.0] * 60 and history.rps[-2] == 2.0 and history.ttft_p50[0] is None


def test_a_long_answers_tokens_are_spread_over_its_time() -> None:
    clock = Clock(2000.5)
    recorder = Recorder(Metrics(), clock=clock)
    recorder.put(record(duration=11.0, ttft=1.0, usage=Usage(1, 0, 0, 100)))
    recorder.drain()
    clock.now = 2001.5
    history = recorder.traffic().history.tokens_per_second
    assert sum(history) * 2 == pytest.approx(100, abs=15), "a point's two seconds may lie across the present one"
    assert max(history) == pytest.approx(10.0)


def test_idle_routes_are_forgotten_and_invented_ones_share_a_ring() -> None:
    clock = Clock()
    recorder = Recorder(Metrics(), clock=clock)
    for i in range(100):
        recorder.put(record(route=f"x{i}", status=404, fault="not_found", origin="client"))
        recorder.put(record(route=f"real{i}"))
    recorder.drain()
    clock.now += 2
    names = {r.route for r in recorder.traffic().routes}
    assert len(names) <= 33 and {"unknown", "other"} <= names
    assert recorder.traffic().total.requests == 200
    clock.now += 400
    assert recorder.traffic().routes == [] and recorder.traffic().total.requests == 0


def test_one_line_a_request_with_the_level_of_its_end(lines: io.StringIO) -> None:
    recorder = Recorder(Metrics())
    recorder.put(record(id="ok"))
    recorder.put(record(id="left", status=499, fault="cancelled", origin="client", usage=None))
    recorder.put(record(id="bad", status=502, fault="upstream", origin="backend", message="refused with Bearer abcdefgh", usage=None))
    recorder.drain()
    ok, left, bad = written(lines)
    assert (ok["level"], ok["status"], ok["tokens_in"], ok["tokens_out"], ok["ttft"]) == ("info", 200, 11, 16, 0.25)
    assert (left["level"], left["origin"]) == ("info", "client")
    assert (bad["level"], bad["fault"], bad["error"]) == ("warning", "upstream", "refused with Bearer [redacted]")


def test_nothing_is_formatted_below_the_level(lines: io.StringIO) -> None:
    class Untouchable(str):
        def __len__(self) -> int:
            raise AssertionError("formatted")

    log = logging.getLogger("pointsman.request.test")
    log.setLevel(logging.ERROR)
    recorder = Recorder(Metrics(), log=log)
    recorder.put(record(tenant=Untouchable("t")))
    recorder.drain()
    assert written(lines) == []


def test_the_runner_drains_and_stops_with_nothing_left() -> None:
    async def scenario() -> None:
        metrics = Metrics()
        seen = asyncio.Event()

        class Log(logging.Logger):
            def isEnabledFor(self, level: int) -> bool:
                seen.set()
                return False

        recorder = Recorder(metrics, log=Log("tells"))
        for _ in range(200):
            recorder.put(record())
        task = asyncio.create_task(recorder.run(interval=0.001, batch=10))
        await seen.wait()
        recorder.put(record())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sample(metrics, "pointsman_requests_total") == 201

    asyncio.run(scenario())


def test_who_failed() -> None:
    assert not failed(record()) and failed(record(status=500))
    assert not failed(record(status=429, fault="rate_limited", origin="client"))
    assert failed(record(status=200, fault="upstream", origin="backend")), "a stream that broke after its head"
    assert "Recorder(0 of" in repr(Recorder(Metrics()))


BAD = {"status": 502, "fault": "upstream", "origin": "backend", "usage": None}
SHAPES: list[dict[str, object]] = [
    {}, {"ttft": None, "stream": False}, {"usage": None}, {"route": "", "replica": "", "tenant": "", "backend": ""}, {"id": ""},
    {"id": "req-0123456789ab-17"}, {"id": "123e4567-e89b-12d3-a456-426614174000"}, {"id": "sk-abcdefghijkl"},
    {"id": "it is Bearer abcdefgh"},
    {"id": "a\nb"}, {"id": "\u2028\x1b[31m\x7f"}, {"id": "half \ud800 a pair"},
    {"route": "mod\u00e8le \u2713 \U0001f600"}, {"route": "x" * 5000},
    {"replica": "https://user:hunter2@example.com/v1"}, {"tenant": 'two "words"'}, {"id": "\U0001f600" * 500, "route": "\U0001f600" * 500},
    {"duration": 0.00004, "ttft": 0.00006}, {"duration": 86400.0, "usage": Usage(10**12, 1, 2, 10**12, 3)},
    {**BAD, "message": "no"}, {**BAD, "message": "api_key=hunter2 \u202e" * 100}, {**BAD, "message": ""}, {"status": 500},
    {"status": 499, "fault": "cancelled", "origin": "client", "message": "The client closed the connection.", "usage": None},
    {"cost": 0.000012, "cost_reported": 1.5, "notes": "max_tokens=mapped,seed=dropped"}, {"cost": 0.0, "usage": None},
    {"cost_reported": 2.0}, {"notes": "Bearer abcdef,seed=dropped"},
    {**BAD, "id": "\x01" * 600, "route": "\x02" * 600, "replica": '"' * 600, "tenant": "\x03" * 600, "message": "\x04" * 600},
]  # fmt: skip


@pytest.mark.parametrize("formatter", [logs.JsonFormatter(), logs.TextFormatter(), logs.TextFormatter(color=True)])
def test_the_short_way_writes_what_the_formatter_would(formatter: logging.Formatter) -> None:
    log = logging.getLogger("pointsman.request")
    writer = logs.Writer(io.StringIO(), formatter)
    make, unix = lines_for(writer, log), 1_790_000_000.0625
    batch = [(r, failed(r)) for r in (record(**shape) for shape in SHAPES)]
    wanted = [formatter.format(log_record(log, *ended, unix)) for ended in batch]
    for _ in range(2):  # the second time from what was kept
        text = make(batch, unix)
        assert text.splitlines() == wanted and text.endswith("\n")
        assert [make([ended], unix) for ended in batch] == [line + "\n" for line in wanted]
    assert "hunter2" not in text and "sk-abc" not in text and "Bearer abc" not in text
    writer.close()


@pytest.mark.parametrize("format", ["json", "text"])
def test_a_secret_learned_later_is_hidden_from_then_on(format: logs.Format) -> None:
    stream = io.StringIO()
    writer = logs.setup("info", format, stream=stream)
    recorder = Recorder(Metrics())
    secret = f"0123456789abcdef-{format.encode().hex()}"
    seen = record(id=secret, route=f"a {secret}", status=502, fault="upstream", origin="backend", message=f"said {secret}")
    for _ in range(2):
        recorder.put(seen)
        recorder.drain()
        logs.hide(secret)
    writer.flush()
    before, after = stream.getvalue().splitlines()
    assert before.count(secret) == 3 and secret not in after and after.count(logs.HIDDEN) == 3
    logging.getLogger().removeHandler(writer)
    writer.close()


class Kept(logging.Handler):
    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.seen: list[tuple[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append((record.levelname, vars(record)["fields"]["id"]))


def test_handlers_of_other_people_get_records_as_ever() -> None:
    log = logging.Logger("pointsman.request")
    every, grave = Kept(), Kept(logging.WARNING)
    log.addHandler(every)
    log.addHandler(grave)
    recorder = Recorder(Metrics(), log=log)
    both = [("INFO", "ok"), ("WARNING", "bad")]
    for number in (1, 2):
        recorder.put(record(id="ok"))
        recorder.put(record(id="bad", status=500))
        recorder.drain()
        assert (every.seen, grave.seen) == (both * number, both[1:] * number)
        if number == 1:
            stream = io.StringIO()
            writer = logs.Writer(stream, logs.JsonFormatter())
            log.addHandler(writer)
    writer.close()
    assert [json.loads(line)["id"] for line in stream.getvalue().splitlines()] == ["ok", "bad"]


def test_a_filter_a_level_and_a_format_of_ones_own_are_kept_to() -> None:
    def filtered(log: logging.Logger, writer: logs.Writer) -> None:
        log.addFilter(lambda made: made.levelno >= logging.WARNING)

    def in_the_writer(log: logging.Logger, writer: logs.Writer) -> None:
        writer.addFilter(lambda made: made.levelno >= logging.WARNING)

    def by_level(log: logging.Logger, writer: logs.Writer) -> None:
        writer.setLevel(logging.WARNING)

    def by_logger(log: logging.Logger, writer: logs.Writer) -> None:
        log.setLevel(logging.WARNING)

    for change in (filtered, in_the_writer, by_level, by_logger):
        log, stream = logging.Logger("pointsman.request"), io.StringIO()
        writer = logs.Writer(stream, logs.JsonFormatter())
        log.addHandler(writer)
        change(log, writer)
        recorder = Recorder(Metrics(), log=log)
        recorder.put(record(id="ok"))
        recorder.put(record(id="bad", status=500))
        recorder.drain()
        writer.close()
        assert [json.loads(line)["id"] for line in stream.getvalue().splitlines()] == ["bad"], change.__name__
    stream = io.StringIO()
    writer = logs.Writer(stream, logging.Formatter("mine: %(message)s"))
    log = logging.Logger("pointsman.request")
    log.addHandler(writer)
    recorder = Recorder(Metrics(), log=log)
    recorder.put(record())
    recorder.drain()
    writer.close()
    assert stream.getvalue() == "mine: request\n"
    with pytest.raises(TypeError, match="no request lines for a Formatter"):
        lines_for(writer, log)


def test_lines_keep_their_order_and_follow_a_new_writer(lines: io.StringIO) -> None:
    recorder = Recorder(Metrics())
    other = logging.getLogger("pointsman.test")
    other.info("first")
    for i in range(BATCH):
        recorder.put(record(id=str(i)))
    recorder.drain()
    other.info("last")
    told = written(lines)
    assert [line["message"] for line in told] == ["first", *["request"] * BATCH, "last"]
    assert [line["id"] for line in told[1:-1]] == [str(i) for i in range(BATCH)]
    stream = io.StringIO()
    writer = logs.setup("info", "text", stream=stream)
    recorder.put(record(id="r", route="a b"))
    recorder.drain()
    writer.close()
    logging.getLogger().removeHandler(writer)
    assert 'INFO  request              request  id=r api=chat route="a b" status=200 seconds=1.0 ttft=0.25' in stream.getvalue()
    assert len(lines.getvalue().splitlines()) == BATCH + 2


def test_what_is_kept_of_names_is_bounded() -> None:
    names = Names(str.upper)
    for i in range(3 * NAMES):
        assert names[f"n{i}"] == f"N{i}"
        assert len(names) <= NAMES
    assert names["x" * (NAME + 1)] == "X" * (NAME + 1) and "x" * (NAME + 1) not in names
    messages = Names(str.upper, MESSAGES, TEXT)
    assert messages["x" * TEXT] == "X" * TEXT and "x" * TEXT in messages


def test_a_recorder_without_any_handler_says_only_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(Metrics(), log=logging.Logger("alone"))
    recorder.put(record())
    recorder.put(record(status=500))
    recorder.drain()
    assert capsys.readouterr().err == "request\n", "logging's handler of last resort"
