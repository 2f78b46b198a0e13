"""`pointsman bench`: its place in the command line. What it does is `benchmarks.bench`, which is loaded only when it is called."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

HELP = "measure latency and throughput of a server"


def arguments(commands: Any) -> None:
    """Names the command among the others; its own arguments are parsed where they are used."""
    commands.add_parser("bench", help=HELP, add_help=False)


def asked(words: Sequence[str]) -> argparse.Namespace | None:
    """The command with its words where the first one is `bench`, else None: those that begin with a dash are none of the other parser's."""
    return argparse.Namespace(command="bench", words=list(words[1:])) if words and words[0] == "bench" else None


def run(args: argparse.Namespace) -> int:
    """Runs it; the exit code. Blocks. Raises SystemExit (argparse)."""
    from benchmarks.bench.cli import main
    from gateway.version import VERSION

    return main(args.words, VERSION)
