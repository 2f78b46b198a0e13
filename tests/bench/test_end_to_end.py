"""`pointsman bench` whole: against a server that computes nothing, and against a gateway with the built-in model.

The machine may be busy: a run whose client was starved ends with 1 and says so. What is asserted holds then, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import local, wrk
from benchmarks.bench.child import Gateway
from benchmarks.bench.cli import main
from benchmarks.bench.files import read_requests, read_result
from benchmarks.bench.words import Ask, Target
from tests.bench.doors import Answer, door

Caught = pytest.CaptureFixture[str]


@contextmanager
def null(*options: str) -> Iterator[str]:
    """A null server's URL."""
    command = [sys.executable, "-m", "benchmarks.bench.nullserver", "--port", "0", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.stdin.close()
            process.wait()


@pytest.fixture(scope="module")
def paced() -> Iterator[str]:
    with null("--ttft", "0.004", "--itl", "0.001") as url:
        yield url


def told(caught: Caught, argv: list[str]) -> Any:
    """The JSON of a run that measured something."""
    code = main([*argv, "--json"], "9.9")
    out, err = caught.readouterr()
    assert code == 0 or "the client was the bottleneck" in err, err
    return json.loads(out)


def test_levels_repeats_and_files(paced: str, tmp_path: Path, capsys: Caught, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_KEY", "sesame-key")
    outs = [tmp_path / name for name in ("run.html", "run.json", "run.jsonl")]
    argv = [paced, "--profile", "concurrent=1,3", "--requests", "30", "--repeats", "2", "--input", "64", "--output", "6", "--salt", "s"]
    argv += ["--header", "X-Secret=sesame-header", "--slo", "ttft:60000", "--slo", "ttft:0.001", "--watch-pid", str(os.getpid())]
    code = main([*argv, *(word for out in outs for word in ("--out", str(out)))], "9.9")
    out, err = capsys.readouterr()
    assert code == 0 or "the client was the bottleneck" in err
    assert "TTFT" in out and err.count("concurrent=1, repeat") == 2
    result, requests = read_result(outs[1]), read_requests(outs[2])
    assert [level.profile.value for level in result.levels] == [1, 3] and all(len(level.repeats) == 2 for level in result.levels)
    for level in result.levels:
        figures = level.median
        assert (figures.sent, figures.failed, figures.output_share) == (2 * 27, 0, 1.0)  # a tenth is the warm-up
        assert figures.ttft.p50 is not None and figures.ttft.p50 >= 0.004 and figures.tpot.p50 is not None
        assert [good.held for good in figures.goodput] == [True, False] and figures.health.null_p50 > 0
    assert len(requests) == 2 * 2 * 30 and sum(one.warm for one in requests) == 4 * 3
    assert all(one.completion_tokens == 6 and one.status == 200 for one in requests)
    p = result.provenance
    assert (p.version, p.salt, p.server["server"], result.model) == ("9.9", "s", "null", "null") and p.machine["kernel"]
    everything = out + err + "".join(path.read_text() for path in outs)
    assert "sesame" not in everything and "X-Secret" in everything
    assert outs[0].read_text().startswith("<!doctype html>")
    assert main([*argv, "--out", str(outs[1])]) == 2 and "--overwrite" in capsys.readouterr().err


def test_an_open_loop(paced: str, capsys: Caught) -> None:
    found = told(capsys, [paced, "--profile", "rate=40,80", "--requests", "40", "--repeats", "1", "--output", "3", "--warmup", "0",
                          "--arrivals", "gamma:0.5", "--no-stream", "--api", "completions"])  # fmt: skip
    for level, rate in zip(found["levels"], (40, 80), strict=True):
        assert level["profile"]["value"] == rate and level["profile"]["shape"] == 0.5 and level["median"]["good"] == 40
        assert level["median"]["e2e_due"]["p50"] >= level["median"]["e2e"]["p50"] * 0.5


def test_a_sweep_finds_its_levels(capsys: Caught) -> None:
    with null("--ttft", "0.002") as url:
        found = told(capsys, [url, "--profile", "sweep", "--seconds", "0.4", "--repeats", "1", "--output", "2", "--input", "16"])
    names = [level["profile"]["name"] for level in found["levels"]]
    assert names[:2] == ["sync", "concurrent"] and names.count("rate") >= 2


def test_a_trace_and_a_capture(paced: str, tmp_path: Path, capsys: Caught) -> None:
    trace, capture = tmp_path / "t.jsonl", tmp_path / "c.jsonl"
    rows = [{"timestamp": 40 * i, "input_length": 600 + i, "output_length": 2, "hash_ids": [7, i]} for i in range(12)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    body = {"model": "other", "messages": [{"role": "user", "content": "What is a spring?"}], "max_tokens": 2}
    capture.write_text("".join(json.dumps({"at": i / 50, "body": body}) + "\n" for i in range(9)))
    for name, file, count in (("trace", trace, 12), ("capture", capture, 9)):
        found = told(capsys, [paced, "--profile", f"{name}={file}", "--repeats", "1", "--warmup", "0", "--speed", "2"])
        figures = found["levels"][0]["median"]
        assert (figures["sent"], figures["good"]) == (count, count), name
        assert any("were replayed" in warning for warning in figures["warnings"])


def test_failures_are_told_in_the_same_row(capsys: Caught) -> None:
    with null("--fail", "4") as url:
        found = told(capsys, [url, "--requests", "40", "--repeats", "1", "--output", "2"])
        figures = found["levels"][0]["median"]
        assert figures["failed"] >= 9 and figures["sent"] == figures["good"] + figures["failed"] and "503" in str(figures["errors"])


def test_a_server_that_fails_always(capsys: Caught) -> None:
    with null("--fail", "1") as url:
        assert main([url, "--requests", "4"]) == 1
    assert "does not answer a first request" in capsys.readouterr().err
    assert main([url, "--requests", "4"]) == 1 and "refused" in capsys.readouterr().err


def test_two_servers_compared(paced: str, tmp_path: Path, capsys: Caught) -> None:
    outs = [tmp_path / name for name in ("c.html", "c.json", "c.jsonl")]
    with null("--ttft", "0.2") as slow:
        code = main(["compare", paced, slow, "--profile", "concurrent=4", "--requests", "40", "--output", "4",
                     *(word for out in outs for word in ("--out", str(out)))])  # fmt: skip
    out, err = capsys.readouterr()
    assert code == 0 or "bottleneck" in err
    found = json.loads(outs[1].read_text())
    ttft = found["differences"]["ttft"]
    assert ttft["pairs"] == 40 and ttft["difference"]["low"] > 0 and "TTFT: B is slower than A by" in out
    sides = [json.loads(line)["side"] for line in outs[2].read_text().splitlines()]
    assert sides.count("a") == sides.count("b") == 44
    assert outs[0].read_text().startswith("<!doctype html>") and slow in outs[0].read_text()
    assert main(["compare", paced, paced, "--profile", "rate=3"]) == 2


@pytest.mark.parametrize("own", [True, pytest.param(False, marks=pytest.mark.full)], ids=["own", "wrk"])
def test_what_a_gateway_adds(paced: str, tmp_path: Path, capsys: Caught, own: bool) -> None:
    if not own and wrk.installed() is None:
        pytest.skip("wrk is not installed")
    argv = ["overhead", f"slow={paced}", paced, "--concurrency", "3", "--repeats", "2", "--output", "4", "--out", str(tmp_path / "o.md")]
    argv += ["--requests", "30", "--own-client"] if own else ["--seconds", "1"]
    code = main([*argv, "--json"])
    out, err = capsys.readouterr()
    assert code == 0 or "the client was the bottleneck" in err
    found = json.loads(out)
    assert found["whole_by"] == ("this client" if own else "wrk")
    loads = {(row["load"], row["concurrency"]) for row in found["added"]}
    assert loads == {("stream", 1), ("stream", 3), ("whole", 1), ("whole", 3)} and {row["gateway"] for row in found["added"]} == {"slow"}
    rates = {(row["party"], row["load"]): row for row in found["rates"]}
    assert all(row["requests"] > 0 and row["failed"] == 0 for row in rates.values())
    assert rates["null server", "stream"]["chunks"] > 0 and (("null server", "whole") in rates) == own
    assert (tmp_path / "o.md").read_text().count("| slow |") == len(found["added"]) + len([1 for party, _ in rates if party == "slow"]) + 1


@pytest.mark.full
@pytest.mark.skipif(wrk.installed() is None, reason="wrk is not installed")
def test_wrk_sends_key_and_headers() -> None:
    seen: list[tuple[dict[str, str], bytes]] = []

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        seen.append((headers, body))
        return 200 if path == "/v1/chat/completions" else 404, {}, b"{}"

    with door(answer) as url:
        target = Target(f"{url}/v1", "m", "sesame", {"X-A": "b: c"})
        told = asyncio.run(wrk.run(target, [Ask(i, b'{"n": %d}' % i, 1, 1) for i in range(3)], 2, 1.0))
    assert told.requests > 0 and told.failed == 0 and told.p50 > 0
    assert {body for _, body in seen} == {b'{"n": 0}', b'{"n": 1}', b'{"n": 2}'}
    assert all(headers["authorization"] == "Bearer sesame" and headers["x-a"] == "b: c" for headers, _ in seen)


@pytest.mark.parametrize("argv, said", [
    (["--model-of", "x=y"], "no gateway 'x'"), (["--key-of", "gateway=UNSET_HERE"], "not set"), (["--model-of", "x"], "NAME=VALUE"),
])  # fmt: skip
def test_wrong_words_for_gateways(paced: str, capsys: Caught, argv: list[str], said: str) -> None:
    assert main(["overhead", paced, paced, *argv]) == 2 and said in capsys.readouterr().err


def test_interrupted_it_keeps_what_was_measured(paced: str) -> None:
    command = [sys.executable, "-m", "gateway", "bench", paced, "--requests", "10", "--repeats", "100000", "--output", "2", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "repeat 1" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 1 and ("interrupted" in err or "bottleneck" in err)
    assert len(json.loads(out)["levels"][0]["repeats"]) >= 1


def test_a_gateway_with_the_built_in_model(capsys: Caught) -> None:
    config = {"server": {"log": {"level": "error"}}}
    with Gateway(config) as gateway:
        found = told(capsys, [gateway.base, "--requests", "6", "--repeats", "2", "--input", "48", "--output", "8", "--warmup", "1"])
        shared = told(capsys, [gateway.base, "--requests", "6", "--repeats", "1", "--input", "16", "--prefix", "128:1", "--output", "2"])
        assert main([gateway.base, "--model", "nobody", "--requests", "2"]) == 1
        assert "nobody" in capsys.readouterr().err
    figures = found["levels"][0]["median"]
    assert (figures["sent"], figures["good"], figures["output_share"]) == (10, 10, 1.0) and found["model"] == "pointsman-toy"
    assert figures["cached_share"] < 0.5 < shared["levels"][0]["median"]["cached_share"]  # no two runs share more than the template
    assert found["provenance"]["server"]["version"]


def test_a_local_model_by_depth(capsys: Caught) -> None:
    """The last depth is more than the built-in model can hold: what was measured before stays."""
    code = main(
        ["local", "builtin", "--depth", "0,64,9000", "--prompt", "32", "--output", "8", "--repeats", "2", "--json", "--threads", "1"]
    )
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [(row["kind"], row["depth"], row["tokens"]) for row in found["rows"]] == [
        ("prefill", 0, 32), ("decode", 0, 8), ("prefill", 64, 32), ("decode", 64, 8)]  # fmt: skip
    assert all(len(row["rates"]) == 2 and min(row["rates"]) > 0 and not row["note"] for row in found["rows"])
    assert code == 1 and found["problem"].startswith("depth 9000, prefill: ") and found["problem"] in err


def test_rates_by_depth_as_a_table() -> None:
    rows = [
        local.row("prefill", 0, 512, [90.0, 100.0, 110.0]),
        local.row("decode", 64, 8, [5.0], "only 3 tokens were answered at least once"),
    ]
    shown = local.table(local.Local("m", None, rows, {}, {}, 1))
    assert "100.0   20.0 %" in shown and "only 3 tokens" in shown and "Median of 3 repeats" in shown
    with pytest.raises(SystemExit):
        main(["local"])
    wanted = local.Wanted(model="x.gguf", depths=(0, 100), prompt=10, output=5, threads=3)
    backend = local.configuration(wanted)["backends"]["local"]
    assert backend["context"] >= 115 and backend["threads"] == 3 and backend["slots"] == 1 and backend["model"].startswith("/")


def test_a_model_that_is_not_there(capsys: Caught, tmp_path: Path) -> None:
    assert main(["local", str(tmp_path / "none.gguf")]) == 1
    assert "does not exist" in capsys.readouterr().err
