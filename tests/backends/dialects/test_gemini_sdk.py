"""Golden requests and answers of Gemini, read by Google's own SDK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends import wire
from backends.dialects.gemini import Gemini
from backends.dialects.types import Context, Facts
from tests.backends.dialects import gemini_sdk

CASES = sorted((Path(__file__).parents[2] / "golden" / "dialects" / "gemini").glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    doc: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return doc


@pytest.mark.parametrize("path", [p for p in CASES if "out" in load(p)["request"]], ids=lambda p: p.stem)
def test_requests_are_what_the_sdk_knows(path: Path) -> None:
    case = load(path)
    told = case.get("context", {})
    facts = msgspec.convert(told.get("facts", {}), Facts)
    context = Context("req-1", 0, told.get("model", "m"), told.get("stream", False), facts, told.get("strict", True))
    gemini_sdk.read(Gemini().request(wire.parse(msgspec.json.encode(case["request"]["in"])), context).body)


@pytest.mark.parametrize("path", [p for p in CASES if "out" in load(p).get("reply", {})], ids=lambda p: p.stem)
def test_answers_are_what_the_sdk_knows(path: Path) -> None:
    case = load(path)
    known = gemini_sdk.answer(case["reply"]["in"])
    assert len(known.candidates or ()) in (len(case["reply"]["out"]["choices"]), 0)
