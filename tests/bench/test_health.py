"""Whether the client says so when it is what is measured."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench import health, nullserver
from benchmarks.bench.calibrate import calibrate
from benchmarks.bench.drive import Limits, run_stage
from benchmarks.bench.health import Pulse, memory_of, quantile, trouble
from benchmarks.bench.words import SECONDS_OF_LAG, Health, Profile, Stage
from tests.bench.sockets import always, ask, client, scripted

FLOATS = st.floats(-1e6, 1e6)


@given(st.lists(FLOATS, min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_numpys(values: list[float], share: float) -> None:
    import numpy

    assert quantile(sorted(values), share) == pytest.approx(float(numpy.quantile(values, share)), rel=1e-9, abs=1e-6)


def test_a_quantile_of_nothing_is_nothing() -> None:
    assert quantile([], 0.5) == 0.0


@pytest.mark.parametrize(
    ("found", "loop", "words"),
    [
        (Health(lag_p99=SECONDS_OF_LAG), SECONDS_OF_LAG, ""),
        (Health(lag_p99=0.0061), 0.0, "6.1 ms late at p99 (limit 5 ms)"),
        (Health(), 0.2, "event loop woke 200 ms late at p99"),
        (Health(cpu=0.9), 0.0, ""),
        (Health(cpu=0.97), 0.0, "97% of a core (limit 90%)"),
        (Health(lag_p99=0.0061, stolen=0.034), 0.0, "The hypervisor kept 3.4% of a core from this machine meanwhile."),
        (Health(stolen=0.034), 0.2, "The hypervisor kept 3.4% of a core"),
        (Health(stolen=0.9), 0.0, ""),
    ],
)
def test_the_verdict(found: Health, loop: float, words: str) -> None:
    said = trouble(found, loop)
    assert (words in said) if words else not said
    assert "\n" not in said and (not said or said.endswith("."))


def test_a_blocked_loop_counts_for_every_look_that_it_missed() -> None:
    async def main() -> Health:
        pulse = Pulse()
        pulse.start()
        asyncio.get_running_loop().call_later(0.02, time.sleep, 0.3)
        await asyncio.sleep(0.04)
        return pulse.stop()

    found = asyncio.run(main())
    # About 30 of 34 looks fell into the block, evenly late by up to all of it; a slower machine makes them only more.
    assert found.lag_most >= 0.28 and found.lag_p50 >= 0.05 and "it measured itself" in found.trouble


def test_work_of_the_client_is_its_share_of_a_core() -> None:
    async def main() -> Health:
        pulse = Pulse()
        pulse.start()
        begun = time.process_time()
        while time.process_time() - begun < 0.1:
            pass
        return pulse.stop()

    assert 0 < asyncio.run(main()).cpu <= 1.5


async def stage_of(profile: Profile, *, block: float) -> Stage:
    """Less than half a second of load, in which the client's loop is blocked for a while."""
    requests = (ask(index, due=index * 0.005) for index in itertools.count())
    async with scripted(always) as server, client(server.target()) as made:
        asyncio.get_running_loop().call_later(0.03, time.sleep, block)
        return await run_stage(made, profile, requests, Limits(seconds=0.4), repeat=0)


@pytest.mark.parametrize("profile", [Profile("rate", 200.0), Profile("concurrent", 2.0)])
def test_a_starved_client_is_found_out(profile: Profile) -> None:
    found = asyncio.run(stage_of(profile, block=0.3)).health
    assert found.lag_most >= 0.1 and found.lag_p99 > SECONDS_OF_LAG and found.trouble


def test_late_sending_is_the_open_loops_lag() -> None:
    pulse = Pulse()

    async def main() -> Health:
        pulse.start()
        for late in (0.001, 0.002, 0.5):
            pulse.sent(late)
        return pulse.stop()

    found = asyncio.run(main())
    assert (found.lag_p50, found.lag_most) == (0.002, 0.5)


def test_stolen_time_is_the_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = tmp_path / "stat"
    monkeypatch.setattr(health, "STAT", told)
    assert health.stolen() == 0.0  # no Linux
    told.write_text("cpu  7331033 2341281 679439 5029269 27441 0 96833 535456 0 0\ncpu0 1 2 3\n")
    assert health.stolen() == 535456 / os.sysconf("SC_CLK_TCK")
    told.write_text("cpu 1 2\n")
    assert health.stolen() == 0.0


def test_memory_of_processes() -> None:
    look = memory_of({"me": os.getpid(), "nobody": 2**22 + 1})
    assert set(look()) == {"me"} and look()["me"] > 1 << 20


def test_calibration_measures_every_answer() -> None:
    async def main() -> None:
        for how in ({"rate": 500.0}, {"concurrency": 4}):
            low, high = await calibrate(chunks=3, requests=40, **how)
            assert 0 < low <= high

    asyncio.run(main())


def test_calibration_that_fails_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    real = nullserver.running
    monkeypatch.setattr("benchmarks.bench.calibrate.running", lambda script: real(nullserver.Script(chunks=1, fail=2)))
    with pytest.raises(RuntimeError, match="5 of 10 calls of the null server failed: status 503"):
        asyncio.run(calibrate(requests=10))


def test_a_pulse_keeps_no_more_than_its_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_TICKS", 3)

    async def main() -> int:
        pulse = Pulse()
        pulse.start()
        asyncio.get_running_loop().call_soon(time.sleep, 0.1)
        await asyncio.sleep(0.03)
        pulse.stop()
        return len(pulse._ticks)

    assert asyncio.run(main()) == 3
