"""The model that ships with Pointsman: a toy of a few megabytes that answers checkably.

It needs no download, so a first start and every test have a real engine with a real model behind them.
This module is light on purpose (no torch, gguf or numpy): the server imports it only to learn the path.
The recipe is ``python -m quant.builtin.train``, ``.export`` and ``.evaluate``; see ``README.md`` beside it.
"""

from pathlib import Path

MODEL_NAME = "pointsman-toy"
"""The name under which the server lists the built-in model."""


def path() -> Path:
    """Where the shipped GGUF (Q8_0, at most 4 MB) lies."""
    return Path(__file__).resolve().parent / f"{MODEL_NAME}.gguf"
