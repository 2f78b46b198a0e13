"""Traces are read as they were written, in order, and what is wrong with them is said with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.bench import traces
from benchmarks.bench.captures import Line
from benchmarks.bench.errors import BenchError
from benchmarks.bench.traces import Counts, Cut, lines

PUBLIC = Path(__file__).parents[3] / "shared" / "traces"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
SETTINGS = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, text: str | bytes, *, packed: bool = False) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def mooncake(at: float, asked: int, given: int, *ids: int) -> str:
    return json.dumps({"timestamp": at, "input_length": asked, "output_length": given, "hash_ids": list(ids)}) + "\n"


def refusal(path: Path) -> str:
    with pytest.raises(BenchError) as caught:
        list(lines(path))
    return str(caught.value)


ROWS = st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 200_000), st.integers(0, 4000)), min_size=1, max_size=40)


@SETTINGS
@given(ROWS, st.booleans(), st.randoms(use_true_random=False))
def test_mooncake_comes_back_as_it_was_written(tmp_path: Path, rows: list[tuple[int, int, int]], packed: bool, rng: Any) -> None:
    rows = sorted(rows)
    ids = [tuple(rng.randrange(2**40) for _ in range(-(-asked // 512))) for _, asked, _ in rows]
    text = "".join(mooncake(*row, *each) for row, each in zip(rows, ids, strict=True))
    found = list(lines(written(tmp_path / "t", text, packed=packed)))
    assert [(line.input_tokens, line.output_tokens, line.blocks) for line in found] == [
        (asked, given, each) for (_, asked, given), each in zip(rows, ids, strict=True)
    ]
    assert [line.at for line in found] == pytest.approx([(at - rows[0][0]) / 1000 for at, *_ in rows])
    assert [line.number for line in found] == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("packed", [False, True])
def test_azure_comes_back_as_it_was_written(tmp_path: Path, packed: bool) -> None:
    rows = "2023-11-16 23:59:59.9799600,4808,10\r\n2023-11-17 00:00:00.4799600,3180,8\n\n2023-11-17 00:00:01,0,0"
    one, two, three = lines(written(tmp_path / "t.csv", "\ufeff" + AZURE + rows, packed=packed))
    assert (one.at, one.input_tokens, one.output_tokens, one.number) == (0.0, 4808, 10, 2)
    assert (two.at, two.input_tokens, two.output_tokens, two.number) == (0.5, 3180, 8, 3)
    assert (three.input_tokens, three.output_tokens, three.number) == (0, 0, 5)


def test_columns_may_stand_in_any_order_and_have_time_zones(tmp_path: Path) -> None:
    text = '"GeneratedTokens",Region,"TIMESTAMP",ContextTokens\n'
    text += '7,eu,2024-05-10 00:00:00.009930+00:00,9\n8,eu,"2024-05-10 02:00:01.009930+02:00",10\n'
    one, two = lines(written(tmp_path / "t", text))
    assert (one.input_tokens, one.output_tokens, two.input_tokens, two.at) == (9, 7, 10, 1.0)


def test_lines_slightly_out_of_order_are_put_right(tmp_path: Path) -> None:
    order = [at ^ 64 for at in range(1024)]
    path = written(tmp_path / "t", "".join(mooncake(at * 1000, at + 1, 1) for at in order))
    found = list(lines(path))
    assert [line.at for line in found] == list(range(1024))
    assert all(line.input_tokens == line.at + 1 for line in found)


def test_lines_far_out_of_order_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t", "".join(mooncake(at * 1000, 1, 1) for at in [*range(400), 0]))
    assert refusal(path) == "line 401 of t is earlier than lines far before it; sort it by time, and use little jitter"


def test_times_on_a_grid_are_spread_when_asked(tmp_path: Path) -> None:
    path = written(tmp_path / "t", "".join(mooncake(at // 20 * 3000, at + 1, 1) for at in range(600)))
    plain, spread = list(lines(path)), list(lines(path, Cut(jitter=3.0)))
    assert spread == list(lines(path, Cut(jitter=3.0)))
    assert len({line.at for line in plain}) == 30 and len({line.at for line in spread}) == 600
    assert [line.at for line in spread] == sorted(line.at for line in spread)
    late = {line.number: line.at for line in spread}
    first = min(late.values())
    moved = [late[line.number] - first - line.at for line in plain]
    assert all(-3.0 < each < 3.0 for each in moved) and max(moved) - min(moved) > 2.5
    for wrong in (-1.0, 11.0, float("nan")):
        with pytest.raises(BenchError, match="jitter"):
            list(lines(path, Cut(jitter=wrong)))


def test_the_window_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "_WINDOW_BYTES", 100)
    rows = [json.dumps({"at": at, "body": {"prompt": "x" * 60}}) for at in (1, 2, 0)]
    assert "line 3 of t is earlier" in refusal(written(tmp_path / "t", "\n".join(rows)))


def test_what_is_taken(tmp_path: Path) -> None:
    path = written(
        tmp_path / "t", "".join(mooncake(5000 + at * 1000, 1000 * at + 1, 1, *range((1000 * at + 512) // 512)) for at in range(10))
    )

    def taken(**cut: Any) -> list[tuple[float, int]]:
        return [(line.at, line.input_tokens) for line in lines(path, Cut(**cut))]

    assert taken(limit=2) == [(0.0, 1), (1.0, 1001)]
    assert taken(limit=0) == []
    assert taken(start=8.0) == [(0.0, 8001), (1.0, 9001)]
    assert taken(start=3.0, stop=5.0) == [(0.0, 3001), (1.0, 4001)]
    assert taken(start=3.0, limit=1) == [(0.0, 3001)]
    assert taken(max_input=1000) == [(0.0, 1)]
    counts = Counts()
    clipped = list(lines(path, Cut(max_input=1025, clip=True, limit=4), counts))
    assert [(line.input_tokens, line.blocks) for line in clipped] == [(1, (0,)), (1001, (0, 1)), (1025, (0, 1, 2)), (1025, (0, 1, 2))]
    assert counts == Counts(taken=4, clipped=2)
    assert counts.notes() == ["2 of 4 prompts were longer than the model takes and were cut."]
    counts = Counts()
    list(lines(path, Cut(max_input=1001), counts))
    assert counts == Counts(taken=2, too_long=8)
    assert len(counts.notes()) == 1
    assert taken(context=1001) == [(0.0, 1)]
    assert taken(context=1002) == [(0.0, 1), (1.0, 1001)]
    assert taken(context=1002, clip=True)[2:4] == [(2.0, 1001), (3.0, 1001)]
    assert taken(context=1, clip=True) == []
    assert Counts().notes() == []


GOOD = mooncake(0, 600, 5, 1, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the trace t is empty"),
        ("\n \n", "the trace t is empty"),
        ("hello\n", "t is no trace that is known"),
        ("TIMESTAMP,ContextTokens\n", "t is no trace that is known"),
        (b"\x00\x01\x02", "t is no trace that is known"),
        (GOOD + "{", "line 2 of t is no JSON"),
        (GOOD + "[1]", "line 2 of t is bad"),
        (GOOD + '{"timestamp": "x", "input_length": 1, "output_length": 1}', "line 2 of t is bad"),
        (GOOD + '{"timestamp": 1, "input_length": -1, "output_length": 1}', "line 2 of t is bad"),
        (GOOD + '{"timestamp": 1, "input_length": 1e99, "output_length": 1}', "line 2 of t is bad"),
        (GOOD + '{"timestamp": NaN, "input_length": 1, "output_length": 1}', "line 2 of t is no JSON"),
        (GOOD + mooncake(1, 512, 1, 1, 2), "line 2 of t has 2 blocks for 512 tokens; one is for 512"),
        (GOOD + "\n" + "[" * 100_000, "line 3 of t is bad"),
        (GOOD + '{"x": ' + "[" * 100_000, "line 2 of t is no JSON"),
        (GOOD.encode() + b'{"timestamp": 1, "\xff": 1}', "line 2 of t is"),
        (GOOD + mooncake(1e15, 1, 1), "line 2 of t is 1,000,000,000,000 seconds after the first; check its time"),
        (AZURE + "2023-11-16 18:17:03,1", "line 2 of t has 2 columns instead of 3"),
        (AZURE + "yesterday,1,1", "line 2 of t has the time 'yesterday'"),
        (AZURE + "2023-11-16 18:17:03,1,1\n2023-11-16 18:17:03+00:00,1,1", "line 3 of t has the time"),
        (AZURE + "2023-11-16 18:17:03,-1,1", "line 2 of t has '-1' tokens"),
        (AZURE + "2023-11-16 18:17:03,1.5,1", "line 2 of t has '1.5' tokens"),
        (AZURE + "2023-11-16 18:17:03,1," + "9" * 5000, "line 2 of t has '99999999999999999999' tokens"),
        (AZURE + "2023-11-16 18:17:03,1,٣", "line 2 of t has '٣' tokens"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    found = refusal(written(tmp_path / "t", text))
    assert said in found
    assert len(found) < 300


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none")
    assert "cannot be read" in refusal(tmp_path)
    packed = gzip.compress(GOOD.encode() * 1000)
    assert "damaged" in refusal(written(tmp_path / "cut", packed[:-20]))
    assert "damaged" in refusal(written(tmp_path / "torn", packed[:30] + b"\0" * 40))
    assert "damaged" in refusal(written(tmp_path / "tail", packed + b"tail"))


def test_a_line_without_an_end_is_refused_and_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_LINE", 1 << 16)
    bomb = written(tmp_path / "bomb", b"{" + b" " * (8 << 20), packed=True)
    assert "line 1 of bomb is too much" in refusal(bomb)
    monkeypatch.setattr(traces, "MAX_LINES", 3)
    assert "line 4 of many is too much" in refusal(written(tmp_path / "many", GOOD * 10))


@SETTINGS
@given(
    st.binary(max_size=200), st.sampled_from([b"", GOOD.encode(), AZURE.encode(), b'{"at": 1, "body": {"prompt": "x"}}\n', b"\x1f\x8b\x08"])
)
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path: Path, tail: bytes, head: bytes) -> None:
    path = written(tmp_path / "t", head + tail)
    try:
        found = list(lines(path))
    except BenchError as error:
        assert "t" in str(error) and len(str(error)) < 400
    else:
        assert all(isinstance(line, Line) and line.at >= 0 for line in found)


def test_a_reader_that_is_left_closes_its_file(tmp_path: Path) -> None:
    reading = lines(written(tmp_path / "t", GOOD * 5, packed=True))
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert next(reading, None) is None


def public(name: str) -> Path:
    path = PUBLIC / name
    if not path.exists():
        pytest.skip(f"the public trace {name} does not lie in ../shared/traces beside this checkout")
    return path


@pytest.mark.parametrize(
    ("name", "count", "asked", "given"),
    [("azure2023_code.csv.gz", 8819, 18_059_974, 245_896), ("azure2023_conv.csv.gz", 19_366, 22_361_870, 4_088_665)],
)
def test_the_public_azure_traces(name: str, count: int, asked: int, given: int) -> None:
    found = list(lines(public(name)))
    assert len(found) == count
    assert (sum(line.input_tokens for line in found), sum(line.output_tokens for line in found)) == (asked, given)
    assert found[0].at == 0.0
    assert 3400 < found[-1].at < 3700


def test_the_public_mooncake_trace() -> None:
    found = list(lines(public("mooncake_conversation_trace.jsonl.gz")))
    assert len(found) == 12_031
    assert all(len(line.blocks) == -(-line.input_tokens // 512) for line in found)
    assert all(line.blocks[0] == 0 for line in found)
    assert max(line.input_tokens for line in found) == 126_195
    assert len({line.at for line in found}) == 1180
