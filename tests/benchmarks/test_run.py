"""Runs against real processes: a relay, gateways that do not work, the interleaving, the soak."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.overhead import phases, run, soak, tools
from benchmarks.overhead.meter import Cores
from benchmarks.overhead.peers import Peer, Site
from benchmarks.overhead.phases import MODEL, PACED, UNPACED, Bench, Streams, run_load, run_phase
from benchmarks.overhead.proc import port_in_use, tree
from benchmarks.overhead.run import Plan, order
from benchmarks.overhead.target import Broken, Mock, Target, body, check_answer, check_stream
from tests.benchmarks.programs import free_port, needs_cc
from tests.benchmarks.samples import one_round

RELAY = str(Path(__file__).with_name("relay.py"))


def relay(site: Site, mode: str = "", **changes: float) -> Peer:
    """The relay as a gateway."""
    command = (sys.executable, RELAY, str(site.port), str(site.upstream_port), *([mode] if mode else []))
    return Peer(command, headers=("Authorization: Bearer x",), start_seconds=changes.get("start_seconds", 30.0))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Free ports and an empty folder."""
    return Site(tmp_path, tmp_path, free_port(), free_port())


def plan(site: Site, built: dict[str, Path], **peers: Peer | None) -> Plan:
    """A plan without pinning."""
    return Plan(site, dict(peers), built, Cores(None, None), rounds=2, out=site.run / "out" / "result.json", command=("x",))


@pytest.mark.parametrize(
    ("names", "turn", "expected"),
    [
        (["a", "direct", "b", "c"], 0, ["direct", "a", "b", "c"]),
        (["a", "direct", "b", "c"], 1, ["direct", "b", "c", "a"]),
        (["a", "b"], 3, ["b", "a"]),
        (["direct"], 5, ["direct"]),
        ([], 1, []),
    ],
)
def test_every_round_begins_with_another(names: list[str], turn: int, expected: list[str]) -> None:
    assert order(names, turn) == expected


def test_bodies() -> None:
    whole, stream = body("mock", False), json.loads(body("m", True))
    assert len(whole) == 660 and "stream" not in json.loads(whole)
    assert (stream["model"], stream["stream"], stream["stream_options"]) == ("m", True, {"include_usage": True})


GOOD_STREAM = "".join(f'data: {{"delta":{{"content":"t={i:013d};"}}}}\n\n' for i in range(64)) + (
    'data: {"finish_reason":"stop"}\n\ndata: {"usage":{"total_tokens":1}}\n\ndata: [DONE]\n\n'
)


def test_checking_a_stream() -> None:
    assert check_stream(200, GOOD_STREAM.encode()) == {"events": 67, "usage": 1, "bytes": len(GOOD_STREAM)}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (500, GOOD_STREAM),
        (200, ""),
        (200, GOOD_STREAM.replace("data: [DONE]\n\n", "")),
        (200, GOOD_STREAM + "data: [DONE]\n\n"),
        (200, GOOD_STREAM.replace("t=0000000000007", "t=9999999999999")),
        (200, GOOD_STREAM.replace('"t=0000000000007', '"x')),
        (200, GOOD_STREAM.replace('data: {"finish_reason":"stop"}\n\n', "")),
    ],
)
def test_streams_that_are_not_whole(status: int, text: str) -> None:
    with pytest.raises(Broken):
        check_stream(status, text.encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"choices":1}', b'{"choices":[{"message":{"content":"x"}}],"usage":{"total_tokens":224}}']
)
def test_answers_that_are_not_the_mocks(data: bytes) -> None:
    with pytest.raises(Broken):
        check_answer(200, data)


@needs_cc
def test_smoke_goes_on_after_a_gateway_that_fails(site: Site, built: dict[str, Path]) -> None:
    said: list[str] = []
    gateways = {
        "broken": relay(site, "exit"),
        "direct": None,
        "wrong": relay(site, "wrong", start_seconds=5.0),
        "good": relay(site, "child"),
    }
    assert run.smoke(plan(site, built, **gateways), said.append) == 2
    assert said[0] == "broken: FAILED: ended with 3: cannot start"
    assert said[1] == "direct: 67 events, 16551 bytes, usage passed on"
    assert said[2].startswith("wrong: FAILED: no correct answer within 5 s: status 200, not a chat completion: ")
    assert said[3].startswith("good: cold start ") and said[3].endswith(" MiB, 67 events, 16551 bytes, usage passed on")
    assert not port_in_use(site.port) and not port_in_use(site.upstream_port)


@needs_cc
def test_a_taken_port_is_refused(site: Site, built: dict[str, Path]) -> None:
    with Mock(built["mock"], site, None), pytest.raises(Broken, match=f"port {site.upstream_port} is in use"):
        run.smoke(plan(site, built, direct=None), lambda _: None)


@needs_cc
def test_a_mock_that_cannot_start_is_said(site: Site) -> None:
    with pytest.raises(Broken, match="the mock does not answer"), Mock(Path("/bin/false"), site, None):
        pass


