"""What ends a benchmark: one sentence for its user."""

from __future__ import annotations


class BenchError(Exception):
    """It cannot be measured. The text says what is wrong, where, and what to do. `usage`: the command line is at fault (exit code 2)."""

    def __init__(self, text: str, *, usage: bool = False) -> None:
        super().__init__(text)
        self.usage = usage
