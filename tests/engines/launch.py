"""How to start one vLLM and one SGLang server on a CPU: argv, and the variables to add to the environment, of a loopback server.

`install.py` puts both engines and their model where `python_of` and `model_of` point. Both servers answer GET /health with 200 once
they are ready. The flags and variables that look odd are there because the engine does not start, or crawls, without them.
"""

import json
from pathlib import Path

# An engine must not import the packages of the repository it is started from, nor reach for the network.
APART = {"PYTHONSAFEPATH": "1", "PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


def kv_config(endpoints: tuple[str, str], topic: str, **more: object) -> str:
    events, replay = endpoints
    return json.dumps({**more, "publisher": "zmq", "topic": topic, "endpoint": events, "replay_endpoint": replay})


def vllm_command(
    python: Path,
    model: Path,
    port: int,
    *,
    name: str = "tiny",
    context: int = 2048,
    core: int | None = 0,
    block: int = 32,
    blocks: int | None = None,
    slots: int | None = None,
    kv: tuple[str, str] | None = None,
    topic: str = "kv-events",
    extra: tuple[str, ...] = (),
) -> tuple[list[str], dict[str, str]]:
    """`block` is a multiple of 32. `blocks` makes the KV cache small enough to see evictions, `slots` makes requests queue.
    `kv` is as in sglang_command. Give two servers a `core` each, or None for no binding."""
    argv = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", name]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(context)]
    argv += ["--enforce-eager"]  # without it torch compiles for minutes at the first start
    argv += ["--enable-prefix-caching", "--enable-prompt-tokens-details", "--block-size", str(block)]
    argv += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    if blocks is not None:
        argv += ["--num-gpu-blocks-override", str(blocks)]
    if slots is not None:
        argv += ["--max-num-seqs", str(slots)]
    if kv is not None:
        argv += ["--kv-events-config", kv_config(kv, topic, enable_kv_cache_events=True)]
    env = APART | {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind" if core is None else str(core),
        "OMP_NUM_THREADS": "1",
    }
    return [*argv, *extra], env


def sglang_command(
    python: Path,
    model: Path,
    port: int,
    *,
    name: str = "tiny",
    context: int = 2048,
    page: int = 16,
    tokens: int = 8192,
    slots: int = 16,
    kv: tuple[str, str] | None = None,
    topic: str = "kv-events",
    extra: tuple[str, ...] = (),
) -> tuple[list[str], dict[str, str]]:
    """`tokens` is the size of the KV cache. `kv` are the ZMQ endpoints of the cache events and of their replay, `tcp://*:PORT` or
    `ipc://PATH`: these two kinds the engine binds, and it connects to any other."""
    argv = [str(python), "-m", "sglang.launch_server", "--model-path", str(model), "--served-model-name", name]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--context-length", str(context)]
    argv += ["--device", "cpu", "--attention-backend", "torch_native"]
    argv += ["--max-total-tokens", str(tokens), "--page-size", str(page), "--max-running-requests", str(slots)]
    argv += ["--enable-metrics", "--enable-cache-report"]
    if kv is not None:
        argv += ["--kv-events-config", kv_config(kv, topic)]
    env = APART | {
        "SGLANG_USE_CPU_ENGINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",  # more threads than free cores make it 25 times slower
        "MKL_NUM_THREADS": "1",
    }
    return [*argv, *extra], env
