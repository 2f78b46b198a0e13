"""Agents that others made, unmodified, on a chat model behind the gateway: Claude Code in print mode, and openai-agents."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import agents
import openai
import pytest

from tests.fakes.answers import DONE, data, openai_error, sse
from tests.fakes.engine import Engine
from tests.fakes.openai import respond
from tests.fakes.request import Request
from tests.fakes.script import Script
from tests.harness import config_for, running
from tests.sdk.conftest import KEY, Served

NODE = Path(__file__).with_name("node") / "claude"
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def chunk(delta: Any, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if more else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return data({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": choices, **more})


def reader(note: Path) -> Any:
    """A model that reads a file before it answers, with the words of the file."""

    def answer(request: Request) -> Script:
        doc = request.doc
        if request.path != "/v1/chat/completions":
            return respond(request)
        last, tools = doc["messages"][-1], [tool["function"]["name"] for tool in doc.get("tools", ())]
        if "Read" in tools and last["role"] != "tool":
            arguments = json.dumps({"file_path": str(note)})
            call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "Read", "arguments": arguments[:9]}}
            rest = {"index": 0, "function": {"arguments": arguments[9:]}}
            events = [chunk({"role": "assistant", "content": "I look."}), chunk({"tool_calls": [call]}), chunk({"tool_calls": [rest]})]
            return sse([*events, chunk({}, "tool_calls"), chunk(None, usage=USAGE), DONE])
        said = "albatross" if "albatross" in str(last["content"]) else "unknown"
        return sse([chunk({"role": "assistant", "content": "The word is "}), chunk({"content": said}), chunk({}, "stop"),
                    chunk(None, usage=USAGE), DONE])  # fmt: skip

    return answer


@pytest.fixture(scope="session")
def claude_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, installed as the lock says. Skips where Node.js or the package cannot be had."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("claude")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(NODE / name, folder / name)
    done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, timeout=500)
    program = folder / "node_modules" / ".bin" / "claude"
    if done.returncode or not program.exists():
        pytest.skip(f"npm ci failed: {done.stderr.strip().splitlines()[-1:]}")
    return program


def print_mode(program: Path, folder: Path, port: int, prompt: str) -> dict[str, Any]:
    """What Claude Code says to one prompt, in a folder and a home of its own."""
    (folder / "home").mkdir()
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder / "home"), "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
        "ANTHROPIC_AUTH_TOKEN": KEY, "ANTHROPIC_MODEL": "m", "ANTHROPIC_DEFAULT_HAIKU_MODEL": "m",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "CLAUDE_CODE_MAX_RETRIES": "0",
    }  # fmt: skip
    command = [str(program), "-p", prompt, "--output-format", "json", "--allowedTools", "Read"]
    done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.node
@pytest.mark.timeout(700)
def test_claude_code(claude_code: Path, tmp_path: Path) -> None:
    """It thinks it speaks to Anthropic: reads a file through a tool of its own, and tells what stood there."""
    note = tmp_path / "note.txt"
    note.write_text("The word is albatross.\n")
    keys = {"keys": [{"name": "sdk", "key": KEY}]}
    with Engine(responder=reader(note)) as engine, running(config_for([engine], more=keys)) as gateway:
        said = print_mode(claude_code, tmp_path, gateway.port, "Which word is in note.txt?")
        asked = [request.doc for request in engine.posts()]
    assert said["result"] == "The word is albatross" and not said["is_error"] and said["num_turns"] == 2
    assert said["usage"]["input_tokens"] == 200 and said["usage"]["output_tokens"] == 20
    for doc in asked:  # what a strict chat template takes
        assert [i for i, message in enumerate(doc["messages"]) if message["role"] == "system"] in ([], [0])
    assert [m["role"] for m in asked[-1]["messages"]][-2:] == ["assistant", "tool"]


@pytest.mark.node
@pytest.mark.timeout(700)
def test_claude_code_knows_when_a_prompt_is_too_long(claude_code: Path, tmp_path: Path) -> None:
    with Engine() as engine, running(config_for([engine], more={"keys": [{"name": "sdk", "key": KEY}]})) as gateway:
        engine.on_model("fake", openai_error(400, "This model's maximum context length is 10 tokens.", "context_length_exceeded"))
        said = print_mode(claude_code, tmp_path, gateway.port, "Hello")
    assert said["is_error"] and said["terminal_reason"] == "prompt_too_long"


@agents.function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"It is sunny in {city}."


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_openai_agents(served: Served, stream: bool) -> None:
    """A run of openai-agents on Responses: it calls a tool, sends its result back, and ends with an answer."""

    async def run() -> agents.result.RunResultBase:
        async with openai.AsyncOpenAI(base_url=served.url, api_key=served.key, max_retries=0, timeout=60) as client:
            agent = agents.Agent(
                name="Weather", instructions="Answer with the tool.", tools=[get_weather],
                model=agents.OpenAIResponsesModel(model=served.model, openai_client=client),
                model_settings=agents.ModelSettings(tool_choice="required", temperature=0, max_tokens=100),
            )  # fmt: skip
            config = agents.RunConfig(tracing_disabled=True)
            if not stream:
                return await agents.Runner.run(agent, "What is the weather in Paris?", run_config=config, max_turns=5)
            result = agents.Runner.run_streamed(agent, "What is the weather in Paris?", run_config=config, max_turns=5)
            async for _ in result.stream_events():
                pass
            return result

    result = asyncio.run(run())
    kinds = [item.type for item in result.new_items]
    assert kinds[0] == "tool_call_item" and "tool_call_output_item" in kinds and result.final_output
    output: Any = next(item for item in result.new_items if item.type == "tool_call_output_item")
    assert output.output.startswith("It is sunny in")