@needs_cc
def test_rounds_are_interleaved_saved_and_a_failed_gateway_is_left_out(
    site: Site, built: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measure(bench: Bench, target: Target, note: object) -> phases.Round:
        asked.append(target.name)
        if target.name == "bad":
            raise Broken("no luck")
        return one_round(100.0 * len(asked), 10)

    monkeypatch.setattr(phases, "measure", measure)
    said: list[str] = []
    made = plan(site, built, a=relay(site), direct=None, bad=relay(site))
    result = run.run(made, said.append)
    assert asked == ["direct", "a", "bad", "direct", "a"]
    assert result["failed"] == {"bad": "start: Broken: no luck"}
    assert [r["phases"]["c1"]["rps"] for r in result["rounds"]["direct"]] == [100.0, 400.0]
    assert made.out is not None and json.loads(made.out.read_text()) == result
    assert [p.name for p in made.out.parent.iterdir()] == ["result.json"]
    assert said[0] == "[1] direct: c1=100 c16=100 c64=100 c256=100 sse0=10 sse100=10 sse500=10 sse1000=10 load=0.1 undisturbed=8/8"


@needs_cc
def test_a_phase_of_streams_through_a_gateway(site: Site, built: dict[str, Path]) -> None:
    target = Target("relay", site, relay(site, "child"), None)
    with Mock(built["mock"], site, None) as mock:
        bench = Bench(built, site.run, Cores(None, None), mock, 1.0)
        try:
            cold = target.start()
            assert cold is not None and cold > 0 and target.root is not None and len(tree(target.root)) == 2
            assert target.memory() > 5 and target.memory("VmHWM") >= target.memory()
            counted = run_load(bench, target, UNPACED, True, "streams=4", "answers=50", "measure=60")
            assert (counted["answers"], counted["events"], counted["lost"]) == (50, 50 * 66, 0)
            assert counted["chunks_s"] > 0 and counted["gw_cpu"] >= 0 and counted["wall"] > 0
            paced = run_phase(bench, target, Streams("x", 5, PACED, warmup=0.1, ramp=0.1))
            assert paced["window_s"] == 1.0 and paced["lost"] == 0 and paced["events"] > 0
            whole = run_load(bench, target, MODEL, False, "streams=2", "answers=30", "measure=60")
            assert (whole["answers"], whole["failed"]) == (30, 0) and "cpu_us_per_chunk" not in whole
        finally:
            target.stop()
    assert not port_in_use(site.port)


def test_a_long_log_is_cut_to_its_end(site: Site) -> None:
    target = Target("chatty", site, Peer((sys.executable, "-c", "print('x' * 200_000, 'end', sep='')")), None)
    with pytest.raises(Broken, match=r"^ended with 0: x{596}end$"):
        target.start()
    target.stop()
    assert target.log.read_text() == "x" * (64 * 1024 - 4) + "end"


@needs_cc
def test_a_load_that_cannot_run_is_said(site: Site, built: dict[str, Path]) -> None:
    bench = Bench(built, site.run, Cores(None, None), 1, 1.0)
    with pytest.raises(Broken, match="load ended with 2"):
        run_load(bench, Target("direct", site, None, None), MODEL, True, "nonsense")


@needs_cc
def test_a_soak_reads_memory_after_exact_counts(site: Site, built: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(soak, "SAMPLE_SECONDS", 0.05)
    monkeypatch.setattr(soak, "ANSWERS", (200, 1000))
    monkeypatch.setattr(soak, "CHUNKS", (1000, 3000))
    said: list[str] = []
    made = plan(site, built, direct=None, good=relay(site), broken=relay(site, "exit"))
    good, broken = soak.run(made, said.append, scale=0.1)
    assert [(p.stage, p.answers, p.chunks) for p in good.points] == [
        ("idle", 0, 0), ("20 answers", 20, 0), ("100 answers", 100, 0), ("100 chunks", 100, 132), ("300 chunks", 100, 330),
    ]  # fmt: skip
    assert all(p.rss > 5 for p in good.points) and good.series and good.failed == ""
    assert broken.points == [] and broken.failed == "Broken: ended with 3: cannot start"
    assert said[1] == "broken: ; FAILED: Broken: ended with 3: cannot start"
    data = json.loads(json.dumps(soak.as_json(made, [good, broken])))
    assert soak.from_json(data) == [good, broken]
    grown = soak.growths(good)
    assert len(grown) == 2 and all(float(g) > -50 for g in grown) and soak.growths(broken) == ["–", "–"]


@needs_cc
def test_a_soak_whose_answers_fail_is_not_finished(site: Site, built: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(soak, "STAGE_SECONDS", 0.05)  # too short for 20,000 answers
    (found,) = soak.run(plan(site, built, slow=relay(site)), lambda _: None)
    assert [p.stage for p in found.points] == ["idle"]
    assert found.failed.startswith("Broken: ") and " of 20,000 answers served whole, 0 failed" in found.failed


@pytest.mark.full
@needs_cc
def test_all_phases_against_the_mock(site: Site, built: dict[str, Path]) -> None:
    if tools.find("wrk") is None:
        pytest.skip("needs wrk, which makes the load of whole answers")
    with Mock(built["mock"], site, None) as mock:
        found = phases.measure(Bench(built, site.run, Cores(None, None), mock, 1.0), Target("direct", site, None, None), lambda _: None)
    assert list(found["phases"]) == ["c1", "c16", "c64", "c256", "sse0", "sse100", "sse500", "sse1000"]
    assert all(p.get("requests", p.get("events")) for p in found["phases"].values())
    assert found["cold_s"] is None and found["rss_idle"] == 0.0
