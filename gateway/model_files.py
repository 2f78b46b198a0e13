"""The files of a configured engine: the model, and what stands beside it: adapters, a vision projector, a model that drafts."""

from __future__ import annotations

from pathlib import Path

from backends.engines.spec import LLAMA_CPP, EngineSpec, Lora
from gateway.config_types import BackendConfig

LLAMA = frozenset({*LLAMA_CPP, "llama-cpp-python"})


def spec(name: str, backend: BackendConfig) -> EngineSpec:
    """The engine to start for the backend `name`, every file a path. Blocks, possibly for hours: what is `hf:` and not here is fetched.
    Raises ValueError, OSError or LookupError (`ModelError`, `HubError`), each with a sentence."""
    model = resolved(backend, backend.model or "")
    return backend.engine_spec(
        name, model, draft=resolved(backend, backend.draft) if backend.draft else "", projector=_projector(backend, model),
        lora=tuple(_adapter(one) for one in backend.lora),
    )  # fmt: skip


def resolved(backend: BackendConfig, model: str) -> str:
    """The path of `model`, as an engine of this backend is given it. Blocks while it is downloaded."""
    if model == "builtin" or backend.engine in LLAMA:
        from quant import models

        return str(models.resolve(model))
    if model.startswith("hf:"):
        from quant import hub

        return str(hub.resolve(model))
    return model


def _projector(backend: BackendConfig, model: str) -> str:
    if isinstance(backend.projector, str):
        return _file("projector", backend.projector)
    if not backend.projector or backend.engine not in LLAMA_CPP or backend.model == "builtin":
        return ""
    from quant import models

    beside = models.projector(backend.model or "", Path(model))
    return str(beside) if beside is not None else ""


def _adapter(one: str | Lora) -> Lora:
    return Lora(_file("lora", one)) if isinstance(one, str) else Lora(_file("lora", one.path), one.scale)


def _file(field: str, path: str) -> str:
    from quant import places

    found = places.expanded(path)
    if not found.is_file():
        raise ValueError(f"`{field}` is {path}, and there is no such file")
    return str(found)
