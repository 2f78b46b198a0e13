"""A llama.cpp server's slots as its link sees them, without sockets: prompts are their bytes, one a token. The test says when which
request is answered, and how."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from backends.fetch import Carrier
from backends.origin import Origin
from backends.slots.files import MAGIC
from backends.slots.table import common, text_of
from backends.types import Fault, Receiver, Timeouts
from backends.wire import parse


class Asked:
    """One request under way, a `Flight`."""

    def __init__(self, llama: Llama, path: str, body: bytes, receiver: Receiver) -> None:
        self.llama, self.path, self.receiver = llama, path, receiver
        self.doc: dict[str, Any] = json.loads(body) if body else {}
        api = "chat" if "messages" in self.doc else "completions"
        self.prompt = (text_of(api, {k: v for k, v in parse(body).items() if k not in ("id_slot", "cache_prompt")}) or b"") if body else b""
        self.over = self.headed = False

    def __repr__(self) -> str:
        return f"<Asked {self.path} {'over' if self.over else 'open'}>"

    @property
    def slot(self) -> int:
        return int(self.path.split("/")[2].partition("?")[0]) if self.path.startswith("/slots/") else int(self.doc.get("id_slot", -1))

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self) -> None:
        if not self.over:
            self.over = True
            self.llama.left(self)


class Llama(Carrier):
    """The engine: what each slot holds, and the requests that it has not answered."""

    def __init__(self, folder: Path, slots: int, name: str = "m#0") -> None:
        self.folder, self.name, self.origin = folder, name, Origin("http://127.0.0.1:1")
        self.slots = [b""] * slots
        self.open: list[Asked] = []
        self.log: list[str] = []
        self.broken = False
        self.slow = False  # to begin: who leaves at once has left nothing in the slot

    def send(self, payload: tuple[bytes, bytes], receiver: Receiver, timeouts: Timeouts) -> Asked:
        head, _, rest = payload[0].partition(b"\r\n\r\n")
        asked = Asked(self, head.split(b" ")[1].decode(), rest + payload[1], receiver)
        self.open.append(asked)
        self.log.append(f"{asked.path.rpartition('/')[2]} {asked.slot}")
        return asked

    def drop(self) -> None: ...

    def left(self, asked: Asked) -> None:
        """Its client is gone: what was asked to be computed is computed, as llama.cpp finishes its batch, if it has begun."""
        self.open.remove(asked)
        if asked.prompt and not self.slow:
            self.slots[asked.slot] = asked.prompt

    def ready(self) -> list[Asked]:
        """Those that can be answered now: a slot is saved or restored when nobody else has it."""
        busy = {asked.slot for asked in self.open if asked.prompt}
        return [asked for asked in self.open if asked.prompt or asked.slot not in busy]

    def fail(self, asked: Asked) -> None:
        self._over(asked)
        asked.receiver.on_fault(Fault("upstream", "gone", origin="backend", retry=True))

    def head(self, asked: Asked) -> None:
        """The head of a stream, which llama.cpp sends before it computes."""
        asked.headed = True
        asked.receiver.on_head(200, {b"content-type": b"text/event-stream"})

    def first(self, asked: Asked) -> None:
        """The first token of a stream."""
        if not asked.headed:
            self.head(asked)
        if not asked.over:
            asked.receiver.on_data(b"data: {}\n\n")

    def answer(self, asked: Asked) -> None:
        """The whole of it, or the rest of a stream."""
        if not asked.path.startswith("/slots/"):
            told = self._computed(asked) if asked.prompt else {"data": [{"meta": {"n_params": 10**8}}]}
            if asked.headed:
                asked.receiver.on_data(b"data: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\n")
                if not asked.over:  # whoever cancels while it is told something hears nothing more
                    self._over(asked)
                    asked.receiver.on_end()
                return
        else:
            told = self._saved(asked) if "save" in asked.path else self._restored(asked)
        self._over(asked)
        asked.receiver.on_whole(200 if told else 400, {}, json.dumps(told, separators=(",", ":")).encode())

    def _over(self, asked: Asked) -> None:
        asked.over = True
        self.open.remove(asked)

    def _computed(self, asked: Asked) -> dict[str, Any]:
        cached = min(common(self.slots[asked.slot], asked.prompt), len(asked.prompt) - 1) if asked.doc.get("cache_prompt", True) else 0
        self.slots[asked.slot] = asked.prompt
        return {"timings": {"cache_n": cached, "prompt_n": len(asked.prompt) - cached, "prompt_ms": 10.0 * (len(asked.prompt) - cached)}}

    def _saved(self, asked: Asked) -> dict[str, Any]:
        held = self.slots[asked.slot]
        words = struct.pack(f"<{len(held)}I", *held)
        data = MAGIC + struct.pack("<II", 4, len(held)) + words + bytes(8 * len(held))
        if self.broken or not held:
            return {}
        (self.folder / asked.doc["filename"]).write_bytes(data)
        return {"n_saved": len(held), "n_written": len(data), "timings": {"save_ms": 1.0}}

    def _restored(self, asked: Asked) -> dict[str, Any]:
        self.slots[asked.slot] = b""
        file = self.folder / asked.doc["filename"]
        if self.broken or not file.exists():
            return {}
        data = file.read_bytes()
        count = struct.unpack("<I", data[8:12])[0]
        self.slots[asked.slot] = bytes(struct.unpack(f"<{count}I", data[12 : 12 + 4 * count]))
        return {"n_restored": count, "n_read": len(data), "timings": {"restore_ms": 1.0}}
