"""One gateway under test, running: started afresh, its answers checked, ended."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.overhead.peers import Peer, Site
from benchmarks.overhead.proc import memory_mib, spawn, stop, tree

PATH = "/v1/chat/completions"
SYSTEM = "You are a careful assistant. Answer in plain language, keep to the facts that you are given, and say so when you do not know. "
QUESTION = (
    "Explain in two sentences what a reverse proxy does for a cluster of inference servers, "
    "and which of its duties matter most while a response is being streamed."
)
STREAM_EVENTS = 64  # content events of a stream of the mock
WHOLE_EVENTS = STREAM_EVENTS + 2  # ... and the finish and the usage events; [DONE] is not counted


LOG_KEPT = 64 * 1024  # bytes of a gateway's output that stay after it has ended


class Broken(Exception):
    """A gateway did not start, or its answers are not what the mock sent."""


def body(model: str, stream: bool) -> str:
    """A chat request of some 0.7 KB for a model of the mock."""
    call: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "system", "content": SYSTEM * 3}, {"role": "user", "content": QUESTION}],
        "max_tokens": 256,
        "temperature": 0.7,
    }
    if stream:
        call |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(call, separators=(",", ":"))


def check_answer(status: int, data: bytes) -> None:
    """Raises Broken unless this is the mock's whole answer without streaming."""
    try:
        answer = json.loads(data)
        text, total = answer["choices"][0]["message"]["content"], answer["usage"]["total_tokens"]
    except (ValueError, LookupError, TypeError) as e:
        raise Broken(f"status {status}, not a chat completion: {data[:300]!r}") from e
    if status != 200 or not text.startswith("The gateway forwards") or total != 224:
        raise Broken(f"status {status}, not the mock's answer: {data[:300]!r}")


def check_stream(status: int, data: bytes) -> dict[str, int]:
    """Raises Broken unless this is the mock's whole stream of 64 chunks; returns how many events and bytes it had."""
    events = [line[5:].strip() for line in data.decode("utf-8", "replace").splitlines() if line.startswith("data:")]
    content = [e for e in events if '"t=' in e]
    finishes = [e for e in events if '"finish_reason":"stop"' in e]
    stamps = [e.split('"t=', 1)[1].split(";", 1)[0] for e in content]
    if status != 200 or not events or events[-1] != "[DONE]" or events.count("[DONE]") != 1:
        raise Broken(f"status {status}, the stream does not end in one [DONE]: {data[-300:]!r}")
    if len(content) != STREAM_EVENTS or len(finishes) != 1 or stamps != sorted(stamps):
        raise Broken(f"{len(content)} content events for {STREAM_EVENTS}, {len(finishes)} finishes, or out of order: {data[-300:]!r}")
    return {"events": len(events), "usage": sum('"total_tokens"' in e for e in events), "bytes": len(data)}


class Target:
    """A gateway, or (peer None) the mock itself: where it listens, what to send to it, its process."""

    def __init__(self, name: str, site: Site, peer: Peer | None, core: int | None) -> None:
        self.name, self.site, self.peer, self.core = name, site, peer, core
        self.port = site.port if peer is not None else site.upstream_port
        self.headers = peer.headers if peer is not None else ()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> int | None:
        """The pid of the gateway's first process; None for the mock."""
        return self.process.pid if self.process is not None else None

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.site.run / f"{self.name}.log"

    def memory(self, key: str = "VmRSS") -> float:
        """MiB of the whole process tree: VmRSS now, VmHWM at most. 0 for the mock."""
        return memory_mib(tree(self.root), key) if self.root is not None else 0.0

    def start(self) -> float | None:
        """Starts it; returns the seconds to the first correct answer, None for the mock. Raises Broken."""
        if self.peer is None:
            return None
        for name, text in self.peer.files.items():
            (self.site.run / name).write_text(text)
        began = time.monotonic()
        with self.log.open("wb") as log:
            self.process = spawn(self.peer.command, log, self.core, self.peer.env)
        last = "nothing listens"
        while time.monotonic() - began < self.peer.start_seconds:
            if self.process.poll() is not None:
                raise Broken(f"ended with {self.process.returncode}: {self._tail()}")
            try:
                check_answer(*self.post(body("mock", False)))
            except (Broken, OSError, http.client.HTTPException) as e:
                last = str(e) or repr(e)
                time.sleep(0.01)
                continue
            return time.monotonic() - began
        raise Broken(f"no correct answer within {self.peer.start_seconds:.0f} s: {last}; {self._tail()}")

    def check(self) -> dict[str, int]:
        """Raises Broken unless what comes through is what the mock sent."""
        check_answer(*self.post(body("mock", False)))
        return check_stream(*self.post(body("mock-64x0ms", True)))

    def rest(self) -> None:
        """Holds all its processes still, until `wake`: what it does in the background must not slow another's turn."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Lets them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, what: signal.Signals) -> None:
        for pid in tree(self.root) if self.root is not None else ():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, what)

    def stop(self) -> None:
        """Ends it and everything under it."""
        if self.process is not None:
            self.wake()
            stop(self.process)
            self.process = None
            self._shorten_log()

    def post(self, text: str, timeout: float = 5.0) -> tuple[int, bytes]:
        """One request of ours on its own connection: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        headers = {"Content-Type": "application/json", **dict(h.split(": ", 1) for h in self.headers)}
        try:
            connection.request("POST", PATH, text, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _tail(self, size: int = 600) -> str:
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - size))
            return log.read().decode("utf-8", "replace").strip()

    def _shorten_log(self) -> None:
        """Keeps the end of a log that has a line for every request."""
        if self.log.stat().st_size > LOG_KEPT:
            self.log.write_text(self._tail(LOG_KEPT))


class Mock:
    """The mock upstream as a context: started on entry, ended on exit."""

    def __init__(self, program: Path, site: Site, core: int | None, ports: int = 1) -> None:
        self.program, self.site, self.core, self.ports = program, site, core, ports
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> int:
        with (self.site.run / "mock.log").open("wb") as log:
            self.process = spawn([str(self.program), str(self.site.upstream_port), str(self.ports)], log, self.core)
        target = Target("direct", self.site, None, None)
        end = time.monotonic() + 10
        try:
            while True:
                try:
                    target.check()
                    return self.process.pid
                except OSError as e:
                    if time.monotonic() > end or self.process.poll() is not None:
                        raise Broken(f"the mock does not answer on port {self.site.upstream_port}: {e}") from e
                    time.sleep(0.01)
        except Broken:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            stop(self.process)
            self.process = None
