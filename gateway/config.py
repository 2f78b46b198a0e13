"""The configuration: one YAML file (or flags) in, one checked `Config` out.

`load`, `parse` and `from_flags` raise `ConfigError`, whose text names every problem with its path
(`$.backends.gpu.urls[1]: ...`). Keys are hashed here: a `Config` never holds a client's key in plain text.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway import config_experiments_check, config_flags
from gateway.config_check import check
from gateway.config_decode import ConfigError, Problem, decode, expand, join, lines, read_yaml
from gateway.config_flags import Flags
from gateway.config_paths import anchored
from gateway.config_probed import fold
from gateway.config_provider import fill
from gateway.config_target import FactsOverride, TargetConfig
from gateway.config_types import (
    AdminConfig,
    BackendConfig,
    Config,
    KeyConfig,
    Limits,
    LogConfig,
    RouteConfig,
    Secret,
    ServerConfig,
    TimeoutsOverride,
    Tls,
)

__all__ = [
    "AdminConfig", "BackendConfig", "Config", "ConfigError", "FactsOverride", "Flags", "KeyConfig", "Limits", "LogConfig", "RouteConfig",
    "Secret",
    "ServerConfig", "TargetConfig", "TimeoutsOverride", "Tls", "from_flags", "hash_key", "load",
    "parse", "remarks", "schema",
]  # fmt: skip


def hash_key(key: str) -> str:
    """How a client's key is kept and compared: "sha256:" and 64 hex digits of its UTF-8 bytes."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def parse(text: str, env: Mapping[str, str], *, source: str = "", folder: Path | None = None) -> Config:
    """The configuration in a YAML text. `env` answers `${NAME}`; relative paths count from `folder` when given.

    Blocks only to look at files that it names. Raises ConfigError with every problem found.
    """
    return _finish(_read(text, env, source, folder), source)


def load(path: Path | str, env: Mapping[str, str] | None = None) -> Config:
    """The configuration in the YAML file `path`; relative paths in it count from its folder. Blocks. Raises ConfigError."""
    text, folder = _text(Path(path))
    return parse(text, os.environ if env is None else env, source=str(path), folder=folder)


def from_flags(flags: Flags, env: Mapping[str, str], *, file: Path | None = None, builtin_name: str = "pointsman-toy") -> Config:
    """The configuration of a command line: `file` when given, with the flags and `$POINTSMAN_KEYS` added. Blocks. Raises ConfigError."""
    base = Config()
    if file is not None:
        text, folder = _text(file)
        base = _read(text, env, str(file), folder)
    return _finish(config_flags.apply(base, flags, env, builtin_name), str(file) if file is not None else "")


def _text(path: Path) -> tuple[str, Path]:
    try:
        return path.read_text(encoding="utf-8-sig"), path.absolute().parent
    except OSError as error:
        raise ConfigError([f"cannot read the configuration: {error.strerror or 'unknown reason'}"], str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError(["cannot read the configuration: it is not UTF-8 text"], str(path)) from None


def _read(text: str, env: Mapping[str, str], source: str, folder: Path | None) -> Config:
    problems: list[Problem] = []
    try:
        tree = fold(fill(expand(read_yaml(text), env, "$", problems), env, problems), folder, problems)
        config = decode(Config, tree, "$", problems)
    except ConfigError as error:
        raise ConfigError(error.problems, source) from None
    except RecursionError:
        raise ConfigError(["nested too deeply"], source) from None
    if problems:
        raise ConfigError(lines(problems), source)
    assert isinstance(config, Config)
    return anchored(config, folder) if folder is not None else config


def _finish(config: Config, source: str) -> Config:
    """Add the routes that go without saying, hash the keys, check. Raises ConfigError."""
    problems: list[Problem] = []
    keys = tuple(_seal(key, join("$.keys", index), problems) for index, key in enumerate(config.keys))
    config = msgspec.structs.replace(config, keys=keys, routes=_own_routes(config))
    sealed = {path for path, _ in problems}
    problems += [problem for problem in check(config) if problem[0] not in sealed]
    if problems:
        raise ConfigError(lines(problems), source)
    return config


def _own_routes(config: Config) -> dict[str, RouteConfig]:
    """The routes, and one for each engine that no route names: to configure an engine is to want it served."""
    named = _named(config)
    silent = [name for name, backend in config.backends.items() if backend.engine and name not in named and name not in config.routes]
    return {**config.routes, **{name: RouteConfig(targets=(TargetConfig(backend=name),)) for name in silent}}


def _named(config: Config) -> set[str]:
    """The backends that something is sent to: by routes, and by the arms and shadows of experiments."""
    targets = [target for route in config.routes.values() for target in route.targets]
    for experiment in config.experiments.values():
        targets += [target for arm in experiment.arms.values() for target in arm.targets or ()]
        targets += experiment.shadow.targets.values() if experiment.shadow is not None else ()
    return {target.backend for target in targets}


def _seal(key: KeyConfig, path: str, problems: list[Problem]) -> KeyConfig:
    if key.key is None:
        return key
    if key.hash is not None:
        problems.append((path, "has both `key` and `hash`; keep one"))
    elif not key.key or not all(33 <= ord(letter) <= 126 for letter in key.key):
        problems.append((path, "`key` must be visible ASCII without spaces, and not empty"))
    return msgspec.structs.replace(key, key=None, hash=hash_key(key.key))


def remarks(config: Config) -> list[str]:
    """What is allowed and yet hardly meant, one sentence each."""
    named = _named(config)
    return [
        f"{join('$.backends', name)}: no route names it and `discover` is off, so nothing is ever sent there"
        for name, backend in config.backends.items() if name not in named and not backend.discover
    ] + [*config_experiments_check.remarks(config)]  # fmt: skip


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors and for checks elsewhere."""
    out = msgspec.json.schema(Config, schema_hook=_schema_hook)
    out["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    out["title"] = "Pointsman configuration"
    out["$defs"] = {name.lstrip("_"): _or_variable(part) for name, part in out["$defs"].items()}
    return out


def _schema_hook(kind: type) -> dict[str, Any]:
    if kind is not Secret:
        raise NotImplementedError
    return {"type": "string"}


def _or_variable(part: Any) -> Any:
    """A field that wants a number, a truth or one of some words may also be a text with a `${VARIABLE}`; a size also one with its unit."""
    if isinstance(part, list):
        return [_or_variable(item) for item in part]
    if not isinstance(part, dict):
        return part
    part = {key: _or_variable(value) if key != "default" else value for key, value in part.items()}
    pattern = r"^\s*[0-9.]+\s*([kKmMgG]?[iI]?[bB]?)\s*$|\$\{" if part.pop("size", False) else r"\$\{"
    if part.get("type") not in ("integer", "number", "boolean") and "enum" not in part:
        return part
    outer = {key: part.pop(key) for key in ("default", "description") if key in part}
    return {"anyOf": [part, {"type": "string", "pattern": pattern}], **outer}
