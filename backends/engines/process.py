"""One engine process behind its lifeline wrapper: started, listened to, stopped. Callbacks on the loop; nothing here decides."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from backends.engines.rows import Launch
from backends.engines.spec import EngineSpec

WRAPPER = (sys.executable, "-I", "-S", "-E", str(Path(__file__).with_name("lifeline.py")))
STATUS_LINE = 65_536  # bytes; an engine that writes longer status lines is cut off
_SECRET = re.compile(r"(?i)(key|token|secret|password|passwd|credential)s?$")
_MODEL_TOKENS = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})  # an engine may have to fetch its model
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def hidden(env: Mapping[str, str]) -> list[str]:
    """Names of variables that look like secrets and are none of an engine's business."""
    return [name for name in env if _SECRET.search(name) and name not in _MODEL_TOKENS]


def _plan(spec: EngineSpec, launch: Launch, grace: float) -> bytes:
    env = {**dict.fromkeys(hidden(os.environ), ""), **launch.env}
    plan = {
        "argv": launch.argv, "env": env, "stdin": launch.stdin, "files": launch.files, "memory": spec.memory,
        "nice": spec.nice, "grace": grace, "report": launch.reports, "folder": launch.folder,
    }  # fmt: skip
    data = msgspec.json.encode(plan)
    return len(data).to_bytes(4, "big") + data


class Process(asyncio.SubprocessProtocol):
    """`on_log` gets the engine's output, `on_status` each status line, both on the loop. `ended` is set once the wrapper is gone;
    then `code` and `why` say how the engine ended (`code` None: unknown, the wrapper itself was killed)."""

    def __init__(self, on_log: Callable[[bytes], None], on_status: Callable[[dict[str, Any]], None]) -> None:
        self._on_log, self._on_status = on_log, on_status
        self._transport: asyncio.SubprocessTransport | None = None
        self._rest = b""
        self._open = {1, 2}
        self._drained = asyncio.Event()
        self.ended = asyncio.Event()
        self.pid: int | None = None
        self.code: int | None = None
        self.why = ""

    async def start(self, spec: EngineSpec, launch: Launch, grace: float) -> None:
        """Starts the wrapper and hands it the plan. Raises `OSError` when not even that can be started."""
        loop = asyncio.get_running_loop()
        # A session of its own: Ctrl-C at a terminal reaches the gateway, which then stops its engines in order.
        transport, _ = await loop.subprocess_exec(
            lambda: self, *WRAPPER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._transport = transport
        stdin = transport.get_pipe_transport(0)
        cast(asyncio.WriteTransport, stdin).write(_plan(spec, launch, grace))

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        data = data if isinstance(data, bytes) else data.encode()
        if fd == 2:
            self._on_log(data)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:STATUS_LINE]
        for line in lines:
            self._status(line)

    def _status(self, line: bytes) -> None:
        try:
            status = _decode(line)
        except msgspec.MsgspecError:
            self._on_log(line + b"\n")  # not a status line after all: keep it visible
            return
        if isinstance(status.get("pid"), int):
            self.pid = status["pid"]
        if "exit" in status:
            self.code, self.why = status["exit"], str(status.get("why") or "")
        self._on_status(status)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open.discard(fd)
        if not self._open:
            self._drained.set()

    def process_exited(self) -> None:
        self.ended.set()

    def _signal(self, number: int) -> None:
        if self._transport is not None and not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                self._transport.send_signal(number)

    async def stop(self, grace: float) -> None:
        """Asks the wrapper to end the engine and waits: at most `grace` + 3 seconds, then both are killed."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace + 3.0):
                await self.ended.wait()
        await self.close()

    async def close(self) -> None:
        """Leaves nothing behind: no engine, no wrapper, no pipe. Idempotent."""
        if self._transport is None:
            return
        if self.pid is not None and self.code is None:  # the wrapper has not seen the engine end: it may still run
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        if not self.ended.is_set():
            self._signal(signal.SIGKILL)
            await self.ended.wait()
        with contextlib.suppress(TimeoutError):  # its last words; a stray process may hold the pipe open for ever
            async with asyncio.timeout(1.0):
                await self._drained.wait()
        self._transport.close()
        self._transport = None
