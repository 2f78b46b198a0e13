"""Predicted against measured speed on this machine: `python -m tests.quant.fit_speeds [ROUNDS]`.

Of each kind of weights a model of 89 million random weights is measured first and corrects the predictions for the others, as
`pointsman fit --measure` does; then larger ones are predicted and measured. A table, and the worst of each column. Takes some minutes on a
quiet machine.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import msgspec

from quant import fit_measure, hardware
from quant.calibrate import Book
from quant.fit_memory import Setup
from quant.fit_speed import Factors, kind, pace
from tests.quant.fit_made import Made

KINDS = ("Q8_0", "Q4_0", "Q4_K")
FIRST = Made(layers=12, width=768, inner=2304, heads=12, kv=4, vocab=8192)  # 89 M
OTHERS = (
    Made(layers=16, width=1024, inner=2816, heads=16, kv=8, vocab=16_384),  # 206 M
    Made(layers=24, width=1024, inner=3072, heads=16, kv=16, vocab=16_384),  # 336 M
    Made(layers=20, width=1536, inner=4096, heads=12, kv=4, vocab=16_384),  # 525 M
)
PROMPT, TOKENS = 512, 48


def seen(made: Made, setup: Setup, folder: Path, rounds: int) -> fit_measure.Truth:
    """Medians of several runs. Blocks."""
    path = made.write(folder / "model.gguf")
    runs = [fit_measure.measure(str(path), setup, prompt=PROMPT, tokens=TOKENS) for _ in range(rounds)]
    return msgspec.structs.replace(
        runs[0], first=statistics.median(run.first for run in runs), decode=statistics.median(run.decode for run in runs)
    )


def main(rounds: int) -> None:
    """Measures and prints."""
    machine = hardware.look()
    machine = msgspec.structs.replace(machine, bandwidth=hardware.bandwidth(machine.cores))
    setup = Setup(context=1024, slots=1)
    errors: dict[str, list[float]] = {"decode": [], "first": []}
    write = sys.stdout.write
    write("| weights | million | tokens/s predicted | measured | off | first token, s, predicted | measured | off |\n")
    write("|---|---|---|---|---|---|---|---|\n")
    with tempfile.TemporaryDirectory() as folder:
        for weights in KINDS:
            book = Book()
            for made in (FIRST, *OTHERS):
                made = msgspec.structs.replace(made, qt=weights)
                card = made.card()
                factors: Factors = book.factors(kind(card, machine))
                truth = seen(made, setup, Path(folder), rounds)
                said = pace(card, setup, truth.prompt, machine, factors)
                decode, first = said.decode / truth.decode - 1, said.first / truth.first - 1
                note = "" if book.kinds else " (before anything was measured)"
                write(f"| {weights}{note} | {card.parameters / 1e6:.0f} | {said.decode:.1f} | {truth.decode:.1f} | {decode:+.0%} "
                      f"| {said.first:.2f} | {truth.first:.2f} | {first:+.0%} |\n")  # fmt: skip
                sys.stdout.flush()
                if book.kinds:
                    errors["decode"].append(abs(decode))
                    errors["first"].append(abs(first))
                else:
                    book = fit_measure.taught(book, card, setup, machine, truth, memory=False)
    write(f"\nWorst after calibration: tokens/s {max(errors['decode']):.0%}, first token {max(errors['first']):.0%}.\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
