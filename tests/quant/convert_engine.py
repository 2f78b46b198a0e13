"""A real llama.cpp asked in a process of its own: `python -m tests.quant.convert_engine`, a list of questions as JSON on standard input.

A question names a file and has prompts (lists of token numbers), whose logits are answered, or texts, whose tokens are.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def ask(questions: list[dict[str, Any]]) -> list[Any]:
    """The answers, in order."""
    env = {**os.environ, "OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.quant.convert_engine"], cwd=ROOT, env=env, input=json.dumps(questions), capture_output=True,
        text=True, timeout=250, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("SAID ")]
    assert lines, done.stderr[-2000:]
    answers: list[Any] = json.loads(lines[0][5:])
    return answers


def _answer(library: Any, question: dict[str, Any]) -> Any:
    from quant.evaluate_llama import ROWS, Engine

    engine = Engine(library, question["file"], 256, 1)
    try:
        if "texts" in question:
            return [engine.tokens(text, True) for text in question["texts"]]
        made = []
        for prompt in question["prompts"]:
            engine.clear()
            rows = [row for at in range(0, len(prompt), ROWS) for row in _rows(engine, prompt[at : at + ROWS], at)]
            made.append(rows)
        return made
    finally:
        engine.close()


def _rows(engine: Any, tokens: list[int], start: int) -> list[list[float]]:
    found = engine.decode(tokens, start)
    return [list(ctypes.cast(row, ctypes.POINTER(ctypes.c_float * engine.vocab)).contents) for row in found]


def main() -> None:
    from quant import ggml
    from quant.evaluate_llama import Library

    library = Library(ggml.shared())
    answers = [_answer(library, question) for question in json.load(sys.stdin)]
    sys.stdout.write("SAID " + json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
