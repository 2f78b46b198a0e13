"""The providers: what a user writes to reach each, and its scripted server, which refuses what the real one refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from gateway.config import parse
from tests.fakes.providers import anthropic, bedrock, gemini
from tests.fakes.providers.common import Provider
from tests.fakes.providers.openai_chat import KEY, OpenAIChat
from tests.fakes.providers.openai_responses import OpenAIResponses
from tests.gateway.provided import VERTEX, Azure, VertexClaude
from tests.harness import Running, running

SIGNED = {"AWS_ACCESS_KEY_ID": bedrock.KEY_ID, "AWS_SECRET_ACCESS_KEY": bedrock.SECRET}


@dataclass(frozen=True)
class Place:
    """One row. `backend`: what stands in the file beside kind and URL, which is the server's root and `path`; `environ`: of the process.

    `shows`: surfaces on which the model's thinking is seen. `adaptive`: a Messages client asks this model to think as newer ones want it.
    `signs`: it wants back what it signed. `drops`: parameters that mean nothing to it, and the report says so.
    """

    title: str
    kind: str
    fake: Callable[[], Provider]
    model: str
    path: str = ""
    backend: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    shows: frozenset[str] = frozenset({"chat", "messages", "responses"})
    adaptive: bool = False
    signs: bool = False
    drops: frozenset[str] = frozenset()

    def tree(self, root: str, server: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration: one route `m` to this model. `strict`: what could not be honoured would be refused."""
        return {
            "server": {"port": 0, "admin": {"port": None}, "drain_seconds": 1, "log": {"level": "error"}, **server},
            "backends": {"far": {"kind": self.kind, "url": root + self.path, **self.backend}},
            "routes": {"m": {"targets": [{"backend": "far", "model": self.model}], "retries": 0, "on_unsupported": "strict"}},
        }

    @contextmanager
    def served(self, count: int = 1, **server: Any) -> Iterator[tuple[Provider, list[Running]]]:
        """The scripted provider and so many gateways in front of it, for the time of the block."""
        provider = self.fake()
        with ExitStack() as stack:
            stack.enter_context(patch.dict("os.environ", self.environ))
            root = stack.enter_context(provider.serving())
            config = parse(json.dumps(self.tree(root, server)), {})
            yield provider, [stack.enter_context(running(config)) for _ in range(count)]


def _redacting() -> Provider:
    return anthropic.Anthropic(redact=True)


@dataclass
class AzureResponses(Azure, OpenAIResponses):
    """OpenAI's service as Azure has it, Responses too."""


def _open() -> Provider:
    return OpenAIChat(shows="reasoning_content")


# Google checks calls against their schema always, and wants signatures back rather than the text of thoughts.
NEEDLESS = frozenset({"tools[].function.strict", "messages[].reasoning_content"})
HIDDEN = frozenset({"responses"})  # OpenAI shows what its models thought only on Responses
GOOGLE = f"{VERTEX}/publishers/google"
PLACES: dict[str, Place] = {
    "openai": Place("OpenAI", "openai", OpenAIResponses, "gpt-5", "/v1", {"key": KEY}, shows=HIDDEN),
    "azure": Place("Azure OpenAI", "azure", AzureResponses, "gpt-5", "", {"key": KEY}, shows=HIDDEN),
    "compatible": Place("OpenAI-compatible, `reasoning_content`", "compatible", _open, "gpt-5", "/v1", {"key": KEY}),
    "anthropic": Place("Anthropic", "anthropic", _redacting, "claude-opus-4-6", "/v1", {"key": anthropic.KEY}, signs=True),
    "anthropic, adaptive": Place(
        "Anthropic", "anthropic", anthropic.Anthropic, "claude-opus-4-7", "/v1", {"key": anthropic.KEY},
        adaptive=True, signs=True,
    ),
    "vertex-anthropic": Place(
        "Claude on Vertex AI", "vertex-anthropic", VertexClaude, "claude-sonnet-4-5@20250929", f"{VERTEX}/publishers/anthropic",
        {"key": gemini.TOKEN}, signs=True,
    ),
    "bedrock": Place(
        "Bedrock, SigV4", "bedrock", bedrock.Bedrock, "us.anthropic.claude-opus-4-7", "", {"region": bedrock.REGION}, SIGNED,
        signs=True,
    ),
    "bedrock, bearer": Place(
        "Bedrock, API key", "bedrock", bedrock.Bedrock, "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "",
        {"region": bedrock.REGION, "key": bedrock.BEARER}, signs=True,
    ),
    "gemini": Place("Gemini, AI Studio", "gemini", gemini.Gemini, "gemini-3-pro-preview", "/v1beta", {"key": gemini.KEY}, signs=True,
        drops=NEEDLESS,
    ),
    "gemini 2.5": Place("Gemini, AI Studio", "gemini", gemini.Gemini, "gemini-2.5-flash", "/v1beta", {"key": gemini.KEY}, signs=True,
        drops=NEEDLESS,
    ),
    "vertex": Place("Gemini, Vertex AI", "vertex", gemini.Gemini, "gemini-3.5-flash", GOOGLE, {"key": gemini.TOKEN}, signs=True,
        drops=NEEDLESS,
    ),
}  # fmt: skip
