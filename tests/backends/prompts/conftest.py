"""Prompters over model folders that are made as asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from backends.prompts import Prompter, prompter
from tests.backends.prompts.made import HASHING, KINDS, folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Prompter]:
    count = itertools.count()

    def make(template: str, kind: str = "bpe", engine: str = "vllm", **more: Any) -> Prompter:
        place = folder(tmp_path_factory.mktemp(f"model{next(count)}"), template, KINDS[kind]())
        return prompter(str(place), HASHING, engine=engine, now=lambda: datetime(2026, 11, 22), **more)

    return make
