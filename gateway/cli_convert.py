"""`pointsman quant convert`: a GGUF file from a Hugging Face model. The work is `quant.convert`; here is the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quant.convert import Report

WITH = ("auto", "own", "llama.cpp")
KINDS = ("F16", "BF16", "F32", "Q8_0")


def arguments(commands: Any) -> None:
    """Adds the subcommand to those of `pointsman quant`."""
    parser = commands.add_parser("convert", help="make a GGUF file of a Hugging Face model", allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="a folder with config.json, tokenizer.json and safetensors, or hf:OWNER/REPOSITORY")
    parser.add_argument("--out", metavar="FILE", type=Path, help="what to write (default: NAME-TYPE.gguf in this folder)")
    parser.add_argument(
        "--type", dest="kind", type=str.upper, choices=KINDS, help="of the matrices (default: BF16 where the model is, else F16)"
    )
    parser.add_argument("--with", dest="maker", choices=WITH, default="auto", help="who does it (default: our own code where it can)")
    parser.add_argument("--fetch", action="store_true", help="llama.cpp's converter may be fetched (77 MB, verified) if it is not here")
    parser.add_argument("--llama-cpp", metavar="FOLDER", default="", help="a checkout of llama.cpp (default: looked for)")
    parser.add_argument("--python", metavar="FILE", default="", help="a Python with torch and transformers, for llama.cpp's converter")
    parser.add_argument("--threads", metavar="N", type=int, help="default: as many as there are cores for this process")
    parser.add_argument("--offline", action="store_true", help="ask no network: only what is cached")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    parser.add_argument("--json", action="store_true", help="tell what was made as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; the exit code. Blocks, possibly for minutes. Raises `QuantError`."""
    from gateway.cli_progress import Progress, QuantError, as_json, terminable
    from quant.convert import convert
    from quant.convert_llamacpp import Tool
    from quant.convert_source import ConvertError, Unsupported

    tool = Tool(args.llama_cpp, args.python, args.fetch)
    try:
        folder, origin = _source(args.model, args.offline)
        target = args.out or _target(args.model, folder, args.kind)
        with terminable(), Progress() as progress:
            report = convert(
                folder, target, args.kind or "", maker=args.maker, origin=origin, threads=args.threads, progress=progress,
                overwrite=args.overwrite, tool=tool,
            )  # fmt: skip
    except Unsupported as error:
        raise QuantError(f"{error} {other(args.model)}") from None
    except ConvertError as error:
        raise QuantError(str(error)) from None
    sys.stdout.write(as_json(report) if args.json else text(report))
    return 0


def other(model: str) -> str:
    """The command that may do it all the same. Pure."""
    return f"llama.cpp's own converter may do it: pointsman quant convert {model} --with llama.cpp --fetch"


def _source(model: str, offline: bool) -> tuple[Path, str]:
    """The folder, fetched first if need be, and the repository that it is from. Blocks; raises `QuantError`."""
    from gateway.cli_progress import QuantError
    from quant import convert_fetch, hub

    if not model.startswith("hf:"):
        return Path(model), ""
    try:
        return convert_fetch.model(model, offline=offline), hub.parse(model).repo
    except hub.HubError as error:
        raise QuantError(str(error)) from None


def _target(model: str, folder: Path, kind: str | None) -> Path:
    name = model.rpartition("/")[2] if model.startswith("hf:") else folder.resolve().name
    return Path(f"{name}-{kind}.gguf" if kind else f"{name}.gguf")


def text(report: Report) -> str:
    """The report for people. Pure."""
    kinds = ", ".join(f"{number} {kind}" for kind, number in report.kinds.items())
    size = f"{report.target_bytes / (1 << 20):,.2f} MiB"
    lines = [f"{report.target}: {report.name} ({report.architecture}), {report.kind}, {size}, {report.bits:.2f} bits per weight"]
    lines.append(f"  tensors: {kinds}")
    if report.maker != "own":
        lines.append(f"  made by {report.maker}")
    if report.fallbacks:
        lines.append(f"  {len(report.fallbacks)} tensors have rows that do not fit {report.kind} and are F16 ({report.fallbacks[0]}, ...)")
    return "\n".join([*lines, *(f"  note: {note}" for note in report.notes)]) + "\n"
