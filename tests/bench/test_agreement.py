"""The comparison with guidellm and aiperf: what they leave is read, recomputed by our definitions, judged and shown.

`agreement/` holds what guidellm 0.8.1 and aiperf 0.13.0 really wrote of a scripted server (8 tokens, first after 20 ms, one each 5 ms,
every sixth request refused; 7 requests after 2 to warm up), shortened to what is read and a little around it.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from pathlib import Path

import pytest

from benchmarks.agreement import cli, parse, table, tokenizer, tools
from benchmarks.agreement.judge import OTHERWISE, redone, rows
from benchmarks.agreement.words import FIGURES, Load, Row, Run, Who
from benchmarks.bench.errors import BenchError
from benchmarks.bench.words import Figures, Health, Level, Profile, Provenance, Result, Spread, Timed

HERE = Path(__file__).parent / "agreement"
LOAD = Load("sync", Profile("sync"), requests=7, warm=2)


def guide() -> Run:
    return parse.guidellm((HERE / "guidellm.json").read_bytes(), LOAD, 0)


def ai() -> Run:
    return parse.aiperf((HERE / "aiperf.json").read_bytes(), (HERE / "aiperf.jsonl").read_bytes(), LOAD, 0)


def test_guidellm_is_read_in_seconds_with_its_failure() -> None:
    run = guide()
    document = json.loads((HERE / "guidellm.json").read_bytes())["benchmarks"][0]
    assert run.said["TTFT p50"] == pytest.approx(document["metrics"]["time_to_first_token_ms"]["successful"]["median"] / 1000)
    assert run.said["E2E mean"] == document["metrics"]["request_latency"]["successful"]["mean"]
    assert run.said["TPOT p50"] == pytest.approx(0.005, rel=0.05)
    assert (len(run.timed), run.failed, sum(each.warm for each in run.timed)) == (9, 1, 2)
    assert [each.index for each in run.timed] == list(range(9))
    bad = [each for each in run.timed if not each.good]
    assert len(bad) == 1 and "503" in bad[0].error
    assert all(each.completion_tokens == 8 and len(each.stamps) == 2 for each in run.timed if each.good)


def test_guidellm_recomputed_is_what_its_records_say() -> None:
    run = guide()
    again = redone(run)
    good = [each for each in run.timed if each.good and not each.warm]
    values = sorted((each.stamps[1] - each.stamps[0]) / 7 for each in good)
    assert again["TPOT mean"] == pytest.approx(sum(values) / len(values))
    assert again["requests/s"] * 8 == pytest.approx(again["tokens/s"])
    assert again["TTFT mean"] >= 0.02 and again["E2E p50"] >= 0.055
    assert not any(name.startswith("ITL") for name in again), "it keeps no times of chunks"


def test_aiperf_recomputed_is_what_it_says_itself() -> None:
    run = ai()
    again = redone(run)
    assert run.failed == 2 and len(run.timed) == 7, "its warm-up is left out"
    for name in ("TTFT p50", "TTFT mean", "TPOT p50", "TPOT mean", "ITL p50", "ITL mean", "E2E p50", "E2E mean"):
        assert again[name] == pytest.approx(run.said[name], abs=2e-6), name
    assert set(again) == set(FIGURES)


def test_an_answer_of_one_chunk_has_no_gaps() -> None:
    record = {
        "metadata": {"request_start_ns": 10**18, "request_end_ns": 10**18 + 5 * 10**7},
        "metrics": {"time_to_first_token": {"value": 40.0, "unit": "ms"}, "output_sequence_length": {"value": 1, "unit": "tokens"}},
    }
    run = parse.aiperf((HERE / "aiperf.json").read_bytes(), json.dumps(record).encode(), LOAD, 0)
    assert [len(each.stamps) for each in run.timed] == [1]
    assert redone(run)["TTFT mean"] == pytest.approx(0.04, abs=1e-6)
    record["metrics"] = {}
    with pytest.raises(BenchError, match="no time_to_first_token"):
        parse.aiperf((HERE / "aiperf.json").read_bytes(), json.dumps(record).encode(), LOAD, 0)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"benchmarks": []}', b'{"benchmarks": [{"metrics": {}}]}', b"\xff"])
def test_what_is_no_guidellm_output_is_refused(data: bytes) -> None:
    with pytest.raises(BenchError, match="guidellm"):
        parse.guidellm(data, LOAD, 0)


def test_what_is_no_aiperf_output_is_refused() -> None:
    good = (HERE / "aiperf.json").read_bytes()
    with pytest.raises(BenchError, match="record 1"):
        parse.aiperf(good, b"{}", LOAD, 0)
    with pytest.raises(BenchError, match="summary"):
        parse.aiperf(b"{}", b"", LOAD, 0)
    with pytest.raises(BenchError, match="'s'"):
        parse.aiperf(good.replace(b'"unit":"ms"', b'"unit":"s"'), b"", LOAD, 0)


def test_our_own_summary() -> None:
    empty = Spread(0)
    found = Figures(
        LOAD.profile, 0, 5.0, 7, 7, 0, ttft=Spread(7, mean=0.05, p50=0.05), ttft_due=empty, tpot=empty, itl=empty, e2e=empty,
        e2e_due=empty, request_rate=1.4, offered_rate=1.4, input_rate=1.0, output_rate=90.0, concurrency=1.0, cached_share=None,
        output_share=1.0, health=Health(trouble="it was late"),
    )  # fmt: skip
    told = Provenance([], "", "", "", {}, {}, "", 1, "")
    run = parse.ours(Result("t", "m", told, [Level(LOAD.profile, [found], found)]), LOAD, 0, "another")
    assert run.said == {"TTFT p50": 0.05, "TTFT mean": 0.05, "requests/s": 1.4, "tokens/s": 90.0}
    assert run.trouble == "it was late"
    with pytest.raises(BenchError, match="nothing of sync: why"):
        parse.ours(Result("t", "m", told, [], warnings=["why"]), LOAD, 0)


def made(who: Who, repeat: int, **said: float) -> Run:
    return Run(who, LOAD, repeat, {name.replace("_", " "): value for name, value in said.items()})


def verdicts(runs: list[Run]) -> dict[str, str]:
    return {row.figure: row.verdict for row in rows(runs)}


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ((1.0, 1.0, 1.0), (1.02, 1.029, 1.04), "agrees"),
        ((1.0, 1.0, 1.0), (0.96, 0.96, 0.96), "differs"),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.06), "unsteady"),
        ((1.0, 1.03, 1.06), (1.03, 1.03, 1.03), "unsteady"),
        ((1.0, 1.0, 1.0), (1.4, 1.5, 1.6), "differs"),
        ((1.0,), (1.02,), "agrees"),
    ],
)
def test_verdicts(ours: tuple[float, ...], theirs: tuple[float, ...], verdict: str) -> None:
    runs = [made("pointsman", at, TTFT_p50=value) for at, value in enumerate(ours)]
    runs += [made("aiperf", at, TTFT_p50=value) for at, value in enumerate(theirs)]
    assert verdicts(runs) == {"TTFT p50": verdict}


def test_what_is_defined_otherwise_is_shown_and_not_judged() -> None:
    runs = [Run("pointsman", LOAD, 0, {"requests/s": 1.0}), Run("guidellm", LOAD, 0, {"requests/s": 2.0})]
    (row,) = rows(runs)
    assert ("guidellm", "requests/s") in OTHERWISE
    assert (row.verdict, row.ratio, row.redone) == ("other", 2.0, None)
    text = table.tables([row])
    assert "2.000" in text and "mean of a rate over time" in text
    assert table.summary([row], runs)[0] == 1, "nothing that can be compared is no agreement"


def test_requests_are_judged_where_the_client_counts_otherwise() -> None:
    timed = [Timed(at, 0.0, sent=at + 1.0, stamps=[at + 1.5, at + 2.0], done=at + 2.0, status=200, completion_tokens=2) for at in range(5)]
    runs = [Run("pointsman", LOAD, 0, {"requests/s": 1.0}), Run("guidellm", LOAD, 0, {"requests/s": 2.0}, timed)]
    (row,) = rows(runs)
    assert row.verdict == "agrees" and row.redone == pytest.approx(1.0)


def test_the_table_and_the_sentence() -> None:
    runs = [made("pointsman", at, TTFT_p50=0.05, TTFT_mean=0.05) for at in range(2)]
    runs += [made("aiperf", at, TTFT_p50=0.051, TTFT_mean=0.06) for at in range(2)]
    found = rows(runs)
    text = table.tables(found)
    assert "**sync**" in text and "| TTFT p50 | 50.00 ms | 0.0 % | aiperf | 51.00 ms | 1.020 | 0.0 % | – | – | – | agrees |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {12}
    code, told = table.summary(found, runs)
    assert code == 1
    assert "aiperf: 1 of 2 figures agree within 3 %, spread at most 5 %; differs: sync TTFT mean." in told


def test_all_in_agreement_is_0_and_a_failure_is_not() -> None:
    def row(who: Who) -> Row:
        return Row("sync", who, "TTFT p50", 1.0, 0.0, 1.0, 1.0, 0.0, None, None, None, "agrees")

    good = [row("guidellm"), row("aiperf")]
    assert table.summary(good, [made("aiperf", 0)])[0] == 0
    code, told = table.summary(good, [Run("aiperf", LOAD, 1, {}, failed=3)])
    assert code == 1 and "aiperf, sync, repeat 2: 3 requests failed" in told
    code, told = table.summary(good, [Run("pointsman", LOAD, 0, {}, trouble="it was late")])
    assert code == 1 and told.endswith("it was late")


def test_a_run_that_failed_leaves_the_others() -> None:
    runs = [made("pointsman", at, TTFT_p50=1.0) for at in range(2)]
    runs += [made("aiperf", 0, TTFT_p50=1.0), Run("aiperf", LOAD, 1, {}, trouble="failed")]
    (row,) = rows(runs)
    assert row.verdict == "agrees" and row.said_spread is None


def site(folder: Path) -> tools.Site:
    return tools.Site(folder, folder / "tokenizer", "http://127.0.0.1:1", 64, 32, folder / "results")


def test_every_client_is_told_the_same_load(tmp_path: Path) -> None:
    plan = cli.loads(cli.script_of(50), ["sync", "concurrent", "rate"], 30)
    assert [(load.name, load.requests) for load in plan] == [("sync", 44), ("concurrent=4", 176), ("rate=10", 300)]
    assert math.isinf(plan[2].profile.shape)
    for load, theirs, pace in zip(plan, ("synchronous", "concurrent,streams=4", "constant,rate=10"), ("1", "4", "10"), strict=True):
        ours = tools.ours_command(site(tmp_path), load, tmp_path / "run.json")
        assert ours[ours.index("--requests") + 1] == str(load.requests + load.warm) and load.name in ours
        guided = tools.guidellm_command(site(tmp_path), load, tmp_path / "run.json")
        assert f"kind=max_requests,count={load.requests + load.warm}" in guided
        assert f"kind={theirs},warmup.mode=requests,warmup.value={load.warm}" in guided
        asked = tools.aiperf_command(site(tmp_path), load, tmp_path)
        assert asked[asked.index("--request-count") + 1] == str(load.requests)
        assert asked[asked.index("--request-rate" if load.profile.name == "rate" else "--concurrency") + 1] == pace


def test_ours_really_runs_and_what_is_not_there_is_said(tmp_path: Path) -> None:
    load = Load("sync", Profile("sync"), 1, 0)
    with pytest.raises(BenchError, match=r"ended with status 1: .*nothing answers"):
        asyncio.run(tools.run("pointsman", site(tmp_path), load, 0))
    with pytest.raises(BenchError, match=r"cannot be started .* --install"):
        asyncio.run(tools.run("guidellm", site(tmp_path), load, 0))
    (tmp_path / "aiperf" / "bin").mkdir(parents=True)
    (tmp_path / "aiperf" / "bin" / "aiperf").symlink_to(sys.executable)
    with pytest.raises(BenchError, match="aiperf with sync failed with status"):
        asyncio.run(tools.run("aiperf", site(tmp_path), load, 0))
    with pytest.raises(BenchError, match="failed with status"):  # again, beside what the first left
        asyncio.run(tools.run("aiperf", site(tmp_path), load, 0))
    assert {"sync-0-aiperf", "sync-0-aiperf-2"} <= {each.name for each in (tmp_path / "results").iterdir()}
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="cannot be made"):
        asyncio.run(tools.run("aiperf", site(tmp_path / "file"), load, 0))


_HOLDS = 'exec 3>"$0"; sleep 600 & echo ready >&3; wait'  # a child that outlives its parent keeps the pipe open


def test_a_client_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    async def cancelled() -> bytes:
        call = asyncio.create_task(tools.call(["sh", "-c", _HOLDS, str(pipe)], {}, 600.0))
        file = await asyncio.to_thread(open, pipe, "rb")
        with file:
            assert await asyncio.to_thread(file.readline) == b"ready\n"
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            return await asyncio.to_thread(file.read)  # ends when nobody holds it

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert asyncio.run(cancelled()) == b""


def test_a_client_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="sleep took more than 0 s and was ended"):
        asyncio.run(tools.call(["sleep", "600"], {}, 0.05))
    assert asyncio.run(tools.call(["sh", "-c", "echo $WHAT >&2; exit 3"], {"WHAT": "why"}, 60.0)) == (3, "why")


def test_what_is_not_installed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tools.missing(tmp_path) == ["guidellm", "aiperf"]
    assert cli.main(["--cache", str(tmp_path)]) == 1
    assert "guidellm and aiperf not installed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["--profiles", "none"])
    assert "there are sync, concurrent and rate" in capsys.readouterr().err


def test_the_tokenizer_knows_every_byte_once(tmp_path: Path) -> None:
    letters = tokenizer.alphabet()
    assert sorted(letters.values()) == list(range(256)) and letters["A"] == ord("A") and letters["Ġ"] == ord(" ")
    assert all(letter.isprintable() for letter in letters)
    folder = tokenizer.write(tmp_path / "words")
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert len(whole["model"]["vocab"]) == 257
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BenchError, match="--cache"):
        tokenizer.write(tmp_path / "file")
