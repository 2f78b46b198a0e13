"""The built-in model behind a real llama.cpp: what a toy of 2.5 million parameters can do of the conversation, on every surface."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gateway.config import parse
from tests.fakes.providers.brain import Call, Step, expect
from tests.harness import Running, running
from tests.matrix.clients import Client

COLOUR: dict[str, Any] = {
    "type": "object", "properties": {"colour": {"type": "string", "enum": ["red"]}}, "required": ["colour"], "additionalProperties": False,
}  # fmt: skip
# It knows one turn at a time well, so each of these is a conversation of its own; the results belong to the calls before them.
LOCAL: tuple[tuple[Step, ...], ...] = (
    (Step("repeat", "Repeat: banana", tools=False, said="banana"),),
    (
        Step("call", "What is the weather in Paris?", calls=(Call("get_weather", {"city": "Paris"}),)),
        Step("results", results={"Paris": "sunny"}, said="The result is sunny."),
    ),
    (Step("structured", "A colour, as JSON", tools=False, schema=COLOUR, value={"colour": "red"}),),
)


@contextmanager
def served() -> Iterator[Running]:
    """A gateway with the built-in model, for the time of the block."""
    tree = {
        "server": {"port": 0, "admin": {"port": None}, "log": {"level": "error"}},
        "backends": {"toy": {"engine": "llamacpp", "model": "builtin"}},
        "routes": {"m": {"targets": [{"backend": "toy"}]}},
    }
    with running(parse(json.dumps(tree), {})) as gateway:
        yield gateway


def locally(kind: type[Client], stream: bool, gateway: Running) -> None:
    """What the toy can do. AssertionError: an answer was not what it should be."""
    for steps in LOCAL:
        with kind(gateway.url, stream, system="", more={"extra_body": {"temperature": 0}}) as talking:
            for step in steps:
                said = talking.turn(step)
                expect(step, said.text, said.calls)
