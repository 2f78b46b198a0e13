"""Experiments without a gateway: their designs from a configuration, results and recorded requests from the store's file. Blocks; every
failure is a ValueError of one sentence for the user.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from gateway.experiments import api
from gateway.experiments.analyst import analyse_file
from gateway.experiments.tables import Tables
from gateway.experiments.words import State
from routing.experiments import scenario
from routing.experiments.scenario import Scenario
from routing.experiments.words import BEFORE, Design, Kind, Result, Seen

MOST_RECORDED = 500_000  # requests, the oldest first
_CHUNKS = 64  # rows at a time


def designs(file: Path) -> dict[str, Design]:
    """The experiments of a configuration, by name."""
    from gateway.config import ConfigError, load
    from gateway.config_experiments import design

    try:
        config = load(file)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return {name: design(name, one) for name, one in config.experiments.items()}


def results(store: Path, wanted: Sequence[Design]) -> list[Result]:
    """What these designs make of all that is in the file; without any, the last results of all that it knows. Changes nothing."""
    if wanted:
        with _told(store):
            return [analyse_file(str(store), one) for one in wanted]
    with _opened(store) as tables:
        return [api.latest(tables, one, tables.state(one.name) or State(one.name)) for one in tables.results()]


def recorded(store: Path, design: Design) -> Scenario:
    """What was recorded of a design's primary metric, as a scenario for its simulation."""
    kind: Kind = design.metric(design.primary).kind
    with _opened(store) as tables:
        return scenario.recorded(_seen(tables, design.name), design.primary, kind)


def _seen(tables: Tables, name: str) -> Iterator[Seen]:
    """Requests of an experiment, those of its units before it as well."""
    after, left = 0, MOST_RECORDED
    while left > 0 and (chunks := tables.chunks(after, _CHUNKS)):
        after = chunks[-1].id
        found = [seen for chunk in chunks for seen in chunk.seen if seen.experiment == name and seen.arm != BEFORE]
        yield from found[:left]
        left -= len(found)


@contextmanager
def _opened(store: Path) -> Iterator[Tables]:
    with _told(store), closing(Tables(str(store), readonly=True)) as tables:
        yield tables


@contextmanager
def _told(store: Path) -> Iterator[None]:
    """What is wrong with the file, as one sentence."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{store} cannot be read: {error.strerror or 'unknown reason'}") from None
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise ValueError(f"{store} cannot be read as a file of experiments: {error}") from None
