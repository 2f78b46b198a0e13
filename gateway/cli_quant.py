"""`pointsman quant quantize` (and `convert`, `evaluate`, in modules beside it): a smaller copy of a model, what it is made of, its cost.

The work is `quant.quantize`; here are the command line and what is said at the end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import cli_convert, cli_evaluate
from gateway.cli_progress import Progress as Progress
from gateway.cli_progress import QuantError as QuantError
from gateway.cli_progress import as_json as as_json
from gateway.cli_progress import bar as bar
from gateway.cli_progress import terminable as terminable

if TYPE_CHECKING:
    from quant.quantize import Report

WITH = ("auto", "own", "llama-cpp-python", "llama-quantize")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands of `pointsman quant` to its parser."""
    commands = parser.add_subparsers(dest="quant_command", required=True, metavar="COMMAND")
    cli_convert.arguments(commands)
    quantize = commands.add_parser("quantize", help="make a smaller copy of a GGUF model", allow_abbrev=False)
    quantize.add_argument("model", metavar="MODEL", help="a GGUF file (F32, F16, BF16 or Q8_0), hf:OWNER/REPOSITORY[:QUANT], or builtin")
    quantize.add_argument("kind", metavar="KIND", help="Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q4_K_M, Q4_K_S, IQ4_XS, Q4_0, Q3_K_M, Q2_K, ...")
    quantize.add_argument("--out", metavar="FILE", type=Path, help="what to write (default: MODEL-KIND.gguf in this folder)")
    quantize.add_argument("--imatrix", metavar="FILE", type=Path, help="an importance matrix that llama-imatrix wrote")
    quantize.add_argument("--threads", metavar="N", type=int, help="default: as many as there are cores for this process")
    quantize.add_argument("--with", dest="maker", choices=WITH, default="auto", help="who does it (default: our own code)")
    quantize.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    quantize.add_argument("--json", action="store_true", help="tell what was made as JSON")
    cli_evaluate.arguments(commands)


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; the exit code. Blocks, possibly for minutes. Raises `QuantError`."""
    return _COMMANDS[args.quant_command](args)


def _quantize(args: argparse.Namespace) -> int:
    from quant.mixes import MIXES
    from quant.quantize import QuantizeError, quantize

    if args.kind.upper() not in MIXES:
        raise QuantError(f"{args.kind!r} is not a kind that can be made; choose one of {', '.join(MIXES)}", usage=True)
    source = _source(args.model)
    target = args.out or Path(_stem(args.model, source) + f"-{args.kind.upper()}.gguf")
    progress = Progress()
    try:
        with terminable(), progress:
            report = quantize(
                source, target, args.kind, importance=args.imatrix, threads=args.threads, progress=progress, overwrite=args.overwrite,
                maker=args.maker,
            )  # fmt: skip
    except QuantizeError as error:
        raise QuantError(str(error)) from None
    sys.stdout.write(as_json(report) if args.json else text(report))
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "convert": cli_convert.run,
    "quantize": _quantize,
    "evaluate": cli_evaluate.run,
}


def _source(model: str) -> Path:
    """Where the model's file is, fetched first if need be. Blocks; raises `QuantError`."""
    from quant.hub import HubError
    from quant.models import ModelError, resolve

    try:
        return resolve(model)
    except (HubError, ModelError) as error:
        raise QuantError(str(error)) from None


def _stem(model: str, source: Path) -> str:
    """The model's name without the quantisation that it has."""
    from quant.hub import quant_of

    stem = source.name.removesuffix(".gguf")
    quant = quant_of(source.name)
    return stem[: -len(quant)].rstrip("-._") or stem if quant and stem.upper().endswith(quant) else stem


def text(report: Report) -> str:
    """The report for people. Pure."""
    kinds = ", ".join(f"{number} {kind}" for kind, number in report.kinds.items())
    lines = [
        f"{report.target}: {report.kind}, {_size(report.target_bytes)}, {report.bits:.2f} bits per weight "
        f"(from {_size(report.source_bytes)}, {report.source_bits:.2f})",
        f"  tensors: {kinds}",
    ]
    if report.maker != "own":
        lines.append(f"  made by {report.maker}")
    if report.fallbacks:
        lines += [f"  {len(report.fallbacks)} tensors have rows that do not fit their type and got another one:"]
        lines += [f"    {choice.name}: {choice.kind} instead of {choice.wanted}" for choice in report.fallbacks[:8]]
        lines += [f"    and {len(report.fallbacks) - 8} more (--json names them all)"] if len(report.fallbacks) > 8 else []
    return "\n".join([*lines, *(f"  note: {note}" for note in report.notes)]) + "\n"


def _size(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.2f} MiB"
