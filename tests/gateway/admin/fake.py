"""A gateway that the control plane can show without there being one: its state is what the test puts into it."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from backends.types import Usage
from gateway.admin.state import (
    EngineView,
    History,
    InflightView,
    ModelView,
    ReplicaView,
    RouteTraffic,
    Snapshot,
    TargetView,
    Traffic,
)
from gateway.experiments.api import Experiments
from gateway.metrics import Metrics
from gateway.record import Record

NOW = 1_790_000_000.0


class FakeState:
    """An AdminState whose answers are plain attributes; what was asked of it is in `calls`."""

    def __init__(self, snapshot: Snapshot, records: list[Record] | None = None) -> None:
        self.shown = snapshot
        self.records = records or []
        self.logs: dict[str, list[str]] = {engine.name: [] for engine in snapshot.engines}
        self.settings: dict[str, object] = {}
        self.refusal = ""
        self.calls: list[str] = []
        self.counts = Metrics()
        self.experiments = Experiments(lambda: NOW)
        self.residency: Any = None  # what a test puts there
        self.keys: dict[str, str] = {}  # names by key

    def who(self, key: str) -> str:
        return self.keys.get(key, "")

    def snapshot(self) -> Snapshot:
        return self.shown

    def recent(self, limit: int) -> list[Record]:
        return self.records[:limit]

    def engine_log(self, name: str, lines: int) -> list[str]:
        return self.logs[name][-lines:]

    def config(self) -> dict[str, object]:
        return self.settings

    def metrics(self) -> str:
        return self.counts.render()

    async def restart_engine(self, name: str) -> None:
        self.logs[name]  # KeyError, as the real one
        self.calls.append(f"restart {name}")

    async def reload(self) -> dict[str, object]:
        if self.refusal:
            raise ValueError(self.refusal)
        self.calls.append("reload")
        return {"message": "The configuration was read again: nothing changed.", "generation": 1}


def empty() -> FakeState:
    """A gateway that serves nothing yet."""
    return FakeState(Snapshot("0.1.0", NOW - 5, NOW, base_url="http://127.0.0.1:8484/v1"))


def busy() -> FakeState:
    """A gateway with every kind of thing in it, some of them broken."""
    snapshot = Snapshot(
        "0.1.0", NOW - 93_784, NOW, 3, "http://127.0.0.1:8484/v1", False, _models(), _engines(), _replicas(), _inflight(), 4, _traffic(),
        {"concurrency": 4096}, ["Backend west answers 12 % of its requests with an error; it gets fewer of them."],
    )  # fmt: skip
    state = FakeState(snapshot, [record(i) for i in range(24)])
    state.logs["broken"] = ["llama_model_load: error loading model: tensor data is out of bounds", "api_key=do-not-show-me", "exiting"]
    state.logs["toy"] = [f"srv  slot {i % 4}: released" for i in range(40)]
    return state


def record(i: int) -> Record:
    """A finished request; each seventh failed in some way."""
    took = 1.2 + i % 5 / 3
    base = Record(f"req-{i}", NOW - i * 1.7, "chat", "qwen3-8b", "gpu", "http://10.0.0.5:8000/v1", "alice", i % 2 == 0, 200, took)
    base.ttft, base.attempts, base.chunks, base.bytes_out, base.usage = 0.06 + i % 7 / 50, 1, 180, 52_000, Usage(300 + i, 128, 0, 180)
    if i % 7 == 3:
        base.status, base.fault, base.origin, base.attempts, base.usage, base.ttft = 502, "upstream", "backend", 3, None, None
        base.message = "http://10.0.0.5:8000 closed the connection after 212 bytes of the answer"
    elif i % 7 == 5:
        base.status, base.fault, base.origin, base.usage = 499, "cancelled", "client", None
        base.message = "the client left"
    elif i % 7 == 6:
        base.route, base.status, base.fault, base.origin = "gpt-9", 404, "not_found", "client"
        base.replica, base.usage, base.ttft = "", None, None
        base.message = "The model 'gpt-9' does not exist. There are: pointsman-toy, qwen3-8b, embed."
    return base


def _models() -> list[ModelView]:
    def target(backend: str, model: str, weight: float = 1.0) -> TargetView:
        return TargetView(backend, model, weight, [backend])

    return [
        ModelView("pointsman-toy", ["chat", "completions", "embeddings"], "ready", [target("toy", "pointsman-toy")], 2048, "pointsman"),
        ModelView("qwen3-8b", ["chat", "completions"], "partial",
                  [target("gpu", "Qwen/Qwen3-8B", 3), target("west", "qwen3-8b")], 32_768, "qwen", "1 of 2 servers is down"),
        ModelView("embed", ["embeddings"], "loading", [target("embedder", "bge-small")], 512, "baai"),
        ModelView("a-model-with-a-rather-long-name-that-must-not-break-the-page-q4_k_m", ["chat"], "down", [target("broken", "x.gguf")],
                  None, "", "The engine 'broken' cannot load x.gguf: the file is cut off after 1,048,576 of 4,920,734,272 bytes."),
    ]  # fmt: skip


def _engines() -> list[EngineView]:
    return [
        EngineView("toy", "llama.cpp", "pointsman-toy.gguf", "ready", None, "",
                   4021, 0, NOW - 93_000, "http://127.0.0.1:40213/v1", 54 << 20, 4),
        EngineView("embedder", "llama.cpp", "hf:BAAI/bge-small-en-v1.5:Q8_0", "loading", 0.62, "downloading 23 of 37 MB",
                   None, 1, NOW - 12),
        EngineView("broken", "llama.cpp", "/models/x.gguf", "failed", None,
                   "The file is cut off: it has 1,048,576 bytes and should have 4,920,734,272. Download it again.",
                   None, 5, NOW - 600, "", None, 2, 8 << 30),
    ]  # fmt: skip


def _replicas() -> list[ReplicaView]:
    return [
        ReplicaView("toy", "toy", "http://127.0.0.1:40213/v1", "up", 1, 812, 0),
        ReplicaView("http://10.0.0.5:8000", "gpu", "http://10.0.0.5:8000/v1", "up", 3, 41_022, 12),
        ReplicaView("https://west.example.com", "west", "https://west.example.com/v1", "down", 0, 9_313, 1_140, "3 attempts timed out"),
    ]


def _inflight() -> list[InflightView]:
    return [
        InflightView("a1", "chat", "qwen3-8b", "http://10.0.0.5:8000", "alice", 12.4, 0.081, 612, True, "streaming"),
        InflightView("a2", "chat", "qwen3-8b", "http://10.0.0.5:8000", "batch", 3.1, 0.4, 130, True, "streaming"),
        InflightView("a3", "chat", "qwen3-8b", "http://10.0.0.5:8000", "alice", 0.21, None, 0, True, "prefill"),
        InflightView("a4", "embeddings", "embed", "", "default", 1.9, None, 0, False, "waiting"),
    ]


def _traffic() -> Traffic:
    def wave(height: float, shift: float, points: int = 149) -> list[float]:
        return [round(height * (1.3 + math.sin(i / 9 + shift) + 0.3 * math.sin(i * 1.7 + shift)), 3) for i in range(points)]

    routes = [
        RouteTraffic("qwen3-8b", 742, 9, 12.4, 2210.0, 0.082, 0.31, wave(5, 0, 30)),
        RouteTraffic("pointsman-toy", 48, 0, 0.8, 310.0, 0.004, 0.011, wave(0.4, 2, 30)),
    ]
    p50: list[float | None] = [None if 40 < i < 52 else v for i, v in enumerate(wave(0.06, 1))]
    p95: list[float | None] = [None if v is None else v * 2.4 for v in p50]
    errors = [1.5 if i % 37 == 0 else 0.0 for i in range(149)]
    history = History(wave(6, 0), errors, wave(1100, 0.4), p50, p95)
    return Traffic(60.0, 2.0, RouteTraffic("", 790, 9, 13.2, 2520.0, 0.078, 0.29), routes, history)


@contextlib.contextmanager
def served(app: Any, *, port: int = 0, lifespan: bool = True, tls: tuple[str, str] | None = None) -> Iterator[str]:
    """Serves an ASGI app on a (free) port of this machine, in a thread; gives its URL. `tls`: certificate and key files."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        # A connection made before the server's loop runs waits in the listener's queue: nothing to wait for.
        listener.listen(128)
        cert, key = tls or (None, None)
        config = uvicorn.Config(
            app, log_config=None, lifespan="on" if lifespan else "off", timeout_graceful_shutdown=1, ssl_certfile=cert, ssl_keyfile=key
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
