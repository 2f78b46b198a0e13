"""The table of pairs: `expected` is what the tests prove, `measured` what a run gives; both are written by `markdown`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from quant.builtin import MODEL_NAME
from tests.matrix import local
from tests.matrix.clients import Client
from tests.matrix.pairs import CLIENTS, SURFACES, converse, surface_of
from tests.matrix.places import PLACES, Place

BEGIN, END = "<!-- pairs: begin -->", "<!-- pairs: end -->"
GOOD = "yes"
LOCAL_ROW = ("llama.cpp, built in¹", f"`{MODEL_NAME}`")
Rows = dict[tuple[str, str], dict[tuple[str, bool], str]]  # provider, model → (surface, streamed) → what is in the cell
ABOUT = """\
A cell is the six-turn conversation (thinking, two parallel tool calls and their results, an image, structured output, memory) by the
official SDK of the surface, through a gateway, against a scripted provider that refuses what the real one refuses: *yes* is six good
answers and no refusal. Responses is run in three ways: `previous_response_id`, all items sent back, `store: false` with encrypted
reasoning. What a provider signed comes back to it, also from a client that knows nothing of it. `python -m tests.matrix` repeats it."""
NOTES = """\
¹ A real engine with a toy that neither sees nor thinks: plain answers, a tool call with its result, structured output.
² It thinks, but OpenAI shows what it thought on Responses alone."""


def expected() -> Rows:
    """What `test_pairs` asserts: every cell is good, or says why it cannot be."""
    rows: Rows = {_row(place): {key: _noted(place, key[0]) for key in keys()} for place in PLACES.values()}
    return rows | {LOCAL_ROW: dict.fromkeys(keys(), GOOD)}


def measured(tell: Callable[[str], None]) -> Rows:
    """Runs every pair; `tell` hears each failure. Blocks for minutes."""
    rows: Rows = {}
    for place in PLACES.values():
        rows[_row(place)] = {(surface, stream): _run(place, surface, stream, tell) for surface, stream in keys()}
    with local.served() as gateway:
        rows[LOCAL_ROW] = {}
        for surface, stream in keys():
            failed = [_failure(local.locally, kind, stream, gateway) for kind in _kinds(surface).values()]
            rows[LOCAL_ROW][surface, stream] = _cell(GOOD, [f"{MODEL_NAME}, {surface}: {why}" for why in failed if why], tell)
    return rows


def markdown(rows: Rows) -> str:
    """The table with what must be known to read it."""
    head = "| provider | model | " + " | ".join(f"{title}, {way}" for title in SURFACES.values() for way in ("whole", "streamed")) + " |"
    lines = [ABOUT, "", head, "| --- | --- |" + " :---: |" * len(keys())]
    lines += ["| " + " | ".join([*title, *(cells[key] for key in keys())]) + " |" for title, cells in rows.items()]
    return "\n".join([*lines, "", NOTES.replace("\n", "  \n")])


def keys() -> list[tuple[str, bool]]:
    """The columns: surface and whether it streams."""
    return list(itertools.product(SURFACES, (False, True)))


def _kinds(surface: str) -> dict[str, type[Client]]:
    return {name: kind for name, kind in CLIENTS.items() if surface_of(name) == surface}


def _row(place: Place) -> tuple[str, str]:
    return place.title, f"`{place.model}`"


def _noted(place: Place, surface: str) -> str:
    return GOOD if surface in place.shows else f"{GOOD}²"


def _run(place: Place, surface: str, stream: bool, tell: Callable[[str], None]) -> str:
    failed = []
    for client in _kinds(surface):
        with place.served() as (provider, gateways):
            why = _failure(converse, place, client, stream, provider, gateways)
        failed += [f"{place.title}, {client}, {'streamed' if stream else 'whole'}: {why}"] if why else []
    return _cell(_noted(place, surface), failed, tell)


def _cell(good: str, failed: Iterable[str], tell: Callable[[str], None]) -> str:
    told = list(failed)
    for line in told:
        tell(line)
    return "no" if told else good


def _failure(act: Callable[..., None], *given: Any) -> str:
    """Why `act` failed; empty when it did not."""
    with ThreadPoolExecutor(1) as pool:  # whatever it is, it goes into the report
        error = pool.submit(act, *given).exception()
    return "" if error is None else f"{type(error).__name__}: {error}"
