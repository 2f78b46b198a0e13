"""Measure the toy model through llama.cpp: ``python -m quant.builtin.evaluate [--gguf PATH] [--per-task 100]``.

Every task gets the same number of held-out questions, asked greedily over ``/v1/chat/completions`` of an ``xllamacpp.Server``; an answer
counts when it is exact (tool calls: the name and the arguments that the server parsed out of the answer). The script prints a table and
fails below 95 % over all tasks or 85 % in one.
"""

import argparse
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from . import path
from .phrases import instruction_words
from .sampling import Sampler
from .talk import TASKS
from .tasks import Example

ALL_BAR = 0.95
TASK_BAR = 0.85


class Engine:
    """llama.cpp in this process, over its server's request handler (one slot, greedy)."""

    def __init__(self, gguf: Path, threads: int = 1, context: int = 2048) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(gguf)
        parameters.n_ctx, parameters.n_parallel, parameters.warmup = context, 1, False
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.verbosity = -1
        parameters.fit_params = False
        self.server: Any = xllamacpp.Server(parameters)

    def chat(self, messages: list[dict[str, Any]], tools: Any = None, **options: Any) -> dict[str, Any]:
        """The assistant's message (OpenAI shape) to a conversation."""
        body = {"messages": messages, "temperature": 0, "max_tokens": 256, "cache_prompt": False, **options}
        if tools:
            body["tools"] = tools
        reply: dict[str, Any] = json.loads(self._send(json.dumps(body)))
        if "choices" not in reply:
            raise RuntimeError(f"the engine refused: {reply}")
        message: dict[str, Any] = reply["choices"][0]["message"]
        return message

    def _send(self, body: str) -> str:
        parts: list[str] = []
        reply = self.server.handle_chat_completions(body, lambda part: parts.append(part if isinstance(part, str) else json.dumps(part)))
        if parts:
            return parts[0]
        return reply if isinstance(reply, str) else json.dumps(reply)


def wire(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as OpenAI clients send them: tool calls carry their arguments as a JSON string, results name their call."""
    sent = []
    for message in messages:
        copy = dict(message)
        if "tool_calls" in copy:
            calls = [{**c, "function": {**c["function"], "arguments": json.dumps(c["function"]["arguments"])}} for c in copy["tool_calls"]]
            copy |= {"tool_calls": calls, "content": None}
        if copy["role"] == "tool":
            copy["tool_call_id"] = "call_0"
        sent.append(copy)
    return sent


def given(message: dict[str, Any]) -> str | tuple[str, Any]:
    """What a reply amounts to: its text, or the name and arguments of its tool call."""
    calls = message.get("tool_calls")
    if not calls:
        return message.get("content") or ""
    try:
        return calls[0]["function"]["name"], json.loads(calls[0]["function"]["arguments"])
    except ValueError:
        return json.dumps(calls)


def measure(engine: Engine, per_task: int, seed: int = 1, misses: list[str] | None = None) -> dict[str, float]:
    """Share of exact answers of each task on held-out questions; ``misses`` collects what went wrong."""
    scores = {}
    for name, task in TASKS.items():
        sampler = Sampler(random.Random(f"{seed} {name}"), evaluation=True, taught=instruction_words())
        right = 0
        for _ in range(per_task):
            example = task(sampler)
            got = given(engine.chat(wire(example.messages()), example.tools))
            right += got == wanted(example)
            if misses is not None and got != wanted(example):
                misses.append(f"{name}: {example.question!r} wanted {wanted(example)!r} got {got!r}")
        scores[name] = right / per_task
    return scores


def wanted(example: Example) -> str | tuple[str, Any]:
    """The exact answer of an example: a text, or a tool's name and arguments."""
    return example.call if example.call is not None else example.answer


def passed(scores: dict[str, float]) -> bool:
    """Whether the scores clear both bars."""
    return sum(scores.values()) / len(scores) >= ALL_BAR and min(scores.values()) >= TASK_BAR


def main() -> int:
    """Command line; 0 above the bars, 1 below."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, default=path())
    parser.add_argument("--per-task", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--misses", action="store_true", help="also list the wrong answers")
    parser.add_argument("--json", action="store_true", help="print the scores as one line of JSON instead of a table")
    arguments = parser.parse_args()
    misses: list[str] = []
    scores = measure(Engine(arguments.gguf, arguments.threads), arguments.per_task, arguments.seed, misses)
    mean = sum(scores.values()) / len(scores)
    if arguments.json:
        sys.stdout.write(json.dumps(scores | {"all": mean}) + "\n")
    else:
        sys.stdout.write("".join(f"{name:12} {score:6.1%}\n" for name, score in scores.items()) + f"{'all':12} {mean:6.1%}\n")
    if arguments.misses:
        sys.stdout.write("\n".join(misses) + "\n")
    sys.stdout.flush()
    return 0 if passed(scores) else 1


if __name__ == "__main__":
    sys.exit(main())
