"""One running (or failed) engine as everybody else sees it. Only its runner in `supervisor.py` changes it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Literal

from backends.engines.spec import EngineSpec

State = Literal["starting", "ready", "restarting", "failed", "stopping", "stopped"]
LINES, WIDTH = 400, 1000  # of the log that is kept


class Log:
    """The engine's last lines, with secrets blotted out. Bounded in lines and in width."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES)
        self._rest = b""
        self._secrets: tuple[bytes, ...] = ()
        self._fresh = 0  # lines of this start of the engine

    def hide(self, secrets: tuple[str, ...]) -> None:
        """From now on these texts are replaced in what is fed."""
        self._secrets = tuple(text.encode() for text in secrets if len(text) >= 6)

    def begin(self) -> None:
        """A new start of the engine: what stands here so far is no reason for how it ends."""
        self.flush()
        self._fresh = 0

    def feed(self, data: bytes) -> None:
        """Bytes as the engine wrote them, cut anywhere."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._add(line)
        if len(self._rest) > 8 * WIDTH:  # a line without an end must not grow for ever
            self._add(self._rest)
            self._rest = b""

    def flush(self) -> None:
        """Takes an unfinished last line as it is."""
        if self._rest:
            self._add(self._rest)
            self._rest = b""

    def _add(self, line: bytes) -> None:
        for secret in self._secrets:
            line = line.replace(secret, b"***")
        text = line.rstrip(b"\r").rpartition(b"\r")[2]  # of a progress bar only the last state
        self._fresh += 1
        self._lines.append(text.decode("utf-8", "replace").rstrip()[:WIDTH])

    def note(self, text: str) -> None:
        """A line of the supervisor's own."""
        self._lines.append(f"[pointsman] {text}"[:WIDTH])

    def tail(self, count: int = 40) -> list[str]:
        """The last `count` lines, oldest first."""
        return list(self._lines)[-count:] if count > 0 else []

    def told(self, count: int = 60) -> list[str]:
        """The last lines that this start of the engine wrote itself."""
        return self.tail(min(count, self._fresh, LINES))

    @property
    def last(self) -> str:
        return self._lines[-1] if self._lines else ""

    def __len__(self) -> int:
        return len(self._lines)


class Instance:
    """One replica of an engine. `since` is unix time of the last change of `state`; `facts` is what the engine said of
    itself when it was ready (llama.cpp's child: context and slots in tokens and counts, vocab, embedding, parameters), and where it
    publishes KV events (`kv_events`, `kv_replay`: endpoints; `kv_ranks`: a number)."""

    def __init__(self, name: str, spec: EngineSpec) -> None:
        self.name, self.spec = name, spec
        self.state: State = "starting"
        self.base_url, self.api_key = "", ""
        self.pid: int | None = None
        self.progress, self.reason = "", ""
        self.restarts = 0
        self.since = time.time()
        self.log = Log()
        self.facts: Mapping[str, int | str] = {}

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    def fact(self, name: str) -> int | None:
        """A number from `facts`, None when the engine did not say it."""
        value = self.facts.get(name)
        return value if isinstance(value, int) else None

    def __repr__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"Instance({self.name} {self.state} {self.base_url or '-'} pid={self.pid}{why})"
