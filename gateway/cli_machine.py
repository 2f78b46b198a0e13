"""The commands about this machine, `pointsman fit` and `pointsman doctor`: their place in the command line. Loads nothing heavy."""

from __future__ import annotations

import argparse
from typing import Any

from gateway import cli_doctor, cli_fit

COMMANDS = ("fit", "doctor")


def arguments(commands: Any) -> None:
    """Adds both commands to the parser's subcommands."""
    cli_fit.arguments(
        commands.add_parser("fit", help="tell which form of a model fits this machine, and how fast it is", allow_abbrev=False)
    )
    cli_doctor.arguments(commands.add_parser("doctor", help="tell what this machine can run and what is wrong", allow_abbrev=False))


def run(args: argparse.Namespace) -> int:
    """Runs the command; the exit code. Blocks. Raises `cli_fit.FitError`."""
    return cli_fit.run(args) if args.command == "fit" else cli_doctor.run(args)
