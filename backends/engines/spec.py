"""What an engine is, as configuration says it: one frozen value; equal specs mean that nothing has to be restarted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

LLAMA_CPP = ("llamacpp", "llama-server")
EngineKind = Literal["llamacpp", "llama-server", "llama-cpp-python", "vllm", "sglang", "command"]


class Lora(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A LoRA adapter: a GGUF file, and how strongly it counts."""

    path: str
    scale: float = 1.0


class EngineSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One engine that the gateway starts itself, `replicas` times.

    Sizes are bytes, times seconds, `context` tokens a slot. `memory` bounds what the processes of one replica allocate
    (weights mapped from a file are not counted, as the kernel can drop them). `args` go to the engine as they are;
    for `llamacpp` each is `name=JSON`, a field of llama.cpp's common parameters (`kv_unified=true`). In `command` and `args` of
    a command `{port} {host} {model}` are filled in, in every value of `env` `{port} {api_key}`.
    """

    name: str
    kind: EngineKind
    model: str = ""
    served_name: str = ""
    replicas: int = 1
    context: int | None = None  # None: what the model was trained for, as far as memory allows
    slots: int = 4
    threads: int | None = None  # None: the cores this process may use, shared among the replicas
    memory: int | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    command: tuple[str, ...] = ()
    python: str = ""  # interpreter of vllm, sglang, llama-cpp-python; "": the gateway's own
    ready_seconds: float = 600.0
    embeddings: bool | None = None  # None: yes for llamacpp, no for the others
    reranking: bool = False
    chat_template: str = ""
    # The next four: of llamacpp and llama-server. Paths of GGUF files.
    lora: tuple[Lora, ...] = ()
    projector: str = ""  # what makes a model see (llama.cpp: mmproj)
    draft: str = ""  # a small model of the same vocabulary, which guesses tokens that the model then checks many at a time
    draft_tokens: int | None = None  # guessed at a time; None: the engine's own
    slot_save_path: str = ""
    kv_events: bool = False  # vllm, sglang: say what becomes of the KV cache, where `facts` of the instance tell
    health_path: str = ""  # "": the kind's own
    nice: int = 0

    def __post_init__(self) -> None:
        for field, low in (("replicas", 1), ("slots", 1), ("threads", 1), ("context", 1), ("memory", 1), ("draft_tokens", 1)):
            value = getattr(self, field)
            if value is not None and value < low:
                raise ValueError(f"`{field}` is {value}; it must be at least {low}")
        if not self.name or any(c in self.name for c in "#\r\n\0"):
            raise ValueError("`name` must be a word without '#'")
        if self.ready_seconds <= 0:
            raise ValueError("`ready_seconds` must be more than 0")
        if self.kind == "command" and not self.command:
            raise ValueError("`command` is needed for an engine of the kind 'command'")
        if any("{api_key}" in word for word in (*self.command, *self.args)):
            raise ValueError("`{api_key}` may stand in `env` only: every user of the machine can read a command's arguments")
        if self.kv_events and self.kind not in ("vllm", "sglang"):
            raise ValueError(f"`kv_events` is for engines of the kinds 'vllm' and 'sglang', not '{self.kind}'")
        if self.kv_events and any(word.startswith("--kv-events-config") for word in self.args):
            raise ValueError("`kv_events: true` and `--kv-events-config` in `args` say the same thing twice; leave one out")
        self._for_its_kind()
        if self.kind != "command" and not self.model:
            raise ValueError(f"`model` is needed for an engine of the kind '{self.kind}'")

    def _for_its_kind(self) -> None:
        if (self.lora or self.projector or self.draft) and self.kind not in LLAMA_CPP:
            raise ValueError(f"`lora`, `projector` and `draft` are for the kinds 'llamacpp' and 'llama-server', not '{self.kind}'")

    @property
    def model_name(self) -> str:
        """The name by which the engine knows its model."""
        return self.served_name or self.name

    def __repr__(self) -> str:
        # `env` and `args` may hold secrets, and reprs end up in logs.
        return f"EngineSpec({self.name!r}, {self.kind!r}, model={self.model!r}, replicas={self.replicas})"
