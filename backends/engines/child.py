"""llama.cpp's server in a process of its own: `python -m backends.engines.child`, settings as JSON on standard input.

Standard output is a status channel, JSON lines: `{"progress": text}`; `{"port": …, "context": …, "slots": …, "vocab": …, …}`
once the model is loaded and the port is open; or `{"error": sentence, "fatal": true}` before exit status 3. Everything else
goes to standard error. The port is chosen by the kernel, so that nobody can take it in between.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import Any, NoReturn
from urllib.parse import urlsplit

import msgspec

from backends.engines import gguf, sizing
from backends.engines.spec import Lora

EXIT_UNUSABLE = 3
OURS = frozenset(
    {"api_keys", "hostnames", "port", "model", "model_alias", "ssl_file_key", "ssl_file_cert", "server_tools", "media_path", "public_path"}
)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the supervisor tells the child. Tokens, threads, counts; `extra` are `name=JSON` fields of the engine's parameters."""

    model: str
    alias: str
    api_key: str
    slots: int = 4
    context: int | None = None
    threads: int | None = None
    replicas: int = 1
    embeddings: bool = True
    reranking: bool = False
    chat_template: str = ""
    slot_save_path: str = ""
    lora: tuple[Lora, ...] = ()
    projector: str = ""
    draft: str = ""
    draft_tokens: int | None = None
    extra: tuple[str, ...] = ()


def _say(line: dict[str, object], channel: int) -> None:
    os.write(channel, json.dumps(line).encode() + b"\n")


def _fail(sentence: str, channel: int) -> NoReturn:
    _say({"error": sentence, "fatal": True}, channel)
    sys.stderr.write(sentence + "\n")
    sys.exit(EXIT_UNUSABLE)


def apply_extra(params: Any, extra: tuple[str, ...]) -> None:
    """Sets further fields on llama.cpp's parameters (dots go into nested ones). Raises `ValueError` with one sentence."""
    for item in extra:
        name, equals, text = item.partition("=")
        path = name.strip().split(".")
        holder = params
        for step in path[:-1]:
            holder = getattr(holder, step, None)
        known = bool(equals) and not any(step.startswith("_") for step in path) and hasattr(holder, path[-1])
        if not known or path[0] in OURS:
            raise ValueError(f"The engine argument {name!r} is no llama.cpp parameter that can be set; write name=JSON (kv_unified=true).")
        try:
            setattr(holder, path[-1], json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(f"The engine argument {name!r} has a value that llama.cpp does not take: {error}.") from None


def parameters(settings: Settings, meta: gguf.Meta, memory: int, cores: int) -> Any:
    """llama.cpp's parameters for these settings. Blocks while the native library is loaded; raises `ValueError` for a bad `extra`."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    tokens = sizing.context(settings.context, meta.context, settings.slots, meta.kv_bytes, memory)
    size = sizing.batch(tokens, meta.parameters, meta.pooling not in ("", "none"), settings.slots)
    count = sizing.threads(settings.threads, settings.replicas, cores)
    params.model.path, params.model_alias = settings.model, {settings.alias}
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [settings.api_key]
    params.n_parallel, params.n_ctx = settings.slots, tokens * settings.slots
    params.n_batch = params.n_ubatch = size
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = count
    params.cont_batching, params.use_jinja = True, True
    params.ctx_shift = False  # a prompt that does not fit is an error, never silently cut
    params.endpoint_slots, params.endpoint_metrics, params.ui, params.offline = True, True, False, True
    params.verbosity = 2  # warnings; the next level writes several lines a request
    params.cache_ram_mib = sizing.prompt_cache_mib(memory)
    if settings.chat_template:
        params.chat_template = settings.chat_template
    if settings.slot_save_path:
        params.slot_save_path = os.path.join(settings.slot_save_path, "")  # llama.cpp only puts a file's name behind it
    if settings.reranking:
        params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    elif settings.embeddings:
        # Chat and embeddings from one server: llama.cpp switches between them batch by batch. A model made for
        # embeddings knows its own pooling.
        params.embedding = True
        if not meta.pooling:
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    _beside(params, settings)
    apply_extra(params, settings.extra)
    return params


def _beside(params: Any, settings: Settings) -> None:
    """The files that change or help the model."""
    import xllamacpp

    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(one.path, one.scale) for one in settings.lora]
    if settings.projector:
        params.mmproj.path = settings.projector
    if settings.draft:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        params.speculative.draft.mparams.path = settings.draft
        params.speculative.draft.n_max = settings.draft_tokens or params.speculative.draft.n_max


def _facts(params: Any, meta: gguf.Meta, port: int) -> dict[str, object]:
    tokens = params.n_ctx // params.n_parallel
    context = min(tokens, meta.context or tokens)  # llama.cpp's slots never go beyond the trained length
    return {
        "port": port, "context": context, "slots": params.n_parallel, "vocab": meta.vocab, "parameters": meta.parameters,
        "embedding": meta.embedding, "architecture": meta.architecture, "quant": meta.file_type, "anonymous": _anonymous(),
    }  # fmt: skip


def _anonymous() -> int:
    """Bytes that this process holds and the kernel cannot drop; 0 where the system does not tell. Blocks for a file."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) << 10
    return 0


def main() -> NoReturn:
    """Serves until a signal ends the process."""
    channel = os.dup(1)
    os.dup2(2, 1)  # whatever the native code prints is log, not status
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve each other on shared cores
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an abort would start a debugger first
    try:
        meta = gguf.read(settings.model)
        gguf.check(meta)
        _say({"progress": f"loading {os.path.basename(settings.model)} ({meta.bytes / 1e6:.1f} MB)"}, channel)
        params = parameters(settings, meta, sizing.machine_memory(), sizing.machine_cores())
    except ValueError as error:
        _fail(str(error), channel)
    except ImportError as error:
        do = "install libgomp1 (apt install libgomp1)" if "libgomp" in str(error) else "reinstall the package xllamacpp"
        _fail(f"The llama.cpp engine cannot be loaded ({error}); {do}.", channel)
    import xllamacpp

    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError, MemoryError):
        _fail(f"llama.cpp could not load {os.path.basename(settings.model)}", channel)
    _say(_facts(params, meta, urlsplit(server.listening_address).port or 0), channel)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
