"""A pair of a client surface and a provider: what is run for it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from backends.dialects.gemini_contents import NO_SIGNATURE
from tests.fakes.providers.brain import CONVERSATION, PICTURE, expect
from tests.fakes.providers.common import Provider
from tests.harness import Running
from tests.matrix.clients import Adaptive, Chat, Client, Items, Messages, Responses, Sealed, b64
from tests.matrix.places import Place

SURFACES = {"chat": "Chat Completions", "messages": "Messages", "responses": "Responses"}
# Each way in which a surface keeps a conversation is a client of its own.
CLIENTS: dict[str, type[Client]] = {
    "chat": Chat, "messages": Messages, "responses": Responses, "responses, items": Items, "responses, sealed": Sealed,
}  # fmt: skip
_NUMBER = re.compile(r"\[\d+\]")
_SIGNED = re.compile(rb'"(?:signature|thoughtSignature|data)": ?"([^"]{20,})"')


def surface_of(client: str) -> str:
    """The surface that a client of `CLIENTS` speaks."""
    return client.partition(",")[0]


def converse(place: Place, client: str, stream: bool, provider: Provider, gateways: Sequence[Running]) -> None:
    """The six turns, one gateway after the other. AssertionError: an answer was not what it should be, the provider refused something, or
    a parameter was dropped that need not be."""
    kind = Adaptive if client == "messages" and place.adaptive else CLIENTS[client]
    shown = surface_of(client) in place.shows
    with kind(gateways[0].url, stream) as talking:
        for step, gateway in zip(CONVERSATION, itertools.cycle(gateways)):
            talking.url = gateway.url
            said = talking.turn(step)
            expect(step, said.text, said.calls, said.thinking if shown else None)
    assert provider.rejected == [], provider.rejected
    assert len(provider.requests) == len(CONVERSATION)
    assert dropped(talking.reports) <= place.drops, talking.reports


def dropped(reports: Sequence[str]) -> set[str]:
    """The parameters that were dropped, without their numbers."""
    pairs = [pair.rpartition("=") for report in reports for pair in report.split(",")]
    return {_NUMBER.sub("[]", name) for name, _, fate in pairs if fate in ("dropped", "refused")}


def signatures(body: bytes) -> set[bytes]:
    """What providers signed, in a request to one: real signatures, and not Google's word for there being none."""
    return {value for value in _SIGNED.findall(body) if value not in (NO_SIGNATURE.encode(), b64(PICTURE).encode())}
