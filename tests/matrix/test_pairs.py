"""Every client surface with every provider, streamed and not: the six-turn conversation, and not one request that a provider refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.dialects.gemini_contents import NO_SIGNATURE
from tests.harness import Running
from tests.matrix.local import locally, served
from tests.matrix.pairs import CLIENTS, converse, signatures
from tests.matrix.places import PLACES
from tests.matrix.table import BEGIN, END, expected, markdown

WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
SIGNING = [name for name, place in PLACES.items() if place.signs]


@WAYS
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", PLACES)
def test_a_pair(name: str, client: str, stream: bool) -> None:
    place = PLACES[name]
    with place.served() as (provider, gateways):
        converse(place, client, stream, provider, gateways)
    assert bool(signatures(provider.requests[2].body)) == place.signs  # with the results of the calls that were signed
    assert not any(NO_SIGNATURE.encode() in request.body for request in provider.requests)


@WAYS
@pytest.mark.parametrize("client", ["chat", "messages", "responses, items", "responses, sealed"])
@pytest.mark.parametrize("name", SIGNING)
def test_a_pair_of_gateways(name: str, client: str, stream: bool) -> None:
    """Each turn goes to another gateway, and they share nothing: with `tool_state: id` what a provider signed travels with the client."""
    place = PLACES[name]
    with place.served(2, tool_state="id") as (provider, gateways):
        converse(place, client, stream, provider, gateways)
    assert signatures(provider.requests[2].body)
    assert not any(NO_SIGNATURE.encode() in request.body for request in provider.requests)


@pytest.fixture(scope="module")
def toy() -> Iterator[Running]:
    with served() as gateway:
        yield gateway


@WAYS
@pytest.mark.parametrize("client", CLIENTS)
def test_the_built_in_model(toy: Running, client: str, stream: bool) -> None:
    locally(CLIENTS[client], stream, toy)


def test_the_table_in_the_readme() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == markdown(expected()), "python -m tests.matrix prints what belongs there"
