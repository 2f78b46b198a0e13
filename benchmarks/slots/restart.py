"""Measures what a restart costs: a prompt of 1,500 tokens is asked cold, gateway and engine end, both begin again, and another question
with the same prefix is asked, with `kv_store: {keep: true}`. In each round a prompt that nobody has seen is asked after the restart, too:
the same machine at the same moment."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.slots import client, model
from benchmarks.slots.serving import gateway

SHARED, OWN = 1500, 20  # tokens: one a character
BAR = 0.2  # of a cold request: what the first after a restart may take


class Round(NamedTuple):
    """Seconds to the first token: cold before the restart, the same prefix after it, and cold after it; tokens that the second found."""

    before: float
    again: float
    after: float
    cached: int


def turn(command: Sequence[str], folder: Path, slots: int, seed: int) -> Round:
    """One life of a gateway, and the next."""
    store = {"path": str(folder / "kept"), "keep": True, "disk": "1GiB"}
    system, users = client.prompt(SHARED, OWN, seed)
    with gateway(command, folder, f"{seed}-first", 1, slots, True, kv_store=store) as port:
        before = client.ask(port, system, users[0])
    with gateway(command, folder, f"{seed}-second", 1, slots, True, kv_store=store) as port:
        again = client.ask(port, system, users[1])
        system, users = client.prompt(SHARED, OWN, seed + 1)
        after = client.ask(port, system, users[0])
    return Round(before.ttft, again.ttft, after.ttft, again.cached)


def main(command: Sequence[str], rounds: int, slots: int, seed: int) -> int:
    """0: within the bar. Blocks for about ten seconds a round."""
    told = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            one = turn(command, Path(folder), slots, seed + 2 * number)
            told.append(one)
            _write(f"  cold {_ms(one.before)}, after a restart {_ms(one.again)} ({one.cached} tokens found), cold {_ms(one.after)}")
    ratio = statistics.median(one.again / min(one.before, one.after) for one in told)
    cold = statistics.median(min(one.before, one.after) for one in told)
    again = statistics.median(one.again for one in told)
    machine = f"{os.cpu_count()} cores, {platform.machine()}; {model.path().name}"
    _write(f"\n{machine}; {SHARED} shared tokens, {slots} slots; medians of {rounds} rounds.")
    _write(f"First token cold {_ms(cold)}, after a restart {_ms(again)}: **{ratio:.3f}** of cold (bar {BAR}).")
    return 0 if ratio <= BAR else 1


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f} ms"


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
