"""`python -m tests.matrix`: runs every pair and prints the table of the README. Failures go to stderr; exit status 1 when there is one."""

from __future__ import annotations

import sys

from tests.matrix.table import expected, markdown, measured


def _tell(failure: str) -> None:
    sys.stderr.write(failure + "\n")


def main() -> int:
    rows = measured(_tell)
    sys.stdout.write(markdown(rows) + "\n")
    return 0 if rows == expected() else 1


if __name__ == "__main__":
    sys.exit(main())
