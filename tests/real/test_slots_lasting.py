"""KV that outlives the gateway, on a real llama.cpp with 107 million random weights: engine and gateway end, both begin again, and a prompt
of 1,500 tokens is not computed again; unless its file has changed."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backends.slots.disk import NAME
from gateway.config import Config
from tests.harness import running
from tests.real.test_slots import WAIT, Asked, all_ready, at_rest, config, figures

PREFIX = "You are an agent. Rules: " + " ".join(f"rule {i:03} says {i * 7 % 13:02};" for i in range(82))  # 1,500 characters, one a token

pytestmark = [pytest.mark.timeout(600), pytest.mark.full]


def lasting(folder: Path, **more: Any) -> Config:
    return config(kv_store={"path": str(folder), "keep": True, "disk": "1GiB"}, **more)


def ask(gateway: Any, own: str) -> Asked:
    began = time.monotonic()
    asked = Asked(gateway, own, shared=PREFIX)
    asked.join(WAIT)
    assert asked.status == 200 and asked.text, asked.body
    sys.stdout.write(f"{own}: {time.monotonic() - began:.2f} s, {asked.cached} tokens found\n")
    return asked


def life(folder: Path, *questions: str, **more: Any) -> list[Asked]:
    """One gateway with an engine of its own, asked these one after the other."""
    with running(lasting(folder, **more)) as gateway:
        all_ready(gateway)
        asked = []
        for own in questions:
            asked.append(ask(gateway, own))
            at_rest(gateway)
        return asked


def test_a_restart_computes_little_again(tmp_path: Path) -> None:
    (cold,) = life(tmp_path, "question 1")
    assert cold.cached < 100 and len([*(tmp_path / NAME).glob("*.kv")]) == 1
    warm, same = life(tmp_path, "question 2", "question 2")
    assert warm.cached >= len(PREFIX), "the prefix was restored"
    assert same.text == warm.text
    (fresh,) = life(tmp_path / "other", "question 2")
    assert fresh.cached < 100 and fresh.text == warm.text, "the same answer as without what was kept"


def test_a_flipped_byte_is_found_and_the_prefix_computed_again(tmp_path: Path) -> None:
    life(tmp_path, "question 1")
    (file,) = (tmp_path / NAME).glob("*.kv")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x40
    file.write_bytes(data)
    (asked,) = life(tmp_path, "question 2")
    assert asked.cached < 100
    (healed,) = life(tmp_path, "question 3")
    assert healed.cached >= len(PREFIX)


def test_engines_that_differ_have_files_of_their_own(tmp_path: Path) -> None:
    lives: tuple[dict[str, Any], ...] = ({}, {"args": ["cache_type_k=8"]}, {"context": 3072}, {"slots": 1})  # 8: Q8_0
    for number, one in enumerate(lives, 1):
        (asked,) = life(tmp_path, "question 1", **one)
        assert asked.cached < 100 and len([*(tmp_path / NAME).glob("*.kv")]) == number
    (asked,) = life(tmp_path, "question 2", **lives[-1])
    assert asked.cached >= len(PREFIX)


def test_an_engine_that_is_killed_loses_nothing_of_it(tmp_path: Path) -> None:
    with running(lasting(tmp_path)) as gateway:
        all_ready(gateway)
        ask(gateway, "question 1")
        at_rest(gateway)
        instance = gateway.gateway.fleet.instance("toy#0")
        assert instance is not None and instance.pid is not None
        restarts = instance.restarts
        os.kill(instance.pid, signal.SIGKILL)
        gateway.until(lambda: instance.restarts > restarts, "the engine's next start")
        all_ready(gateway)
        assert ask(gateway, "question 2").cached >= len(PREFIX)
        assert figures(gateway).lasting == 1
