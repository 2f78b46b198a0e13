"""`pointsman doctor`: this machine on one page, what it can run, and what is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quant.doctor import Report

PORT = 8484
_MARKS = {"bad": "BROKEN", "note": "note", "good": "good"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `pointsman doctor`."""
    parser.add_argument("--port", metavar="PORT", type=int, default=PORT, help=f"the port that will be served on (default: {PORT})")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """0, or 1 when something is broken. Blocks for some seconds."""
    from gateway.cli_fit import this_machine
    from quant import calibrate, doctor, places

    machine, book = this_machine()
    where = places.from_environment()
    folders = {"models": where.own, "state": calibrate.place().parent}
    if where.huggingface:
        folders["hub cache"] = where.huggingface[0]
    found = doctor.report(machine, doctor.examine(args.port, folders, Path(doctor.__file__).parent), book.factors)
    sys.stdout.write(as_json(found) if args.json else "\n".join(text(found, book.knows(found.runs[0].kind))) + "\n")
    return 1 if found.broken else 0


def as_json(found: Report) -> str:
    """The report as one JSON document."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode({**msgspec.structs.asdict(found), "broken": found.broken}), indent=2).decode() + "\n"


def text(found: Report, measured: bool = False) -> Iterable[str]:
    """The page, line by line. `measured`: speeds are corrected by what was measured on this machine. Pure."""
    from gateway.cli_fit import describe
    from quant.fit import PROMPT, figure, size

    yield describe(found.machine)
    yield ""
    for finding in found.findings:
        yield f"{_MARKS[finding.state]:<7} {finding.name}: {finding.said}"
        if finding.do:
            yield f"{'':<8}{finding.do}"
    yield ""
    first = found.runs[0]
    yield f"Models of usual sizes as {first.kind}, {first.context} tokens of context, one request at a time, a prompt of {PROMPT:,} tokens"
    how = "corrected by what was measured here" if measured else "estimates until a model was measured; small machines are often slower"
    yield f"({how}; see pointsman fit MODEL --measure):"
    for each in found.runs:
        speed = f"about {figure(each.decode)} tokens a second, {figure(each.first)} s to the first" if each.fits else "does not fit"
        yield f"  {each.billions:>4g} B  needs {size(each.needs):>9}  {speed}"
    bad = sum(finding.state == "bad" for finding in found.findings)
    yield ""
    yield f"{bad} of {len(found.findings)} checks found something broken." if bad else "Nothing is broken."
