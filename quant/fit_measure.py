"""The truth about a model on this machine: one of our engines is started, gets a prompt in every slot, and is looked at.

It runs under the same supervisor as behind the gateway, so what is measured is what will be. `measure` blocks, for as long as loading and
answering take; the engine is gone when it returns.
"""

from __future__ import annotations

import asyncio
import json
import re
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backends.engines.instance import Instance
from backends.engines.spec import EngineSpec
from backends.engines.supervisor import Supervisor
from quant.fit_memory import Setup
from quant.fit_truth import Truth

PATIENCE = 600.0  # seconds for the engine to load, and for one answer
MAX_ANSWER = 1 << 20
KINDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "IQ4_NL": 20, "BF16": 30}


class MeasureError(RuntimeError):
    """Why nothing could be measured. `str()` is one sentence."""


def spec_of(path: str, setup: Setup, threads: int | None = None) -> EngineSpec:
    """The engine with these settings. Pure."""
    kinds = (("cache_type_k", setup.key), ("cache_type_v", setup.value))
    args = tuple(f"{name}={KINDS[kind]}" for name, kind in kinds if kind != "F16")
    return EngineSpec("measured", "llamacpp", model=path, context=setup.context, slots=setup.slots, threads=threads, args=args)


def measure(path: str, setup: Setup, prompt: int | None = None, tokens: int = 16, threads: int | None = None) -> Truth:
    """Runs the model at `path`. `prompt`: tokens of each slot's prompt (all of its context by default), `tokens` are answered.
    Blocks; raises `MeasureError`."""
    length = min(prompt or setup.context, setup.context) - tokens
    if length < 1:
        raise MeasureError(f"A context of {setup.context} tokens leaves no room for {tokens} tokens of an answer; ask for more context.")
    return asyncio.run(_measure(spec_of(path, setup, threads), setup.slots, length, tokens))


async def _measure(spec: EngineSpec, slots: int, prompt: int, tokens: int) -> Truth:
    changed = asyncio.Event()
    supervisor = Supervisor(lambda instance: changed.set())
    await supervisor.apply([spec])
    try:
        instance = supervisor.instances[0]
        async with asyncio.timeout(PATIENCE):
            while not instance.ready:
                if instance.state in ("failed", "restarting", "stopped"):
                    raise MeasureError(f"The engine does not run: {instance.reason or instance.log.last or instance.state}")
                await changed.wait()
                changed.clear()
        before = instance.fact("anonymous") or 0
        timings = [await asyncio.to_thread(_ask, instance, slot, prompt, tokens) for slot in range(slots)]
        resident, anonymous = await asyncio.to_thread(resident_bytes, instance.pid or 0)
    except TimeoutError:
        raise MeasureError(f"The engine was not ready after {PATIENCE:.0f} seconds; try a smaller model.") from None
    finally:
        await supervisor.stop()
    return Truth(resident, anonymous, prompt, min(first for first, _ in timings), max(decode for _, decode in timings), before)


def _ask(instance: Instance, slot: int, prompt: int, tokens: int) -> tuple[float, float]:
    """(seconds to the first token, tokens a second after it) of one prompt that nothing is cached of."""
    vocab = instance.fact("vocab") or 1000
    numbers = [(slot * 31 + place * 7) % max(1, min(vocab - 1, 200)) + 1 for place in range(prompt)]
    body = {"prompt": numbers, "n_predict": tokens, "id_slot": slot, "ignore_eos": True, "temperature": 0, "cache_prompt": True}
    address = urlsplit(instance.base_url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {instance.api_key}"}
        connection.request("POST", "/completion", json.dumps(body), headers)
        answer = connection.getresponse()
        found: Any = json.loads(answer.read(MAX_ANSWER))
        if answer.status != 200:
            raise MeasureError(f"The engine refuses a prompt of {prompt} tokens (status {answer.status}).")
        timings = found["timings"]
        one = float(timings["predicted_per_second"])
        return float(timings["prompt_ms"]) / 1000 + 1 / one, one
    except (OSError, HTTPException, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise MeasureError(f"The engine does not answer ({type(error).__name__}).") from None
    finally:
        connection.close()


def resident_bytes(pid: int) -> tuple[int, int]:
    """(resident, anonymous) bytes of a process; zeros where the system does not tell. Blocks for a file."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0, 0
    found = {name: int(size) << 10 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)}
    return found.get("Rss", 0), found.get("Anonymous", 0)
