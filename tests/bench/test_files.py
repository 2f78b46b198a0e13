"""What a run leaves on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks.bench import files
from benchmarks.bench.errors import BenchError
from benchmarks.bench.plain import plain
from benchmarks.bench.words import Profile
from tests.bench.made_runs import KINDS, NASTY, one_request, stage, sweep


@pytest.mark.parametrize("kind", KINDS)
def test_a_summary_comes_back_as_it_was(tmp_path: Path, kind: str) -> None:
    result, _ = KINDS[kind]()
    path = tmp_path / "run.json"
    files.write_result(path, result)
    json.loads(path.read_text("utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    again = files.read_result(path)
    assert plain(again) == plain(result)
    assert [level.profile for level in again.levels] == [level.profile for level in result.levels]


def test_a_line_is_a_request(tmp_path: Path) -> None:
    made = stage(Profile("rate", 4.0), 40, fail=0.2)
    path = tmp_path / "run.jsonl"
    files.write_requests(path, [made])
    found = files.read_requests(path)
    assert [r.index for r in found] == [t.index for t in made.timed]
    for line, timed in zip(found, made.timed, strict=True):
        assert (line.level, line.due, line.sent, line.status, line.warm) == ("rate=4", timed.due, timed.sent, timed.status, timed.warm)
        if timed.good:
            assert timed.first is not None and timed.last is not None
            assert line.ttft == timed.first - timed.sent and line.ttft_due == timed.first - timed.due
            assert line.e2e == timed.last - timed.sent and line.error == ""
        else:
            assert (line.ttft, line.e2e, line.tpot, line.error) == (None, None, None, "too many requests")


def test_a_closed_loop_has_no_schedule() -> None:
    made = stage(Profile("sync"), 3)
    found = files.request(made, made.timed[0])
    assert (found.due, found.ttft_due, found.e2e_due) == (None, None, None)
    assert found.ttft is not None and found.tpot is not None


def test_what_is_to_be_written_goes_by_the_files_end(tmp_path: Path) -> None:
    result, stages = one_request()
    paths = files.checked([tmp_path / "a.html", tmp_path / "a.json", tmp_path / "a.JSONL"], overwrite=False)
    files.write(paths, result, stages, overwrite=False)
    assert paths[0].read_bytes().startswith(b"<!doctype html>")
    assert files.read_result(paths[1]).model == "qwen3-8b"
    assert len(files.read_requests(paths[2])) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.JSONL", "a.html", "a.json"]


@pytest.mark.parametrize(
    ("names", "said"),
    [(["run.csv"], "none of .html"), (["run"], "none of .html"), (["there.json"], "is there already"), (["a.json", "./a.json"], "twice"),
     (["folder.html"], "is a folder"), (["none/a.html"], "there is no folder"), (["x" * 300 + ".json"], "cannot be written")],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_anything_is_measured(tmp_path: Path, names: list[str], said: str) -> None:
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(BenchError, match=said) as caught:
        files.checked([os.path.join(tmp_path, name) for name in names], overwrite=False)
    assert caught.value.usage


def test_a_file_that_may_be_replaced_is(tmp_path: Path) -> None:
    path = tmp_path / "there.json"
    path.write_text("old")
    assert files.checked([path], overwrite=True) == [path]
    files.save(path, [b"new"], overwrite=True)
    assert path.read_text() == "new"


def test_a_file_that_came_meanwhile_is_left_and_the_others_are_written(tmp_path: Path) -> None:
    result, stages = one_request()
    paths = files.checked([tmp_path / "a.json", tmp_path / "b.jsonl"], overwrite=False)
    paths[0].write_text("someone else's")
    with pytest.raises(BenchError, match=r"a\.json was written by someone else"):
        files.write(paths, result, stages, overwrite=False)
    assert paths[0].read_text() == "someone else's"
    assert len(files.read_requests(paths[1])) == 1


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    files.save(tmp_path / "a.json", [b"one"], overwrite=False)
    with pytest.raises(BenchError, match="someone else"):
        files.save(tmp_path / "a.json", [b"two"], overwrite=False)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.json", b"one")]


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(BenchError, match=r"a\.json could not be written: No space left on device"):
        files.save(tmp_path / "a.json", pieces(), overwrite=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"target": 1}', "\x00"])
def test_what_is_no_summary_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=r"run\.json is no summary"):
        files.read_result(path)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be read: No such file"):
        files.read_result(tmp_path / "none.json")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(BenchError, match="line 1, is no request"):
        files.read_requests(tmp_path / "bad.jsonl")


def test_a_summary_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    result, _ = one_request()
    result.format = 2
    files.write_result(tmp_path / "run.json", result)
    with pytest.raises(BenchError, match="format 2"):
        files.read_result(tmp_path / "run.json")


def test_nothing_of_a_key_or_a_text_is_in_a_line() -> None:
    _, stages = sweep(5, 1)
    stages[0].timed[0].error = NASTY * 20
    names = set(msgspec.json.decode(next(iter(files.lines(stages)))))
    assert names == {f.name for f in msgspec.structs.fields(files.Request)}
    assert len(files.request(stages[0], stages[0].timed[0]).error) == 300
