"""`pointsman fit MODEL`: which form of a model fits this machine, what memory it takes by part, and how fast it will be."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quant.calibrate import Book
    from quant.fit import Answer, Candidate, Option, Wish
    from quant.hardware import Machine

MAX_CONTEXT, MAX_SLOTS = 1 << 24, 256


class FitError(Exception):
    """It cannot be told; the text is for the user. `usage`: it was asked for wrongly."""

    def __init__(self, text: str, *, usage: bool = False) -> None:
        super().__init__(text)
        self.usage = usage


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `pointsman fit`."""
    parser.add_argument("model", metavar="MODEL", help="a GGUF file, hf:OWNER/REPOSITORY[:QUANT], a name of `pointsman ls`, or builtin")
    parser.add_argument("--context", metavar="N", type=int, help="tokens of context a slot (default: as much as is useful)")
    parser.add_argument("--slots", metavar="N", type=int, default=4, help="requests at a time (default: 4)")
    parser.add_argument("--cache", metavar="K[/V]", help="types of the KV cache, such as q8_0 or q8_0/q4_0 (default: whatever fits)")
    parser.add_argument("--prompt", metavar="N", type=int, default=1000, help="tokens of the prompt that is timed (default: 1000)")
    parser.add_argument("--speed", metavar="N", type=float, default=4.0, help="tokens a second that a stream should reach (default: 4)")
    parser.add_argument("--measure", action="store_true", help="run the model, and correct what is predicted on this machine")
    parser.add_argument("--json", action="store_true", help="as JSON, with every combination that was looked at")


def run(args: argparse.Namespace) -> int:
    """0: something fits; 1: nothing does. Blocks, for seconds, with `--measure` for as long as the model takes. Raises `FitError`."""
    from quant import calibrate, fit, fit_find, fit_speed

    wish = _wish(args)
    try:
        candidates = fit_find.candidates(args.model)
    except fit_find.FindError as error:
        raise FitError(str(error)) from None
    machine, book = this_machine(again=args.measure)
    if args.measure:
        book = _measured(candidates[0], wish, machine, book)
    found = fit.answer(candidates, wish, machine, book.factors)
    if args.json:
        sys.stdout.write(as_json(found, machine))
    else:
        source = calibrate.place() if book.knows(fit_speed.kind(candidates[0].card, machine)) else None
        sys.stdout.write("\n".join(text(found, candidates[0], machine, wish)) + "\n")
        sys.stdout.write(f"Speeds are corrected by what was measured here ({source}).\n" if source else UNCORRECTED)
    return 0 if found.best is not None else 1


UNCORRECTED = "Speeds are estimates until something was measured here: add --measure.\n"


def _wish(args: argparse.Namespace) -> Wish:
    from quant.fit import Wish

    for name, low, high in (("context", 1, MAX_CONTEXT), ("slots", 1, MAX_SLOTS), ("prompt", 1, MAX_CONTEXT), ("speed", 0, 1e6)):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise FitError(f"--{name} is {value}; write a number from {low} to {high:.0f}", usage=True)
    return Wish(args.context, args.slots, cache_kinds(args.cache), args.prompt, args.speed)


def cache_kinds(said: str | None) -> tuple[str, str] | None:
    """The types of K and V that a user named. Pure; raises `FitError`."""
    from quant.fit_memory import CACHE_KINDS

    if said is None:
        return None
    key, _, value = said.upper().partition("/")
    for kind in (key, value or key):
        if kind not in CACHE_KINDS:
            raise FitError(
                f"{said!r} is no type of a KV cache; write one or two of {', '.join(CACHE_KINDS).lower()}, as q8_0/q4_0", usage=True
            )
    return key, value or key


def this_machine(*, again: bool = False) -> tuple[Machine, Book]:
    """The machine and what was measured of it. Its bandwidth is measured the first time, and `again`, for two seconds; the best one is
    kept, since a busy machine only shows less. Blocks."""
    import msgspec

    from quant import calibrate, fit_speed, hardware

    machine = hardware.look()
    book = calibrate.load(calibrate.place(), machine.fingerprint)
    if again or not book.bandwidth:
        measured = hardware.bandwidth(machine.cores)

        def better(kept: Book) -> Book:
            best = max(kept.bandwidth, measured)
            rates = [fit_speed.reading(msgspec.structs.replace(machine, bandwidth=one)) for one in (kept.bandwidth, best)]
            return calibrate.with_bandwidth(kept, best, rates[1] / rates[0])

        book = _keep(book, machine, better)
    return msgspec.structs.replace(machine, bandwidth=book.bandwidth), book


def _keep(book: Book, machine: Machine, change: Callable[[Book], Book]) -> Book:
    """The book with what was measured, which is kept; where that cannot be, it is said and measured again the next time."""
    from quant import calibrate

    try:
        return calibrate.update(calibrate.place(), machine.fingerprint, change)
    except calibrate.CalibrationError as error:
        sys.stderr.write(f"pointsman: {error}\n")
        return change(book)


