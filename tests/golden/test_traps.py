"""Every wire trap that the design lists is named in a golden case, or here with where else it is held."""

from __future__ import annotations

import json
from pathlib import Path

CASES = Path(__file__).parent / "dialects"
TESTS = Path(__file__).parent.parent
TRAPS = range(1, 45)

# Not a matter of one dialect's documents: the file that holds it, and what its tests are called.
ELSEWHERE = {
    12: ("backends/test_quirks.py", "named_tool"),  # llama.cpp's tool_choice: a server's quirk, chat on both sides
    29: ("backends/test_faults.py", "529"),  # statuses of errors
    30: ("backends/test_faults.py", "retry"),  # Retry-After in all its forms
}


def test_every_trap_is_named() -> None:
    named = {trap for case in CASES.glob("*/*.json") for trap in json.loads(case.read_text()).get("traps", ())}
    assert named <= set(TRAPS), "a case names a trap that is none"
    assert set(TRAPS) - named == set(ELSEWHERE), "each trap has a case, or stands in ELSEWHERE with the reason"
    for file, word in ELSEWHERE.values():
        assert word in (TESTS / file).read_text(), (file, word)


def test_there_are_enough_cases() -> None:
    assert len([*CASES.glob("*/*.json")]) >= 150
