"""llama.cpp's whole server in this process, asked over loopback as any client would: what the model's template makes of a chat, what it
answers, how fast it writes. Belongs in a child process (`evaluate_child`). Everything here blocks.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from quant.evaluate_jobs import Question, Speed
from quant.evaluate_llama import LlamaError

PATIENCE = 600.0  # seconds for one answer
MAX_ANSWER = 16 << 20  # bytes
_ROUNDS = 3
_PASSAGE = "The harbour was quiet. Boats lay along the wall, and somebody was mending a net in the last of the light. " * 6


class Server:
    """One model, one slot, greedy. `template`: the model has a chat template; one without gets plain prompts. Raises `LlamaError`."""

    def __init__(self, path: str, threads: int, context: int, template: bool) -> None:
        try:
            import xllamacpp
        except ImportError as error:
            raise LlamaError(f"The package xllamacpp cannot be loaded ({error}); run: pip install xllamacpp") from None
        self._name, self._template, self._key = Path(path).name, template, secrets.token_urlsafe(16)
        self._context = context
        parameters = xllamacpp.CommonParams()
        parameters.model.path = path
        parameters.hostnames, parameters.port, parameters.api_keys = ["127.0.0.1"], 0, [self._key]
        parameters.n_ctx, parameters.n_parallel, parameters.warmup = context, 1, False
        parameters.n_batch = parameters.n_ubatch = 256
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.verbosity, parameters.fit_params, parameters.ctx_shift = -1, False, False
        parameters.use_jinja, parameters.ui, parameters.offline, parameters.cache_ram_mib = True, False, True, 0
        try:
            self._server = xllamacpp.Server(parameters)
        except (RuntimeError, ValueError, MemoryError):
            raise LlamaError(f"llama.cpp cannot load {self._name}; it may be damaged, or memory is short.") from None
        self._place = urlsplit(self._server.listening_address)

    def _post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """The status and the document that came back."""
        connection = HTTPConnection(self._place.hostname or "", self._place.port, timeout=PATIENCE)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read(MAX_ANSWER))
        except (OSError, HTTPException, ValueError) as error:
            raise LlamaError(f"llama.cpp's server does not answer for {self._name} ({type(error).__name__}).") from None
        finally:
            connection.close()

    def _asked(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        status, found = self._post(path, body)
        if status != 200 or not isinstance(found, dict):
            raise LlamaError(f"llama.cpp refuses what {self._name} is asked: {reason(found)}")
        return found

    def written(self, chat: Mapping[str, Any]) -> tuple[str, str]:
        """A chat as the model's template writes it, and why it cannot."""
        kept = {key: value for key, value in chat.items() if key in ("messages", "tools", "chat_template_kwargs")}
        status, found = self._post("/apply-template", kept)
        text = found.get("prompt") if isinstance(found, dict) else None
        return (text, "") if status == 200 and isinstance(text, str) else ("", reason(found))

    def answer(self, question: Question) -> tuple[str, tuple[str, Any] | None]:
        """What the model says: text, or a tool's name and arguments."""
        if not self._template:
            body = {"prompt": question.prompt, "n_predict": question.tokens, "temperature": 0, "stop": ["\n"]}
            status, found = self._post("/completion", body)
            return (str(found.get("content", "")) if status == 200 else ""), None  # too long a question for its context: a wrong answer
        asked = {
            "messages": question.messages, "max_tokens": question.tokens, "temperature": 0, "cache_prompt": False,
            "chat_template_kwargs": {"enable_thinking": False}, **({"tools": question.tools} if question.tools else {}),
        }  # fmt: skip
        status, found = self._post("/v1/chat/completions", asked)
        if status != 200:
            return "", None  # its own grammar stumbled over what it wrote: a wrong answer
        message = found["choices"][0]["message"]
        return str(message.get("content") or ""), _call(message)

    def speed(self, tokens: int) -> Speed:
        """The best of a few rounds: what disturbs makes it slower, never faster."""
        rounds = []
        passage = _PASSAGE[: max(1, self._context - tokens - 16)]  # a token has a byte at least
        for _ in range(_ROUNDS):
            body = {"prompt": passage, "n_predict": tokens, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
            timings = self._asked("/completion", body)["timings"]
            rounds.append((float(timings["predicted_per_second"]), float(timings["prompt_per_second"])))
        return Speed(max(writing for writing, _ in rounds), max(reading for _, reading in rounds))


def _call(message: Mapping[str, Any]) -> tuple[str, Any] | None:
    calls = message.get("tool_calls")
    if not calls:
        return None
    function = calls[0]["function"]
    try:
        return str(function["name"]), json.loads(function["arguments"])
    except ValueError:
        return str(function["name"]), None


def reason(found: Any) -> str:
    """What llama.cpp says in an error object, in short."""
    error = found.get("error") if isinstance(found, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    return str(said)[:300] if said else "it does not say why."