def _measured(candidate: Candidate, wish: Wish, machine: Machine, book: Book) -> Book:
    """The book after the model itself was run, in the best form of its own file that fits."""
    from quant import fit, fit_measure, fit_truth

    if candidate.how != "here":
        raise FitError("--measure needs the model on this machine; pull it first, or name a file", usage=True)
    found = fit.answer([candidate], wish, machine, book.factors)
    if found.best is None:
        raise FitError(f"{candidate.card.name} is not run, since it does not fit. {' '.join(found.would)}")
    setup = found.best.setup
    try:
        truth = fit_measure.measure(candidate.name, setup, prompt=min(wish.prompt, setup.context), tokens=min(32, setup.context // 2))
    except fit_measure.MeasureError as error:
        raise FitError(str(error)) from None
    full = truth.prompt + 32 >= setup.context  # shorter prompts touch less than is predicted
    return _keep(book, machine, lambda kept: fit_truth.taught(kept, candidate.card, setup, machine, truth, memory=full))


def as_json(found: Answer, machine: Machine) -> str:
    """Everything as one JSON document: bytes, seconds, tokens."""
    import msgspec

    document = {"machine": machine, "reserve": machine.reserve, **msgspec.structs.asdict(found)}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


# -- for people --------------------------------------------------------------------------------------------------------------------------


def text(found: Answer, asked: Candidate, machine: Machine, wish: Wish) -> Iterable[str]:
    """The answer, line by line. Pure."""
    from quant.fit import called, size

    card = asked.card
    yield f"{card.name}: {card.architecture}, {_count(card.parameters)} parameters, trained for {card.context} tokens"
    yield describe(machine)
    yield ""
    if found.best is None:
        yield "Nothing that was asked for fits."
        yield from (f"  {sentence}" for sentence in found.would)
    else:
        yield f"Best: {called(found.best)}"
        yield from (f"  {line}" for line in _details(found.best))
        yield "Why:"
        yield from (f"  {sentence}" for sentence in found.reasons)
    yield ""
    yield from _table(best_of_each(found.options))
    if wish.context and card.context and wish.context > card.context:
        yield f"The model was trained for {card.context} tokens; what is beyond them it will not use well."
    if not found.measured:
        yield f"Models of the architecture {card.architecture!r} were not held against running engines; leave some room."
    if machine.gpus:
        yield f"On the graphics card ({size(machine.gpus[0].free)} free) it would fit whole: {_on_card(found, machine)}."


def _on_card(found: Answer, machine: Machine) -> str:
    """The best option that lies in one card's memory, with half a GiB for its driver."""
    from quant.fit import called

    free = max(gpu.free for gpu in machine.gpus) - (1 << 29)
    fitting = [each for each in found.options if each.parts.total - each.parts.repacked - each.parts.process <= free]
    return called(fitting[0]) if fitting else "nothing of this"


def describe(machine: Machine) -> str:
    """The machine in one line. Pure."""
    from quant.fit import size

    limit = f", limit {size(machine.limit.limit)} (cgroup v{machine.limit.version})" if machine.limit.version else ""
    speed = f", reads {machine.bandwidth / 1e9:.1f} GB/s" if machine.bandwidth else ""
    return (
        f"{machine.processor}, {machine.cores} cores{speed}; {size(machine.total)} of memory, {size(machine.available)} free{limit}, "
        f"{size(machine.budget)} may be used"
    )


def _count(number: float) -> str:
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


_PARTS = (
    ("weights", "weights (mapped)"), ("repacked", "interleaved copy"), ("cache", "KV cache"), ("compute", "compute"), ("work", "work"),
    ("output", "output"), ("vocabulary", "vocabulary"), ("prompts", "prompts"), ("copies", "KV of idle slots"), ("process", "process"),
)  # fmt: skip


def _details(one: Option) -> Iterable[str]:
    from quant.fit import figure, size

    yield ", ".join(f"{said} {size(getattr(one.parts, name))}" for name, said in _PARTS if getattr(one.parts, name) >= 1 << 19)
    yield f"resident {size(one.parts.total)}; {size(one.needs)} when its prompt cache is full"
    first, decode = figure(one.pace.first), figure(one.pace.decode)
    yield f"first token of a prompt of {one.pace.prompt} tokens after {first} s, then {decode} tokens a second"
    if one.how == "make":
        yield f"make it: pointsman quant quantize {one.name} {one.quant}"
    elif one.how == "fetch":
        yield f"its file on the hub: {one.name}"


def best_of_each(options: Sequence[Option]) -> list[Option]:
    """Of every quantisation the best option that fits, else the one that needs least; the largest first. Pure; `options`: best first."""
    found: dict[str, Option] = {}
    for each in options:
        known = found.get(each.quant)
        if known is None or (each.fits, -each.needs if not each.fits else 0) > (known.fits, -known.needs if not known.fits else 0):
            found[each.quant] = each
    return sorted(found.values(), key=lambda each: -each.parts.weights)


def _table(options: Sequence[Option]) -> Iterable[str]:
    from quant.fit import figure, size

    rows = [("quant", "needs", "fits", "context", "KV", "KLD", "first s", "tokens/s", "")]
    for one in options:
        rows.append((
            one.quant, size(one.needs), "yes" if one.fits else "no", str(one.setup.context), f"{one.setup.key}/{one.setup.value}",
            f"{one.kld:.4f}{'' if one.told else ' ~'}", figure(one.pace.first), figure(one.pace.decode), one.how,
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
