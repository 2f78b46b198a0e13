"""LangChain's own standard tests of chat models, with its unmodified OpenAI client in front of the gateway: by Chat Completions in front of
OpenAI, Anthropic and Gemini, and by Responses in front of a server that knows only chat. Behind it are the strict scripted providers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

pytest.importorskip("langchain_tests", reason="langchain-tests is not installed: it comes with the extra `test`")
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from gateway.config import parse
from tests.fakes.providers import anthropic, brain, gemini
from tests.fakes.providers.brain import Answer, Call, Settings, Tool, Turn, fill
from tests.fakes.providers.common import Provider
from tests.fakes.providers.media import PDF, png, wav
from tests.fakes.providers.openai_chat import KEY, OpenAIChat
from tests.harness import running

plain = brain.answer
_NUMBERS = re.compile(r"\((\d+)\)")
_QUOTED = re.compile(r"'([^']+)'")
_MEDIA = {".png": png(3, 2), ".pdf": PDF, ".wav": wav()}


def mind(turns: Sequence[Turn], settings: Settings) -> Answer:
    """The mind of the scripted providers, and what LangChain's questions ask for besides: tools of other names, keys of an object."""
    last = turns[-1]
    asked = [tool for tool in settings.tools if settings.force in ("any", "=" + tool.name)]
    if settings.force == "auto" and "weather" in last.text:
        asked = list(settings.tools)
    if asked and not last.results:
        return Answer(calls=(Call(asked[0].name, arguments(asked[0], last.text)),), finish="calls")
    if "the result as a JSON" in last.text and settings.schema is None:  # it does what it is told, asked for JSON in the parameters or not
        return Answer(json.dumps(dict.fromkeys(_QUOTED.findall(last.text), "x")))
    return plain(turns, settings)


def arguments(tool: Tool, text: str) -> dict[str, Any]:
    """What a tool is called with: the number or the quoted name in the question, the smallest value for the rest."""
    given: dict[str, Any] = fill(tool.schema)
    numbers, names = _NUMBERS.findall(text), _QUOTED.findall(text)
    if "input" in given and numbers:
        given["input"] = int(numbers[0])
    if "customer_name" in given and names:
        given["customer_name"] = names[0]
    return given


def fetched(url: str, **_: Any) -> SimpleNamespace:
    """The files that the tests would download: real ones of their kinds, without the internet."""
    return SimpleNamespace(content=_MEDIA[url[-4:]])


class Standard(ChatModelIntegrationTests):
    """One gateway for the class. `backend`: what reaches the provider, but for its address, which is the server's root and `path`."""

    fake: Any = OpenAIChat
    models = ("gpt-4o", "gpt-4.1-mini")
    path = "/v1"
    backend: dict[str, Any] = {"kind": "openai", "key": KEY}
    responses = False
    url = ""
    pytestmark = [
        pytest.mark.anyio,
        pytest.mark.filterwarnings(  # of LangChain's client about what its own tests do
            "ignore:OpenAI may require a filename:UserWarning",
            "ignore:Received a Pydantic BaseModel V1 schema:UserWarning",
            "ignore:Pydantic serializer warnings:UserWarning",
        ),
    ]

    @pytest.fixture(scope="class")
    @classmethod
    def anyio_backend(cls) -> str:
        return "asyncio"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def gateway(cls) -> Iterator[None]:
        provider: Provider = cls.fake()
        with provider.serving() as root:
            tree = {
                "server": {"port": 0, "admin": {"port": None}, "log": {"level": "error"}},
                "backends": {"far": {**cls.backend, "url": root + cls.path}},
                "routes": {name: {"targets": [{"backend": "far", "model": name}], "on_unsupported": "drop"} for name in cls.models},
            }
            with ExitStack() as stack:
                for name in ("brain", "anthropic"):
                    stack.enter_context(patch(f"tests.fakes.providers.{name}.answer", mind))
                stack.enter_context(patch("httpx.get", fetched))
                stack.enter_context(patch.dict("os.environ", {"LANGCHAIN_TESTS_USER_AGENT": "nobody is asked"}))
                cls.url = stack.enter_context(running(parse(json.dumps(tree), {}))).url
                yield
        assert provider.rejected == []

    @property
    def chat_model_class(self) -> type[ChatOpenAI]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": self.models[0], "base_url": self.url, "api_key": "none", "max_retries": 0, "stream_usage": True,
            "use_responses_api": self.responses,
            "default_headers": {"Connection": "close"},  # LangChain keeps its connections for good, and each test has a loop of its own
        }  # fmt: skip

    @property
    def model_override_value(self) -> str:
        return self.models[1]

    @pytest.fixture
    def vcr(self) -> None:
        """Nothing is recorded: `test_stream_time`, which wants this and the next, measures LangChain."""

    @pytest.fixture
    def benchmark(self) -> None:
        """Nothing is measured."""

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True


class TestOpenAI(Standard):
    @property
    def supports_audio_inputs(self) -> bool:
        return True


class TestAnthropic(Standard):
    fake, backend = anthropic.Anthropic, {"kind": "anthropic", "key": anthropic.KEY}
    models = ("claude-sonnet-4-5-20250929", "claude-opus-4-6")

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True


class TestGemini(Standard):
    fake, path, backend = gemini.Gemini, "/v1beta", {"kind": "gemini", "key": gemini.KEY}
    models = ("gemini-2.5-flash", "gemini-2.5-pro")


class TestResponses(Standard):
    """The Responses surface, translated."""

    backend = {"kind": "compatible", "key": KEY}
    responses = True
