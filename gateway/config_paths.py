"""Relative paths of a configuration count from the folder of its file; those within `command` and `args`, which are an engine's own words,
from the folder that the gateway runs in. Pure."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec

from backends.engines.spec import Lora
from gateway.config_types import BackendConfig, Config, ServerConfig, Tls


def anchored(config: Config, folder: Path) -> Config:
    """`config` with its relative paths made absolute from `folder`."""
    backends = {name: _backend(entry, folder) for name, entry in config.backends.items()}
    return msgspec.structs.replace(config, server=_server(config.server, folder), backends=backends)


def _at(folder: Path, path: str) -> str:
    with contextlib.suppress(RuntimeError):  # nobody knows a home folder, as in some containers
        path = str(Path(path).expanduser())
    return str(folder / path)


def _server(server: ServerConfig, folder: Path) -> ServerConfig:
    changes: dict[str, Any] = {}
    if server.tls is not None:
        changes["tls"] = Tls(cert=_at(folder, server.tls.cert), key=_at(folder, server.tls.key))
    for field in ("responses", "experiments"):
        part = getattr(server, field)
        if part.path is not None:
            changes[field] = msgspec.structs.replace(part, path=_at(folder, part.path))
    return msgspec.structs.replace(server, **changes) if changes else server


def _backend(entry: BackendConfig, folder: Path) -> BackendConfig:
    changes: dict[str, Any] = {}
    for field in ("model", "draft"):
        if (model := getattr(entry, field)) and _is_file(model):
            changes[field] = _at(folder, model)
    for field in ("verify", "credentials", "projector", "slot_save_path"):
        path = getattr(entry, field)
        if isinstance(path, str) and path:
            changes[field] = _at(folder, path)
    if entry.python and "/" in entry.python:
        changes["python"] = _at(folder, entry.python)
    if entry.lora:
        changes["lora"] = tuple(_lora(one, folder) for one in entry.lora)
    if entry.kv_store.path is not None:
        changes["kv_store"] = msgspec.structs.replace(entry.kv_store, path=_at(folder, entry.kv_store.path))
    return msgspec.structs.replace(entry, **changes) if changes else entry


def _is_file(model: str) -> bool:
    """Whether a model is named by its file, rather than by a name that somebody else gave it."""
    return not model.startswith("hf:") and (model.startswith((".", "~")) or model.endswith(".gguf"))


def _lora(one: str | Lora, folder: Path) -> str | Lora:
    return _at(folder, one) if isinstance(one, str) else msgspec.structs.replace(one, path=_at(folder, one.path))
