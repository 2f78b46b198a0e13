"""One row a kind of engine: how it is started. Pure: a spec, a port and a key become a plan; nothing runs here.

Keys never stand in argument lists, which every user of a machine can read. llama.cpp's child gets its key on standard input,
vLLM, llama-server and llama-cpp-python by environment. SGLang takes a key only as an argument or from a YAML file named by an argument:
it gets a file that only this user can read, in a private folder that is removed when the engine ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import msgspec

from backends.engines.child import Settings
from backends.engines.spec import EngineSpec

HOST = "127.0.0.1"
ROOT = str(Path(__file__).resolve().parents[2])  # where the package `backends` lies, also without an installation


class Launch(msgspec.Struct, frozen=True):
    """How to start one engine. `reports`: it says its port itself on its standard output (else it listens on the given one). `folder`: it
    needs a private one, `{dir}` in `argv` and in `facts`, which is what its instance will tell of it."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = {}
    stdin: str = ""
    files: Mapping[str, str] = {}
    health: str = "/health"
    reports: bool = False
    folder: bool = False
    facts: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"Launch({self.argv[0]!r}, …)"  # env, stdin and files hold the key


def _threads(spec: EngineSpec) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(spec.threads)} if spec.threads else {}


def _llamacpp(spec: EngineSpec, port: int, key: str) -> Launch:
    settings = Settings(
        model=spec.model, alias=spec.model_name, api_key=key, slots=spec.slots, context=spec.context, threads=spec.threads,
        replicas=spec.replicas, embeddings=spec.embeddings is not False, reranking=spec.reranking, chat_template=spec.chat_template,
        slot_save_path=spec.slot_save_path, lora=spec.lora, projector=spec.projector, draft=spec.draft, draft_tokens=spec.draft_tokens,
        extra=spec.args,
    )  # fmt: skip
    path = os.pathsep.join(part for part in (ROOT, spec.env.get("PYTHONPATH") or os.environ.get("PYTHONPATH", "")) if part)
    env = {"OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1", "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    return Launch((sys.executable, "-m", "backends.engines.child"), env, stdin=msgspec.json.encode(settings).decode(), reports=True)


def _llama_server(spec: EngineSpec, port: int, key: str) -> Launch:
    argv = [*(spec.command or ("llama-server",)), "--model", spec.model, "--alias", spec.model_name, "--host", HOST, "--port", str(port)]
    argv += ["--parallel", str(spec.slots), "--jinja", "--no-context-shift", "--slots", "--metrics"]
    if spec.context:
        argv += ["--ctx-size", str(spec.context * spec.slots)]
    if spec.threads:
        argv += ["--threads", str(spec.threads)]
    if spec.reranking:
        argv += ["--reranking"]
    elif spec.embeddings:  # `--pooling` in `args` comes later and wins
        # A batch that the slots do not divide makes mean pooling abort (see `sizing.batch`).
        argv += ["--embeddings", "--pooling", "mean", "--ubatch-size", str(max(1, 512 // spec.slots) * spec.slots)]
    if spec.chat_template:
        argv += ["--chat-template", spec.chat_template]
    if spec.slot_save_path:
        argv += ["--slot-save-path", spec.slot_save_path]
    for one in spec.lora:
        argv += ["--lora-scaled", f"{one.path}:{one.scale:g}"]
    if spec.projector:
        argv += ["--mmproj", spec.projector]
    if spec.draft:
        argv += ["--model-draft", spec.draft]
        argv += ["--draft-max", str(spec.draft_tokens)] if spec.draft_tokens else []
    env = {"LLAMA_API_KEY": key, "OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1"}
    return Launch((*argv, *spec.args), env)


def _llama_cpp_python(spec: EngineSpec, port: int, key: str) -> Launch:
    argv = [spec.python or sys.executable, "-m", "llama_cpp.server", "--model", spec.model, "--model_alias", spec.model_name]
    argv += ["--host", HOST, "--port", str(port)]
    if spec.context:
        argv += ["--n_ctx", str(spec.context)]
    if spec.threads:
        argv += ["--n_threads", str(spec.threads)]
    if spec.embeddings:
        argv += ["--embedding", "true"]
    return Launch((*argv, *spec.args), {"API_KEY": key, "GGML_NO_BACKTRACE": "1"}, health="/v1/models")


# In a folder that only this user can enter: an engine binds a TCP port for KV events on all addresses, and who can connect to one reads
# everybody's prompts. With "inproc" in the name either engine gives each data-parallel rank a file of its own, by a suffix.
_EVENTS, _REPLAY = "ipc://{dir}/inproc-kv", "ipc://{dir}/inproc-kv-replay"
_RANKS = ("--data-parallel-size", "-dp", "--dp-size", "--dp")
BUFFER_STEPS = 10_000  # batches kept for replays


def _kv_events(spec: EngineSpec, **more: bool) -> tuple[list[str], dict[str, str]]:
    """Arguments that make an engine publish what becomes of its KV cache, and where, for `facts`. Both engines take the same JSON."""
    if not spec.kv_events:
        return [], {}
    said = {**more, "publisher": "zmq", "endpoint": _EVENTS, "replay_endpoint": _REPLAY, "buffer_steps": BUFFER_STEPS, "topic": ""}
    words = [part for word in spec.args for part in word.split("=", 1)]
    ranks = next((n for name, n in pairwise(words) if name in _RANKS and n.isdigit()), "1")
    # Replaced is `{dir}` alone, so the braces of the JSON stay.
    return ["--kv-events-config", msgspec.json.encode(said).decode()], {"kv_events": _EVENTS, "kv_replay": _REPLAY, "kv_ranks": ranks}


def _vllm(spec: EngineSpec, port: int, key: str) -> Launch:
    argv = [spec.python or sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", spec.model]
    argv += ["--served-model-name", spec.model_name, "--host", HOST, "--port", str(port)]
    if spec.context:
        argv += ["--max-model-len", str(spec.context)]
    if spec.chat_template:
        argv += ["--chat-template", spec.chat_template]
    events, facts = _kv_events(spec, enable_kv_cache_events=True)
    if events:
        argv += [*events, "--enable-prompt-tokens-details"]  # the truth that predictions are held against
    env = {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", **_threads(spec)}
    return Launch((*argv, *spec.args), env, folder=bool(events), facts=facts)


def _sglang(spec: EngineSpec, port: int, key: str) -> Launch:
    argv = [spec.python or sys.executable, "-m", "sglang.launch_server", "--config", "{dir}/key.yaml", "--model-path", spec.model]
    argv += ["--served-model-name", spec.model_name, "--host", HOST, "--port", str(port)]
    if spec.context:
        argv += ["--context-length", str(spec.context)]
    if spec.chat_template:
        argv += ["--chat-template", spec.chat_template]
    events, facts = _kv_events(spec)
    if events:
        argv += [*events, "--enable-cache-report"]
    env = {"DO_NOT_TRACK": "1", **_threads(spec)}
    return Launch((*argv, *spec.args), env, files={"key.yaml": f"api-key: {key}\n"}, folder=True, facts=facts)


def _command(spec: EngineSpec, port: int, key: str) -> Launch:
    words = {"{port}": str(port), "{host}": HOST, "{model}": spec.model}

    def fill(word: str) -> str:
        for mark, value in words.items():
            word = word.replace(mark, value)
        return word

    env = {"POINTSMAN_API_KEY": key, "POINTSMAN_PORT": str(port), **_threads(spec)}
    return Launch(tuple(fill(word) for word in (*spec.command, *spec.args)), env)


ROWS: Mapping[str, Callable[[EngineSpec, int, str], Launch]] = {
    "llamacpp": _llamacpp, "llama-server": _llama_server, "llama-cpp-python": _llama_cpp_python,
    "vllm": _vllm, "sglang": _sglang, "command": _command,
}  # fmt: skip


def launch(spec: EngineSpec, port: int, key: str) -> Launch:
    """The plan for one start of `spec` on `port` with `key`. The spec's own environment wins over the row's."""
    row = ROWS[spec.kind](spec, port, key)
    env = {**row.env, **{name: value.replace("{api_key}", key).replace("{port}", str(port)) for name, value in spec.env.items()}}
    if spec.kind == "llamacpp":
        env["PYTHONPATH"] = row.env["PYTHONPATH"]
    return msgspec.structs.replace(row, env=env, health=spec.health_path or row.health)
