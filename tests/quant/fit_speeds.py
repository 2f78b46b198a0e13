"""Predicted against measured speed on this machine: `python -m tests.quant.fit_speeds [ROUNDS]`.

Of each kind of weights a model of 89 million random weights corrects the predictions for the others, as `pointsman fit --measure` and the
gateway's own loads do; larger ones are predicted and measured. A machine's speed moves from minute to minute, so every round measures all
models in turn, and medians of the rounds are compared. A table, and the worst of each column. Takes some minutes on a quiet machine.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from quant import fit_measure, fit_truth, hardware
from quant.calibrate import Book
from quant.fit_memory import Setup
from quant.fit_speed import kind, pace
from quant.fit_truth import Truth
from quant.hardware import Machine
from tests.quant.fit_made import Made

KINDS = ("Q8_0", "Q4_0", "Q4_K")
FIRST = Made(layers=12, width=768, inner=2304, heads=12, kv=4, vocab=8192)  # 89 M
OTHERS = (
    Made(layers=16, width=1024, inner=2816, heads=16, kv=8, vocab=16_384),  # 206 M
    Made(layers=24, width=1024, inner=3072, heads=16, kv=16, vocab=16_384),  # 336 M
    Made(layers=20, width=1536, inner=4096, heads=12, kv=4, vocab=16_384),  # 525 M
)
SETUP = Setup(context=1024, slots=1)
PROMPT, TOKENS = 512, 48
Found = list[tuple[Made, list[Truth]]]


def seen(rounds: int, folder: Path) -> Found:
    """What every round saw of every model. Blocks, and says on standard error how far it is."""
    models = [msgspec.structs.replace(made, qt=weights) for weights in KINDS for made in (FIRST, *OTHERS)]
    paths = [made.write(folder / f"{number}.gguf") for number, made in enumerate(models)]
    found: Found = [(made, []) for made in models]
    for number in range(rounds):
        for (made, truths), path in zip(found, paths, strict=True):
            truth = fit_measure.measure(str(path), SETUP, prompt=PROMPT, tokens=TOKENS)
            truths.append(truth)
            size = made.card().parameters / 1e6
            sys.stderr.write(f"round {number + 1}: {made.qt} {size:.0f} M: {truth.decode:.1f} tokens/s, first after {truth.first:.2f} s\n")
    return found


def middle(truths: Sequence[Truth]) -> Truth:
    """Medians of several runs. Pure."""
    first, decode = statistics.median(one.first for one in truths), statistics.median(one.decode for one in truths)
    return msgspec.structs.replace(truths[0], first=first, decode=decode)


def report(found: Found, machine: Machine) -> str:
    """The table, and the worst of each column after calibration. Pure."""
    lines = ["| weights | million | tokens/s predicted | measured | off | first token, s, predicted | measured | off |", "|---" * 8 + "|"]
    errors: dict[str, list[float]] = {"decode": [], "first": []}
    books: dict[str, Book] = {}
    for made, truths in found:
        card, truth, book = made.card(), middle(truths), books.get(made.qt)
        said = pace(card, SETUP, truth.prompt, machine, (book or Book()).factors(kind(card, machine)))
        decode, first = said.decode / truth.decode - 1, said.first / truth.first - 1
        lines.append(
            f"| {made.qt}{'' if book else ' (before anything was measured)'} | {card.parameters / 1e6:.0f} | {said.decode:.1f} "
            f"| {truth.decode:.1f} | {decode:+.0%} | {said.first:.2f} | {truth.first:.2f} | {first:+.0%} |"
        )
        if book is None:
            books[made.qt] = fit_truth.taught(Book(), card, SETUP, machine, truth, memory=False)
        else:
            errors["decode"].append(abs(decode))
            errors["first"].append(abs(first))
    worst = f"Worst after calibration: tokens/s {max(errors['decode']):.0%}, first token {max(errors['first']):.0%}."
    return "\n".join([*lines, "", worst, ""])


def main(rounds: int) -> None:
    """Measures and prints."""
    machine = hardware.look()
    machine = msgspec.structs.replace(machine, bandwidth=hardware.bandwidth(machine.cores))
    with tempfile.TemporaryDirectory() as folder:
        found = seen(rounds, Path(folder))
    sys.stdout.write(report(found, machine))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
