"""Configuration from the command line: each `--model` a local engine, each `--upstream` a server whose models become routes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from gateway.config_check import url_problem
from gateway.config_decode import ConfigError
from gateway.config_target import TargetConfig
from gateway.config_types import AdminConfig, BackendConfig, Config, KeyConfig, LogConfig, RouteConfig, Secret, ServerConfig, Tls

BUILTIN = "builtin"
PREFIXES = ("hf:", "ollama:", "lmstudio:", "llamacpp:")  # of names of models, as `quant.models` has them
KEYS_VARIABLE = "POINTSMAN_KEYS"
UPSTREAM_KEY_VARIABLE = "POINTSMAN_UPSTREAM_KEY"
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_QUANT = re.compile(r"[-_.](?:ud-)?(?:i?q\d(?:[_-][a-z0-9]+)*|tq\d_\d|mxfp4(?:_moe)?|nvfp4|b?f16|fp16|f32|fp8|gguf|imatrix|imat)$")


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says; None or empty: not said."""

    host: str | None = None
    port: int | None = None
    workers: int | None = None
    models: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    key_file: Path | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    admin_port: int | Literal["off"] | None = None
    log_level: str | None = None


def route_name(model: str, taken: Collection[str] = ()) -> str:
    """The public name of a `--model`: the file's or repository's name, lower case, without shard and quantisation; a number if taken."""
    if model.startswith("ollama:"):  # its tag tells its models apart
        name = model.removeprefix("ollama:").removesuffix(":latest").replace(":", "-")
    else:
        name = model.partition(":")[2].split(":")[0] if model.startswith(PREFIXES) else model
    name = _SHARD.sub("", Path(name).name.removesuffix(".gguf")).lower()
    while (bare := _QUANT.sub("", name)) not in ("", name):
        name = bare
    name = re.sub(r"[^a-z0-9._+-]+", "-", name).strip("-.") or "model"
    number, out = 1, name
    while out in taken:
        number += 1
        out = f"{name}-{number}"
    return out


def apply(base: Config, flags: Flags, env: Mapping[str, str], builtin_name: str) -> Config:
    """`base` with the flags added; flags win over the file. With no backend at all the built-in model is served as `builtin_name`.

    Reads the key file. Raises ConfigError.
    """
    backends, routes = dict(base.backends), dict(base.routes)
    models = flags.models or (() if backends or flags.upstreams else (BUILTIN,))
    for model in models:
        taken = {*backends, *routes, *(alias for route in routes.values() for alias in route.aliases)}
        name = builtin_name if model == BUILTIN and builtin_name not in taken else route_name(model, taken)
        backends[name] = BackendConfig(engine="llamacpp", model=_model(model))
        routes[name] = RouteConfig(targets=(TargetConfig(backend=name, model=name),))
    for url in flags.upstreams:
        name = _upstream_name(url, backends)
        backends[name] = BackendConfig(url=url, discover=True, key=_upstream_key(flags.upstreams, env))
    keys = (*base.keys, *_keys(flags, env, {key.name for key in base.keys}))
    return msgspec.structs.replace(base, server=_server(base.server, flags), backends=backends, routes=routes, keys=keys)


def _model(text: str) -> str:
    """A file by its whole path; anything else is a name of `pointsman ls`, and looked for when it is served."""
    if text == BUILTIN or text.startswith(PREFIXES):
        return text
    if text.startswith(("/", ".", "~")) or text.lower().endswith(".gguf") or Path(text).exists():
        return str(Path(text).expanduser().absolute())
    return text


def _upstream_name(url: str, taken: Collection[str]) -> str:
    if wrong := url_problem(url):
        raise ConfigError([f"--upstream: the URL {wrong}"])
    parts = urlsplit(url)
    name = parts.netloc or Path(parts.path.split(":")[0]).stem
    number, out = 1, name
    while out in taken:
        number += 1
        out = f"{name}-{number}"
    return out


def _upstream_key(upstreams: Sequence[str], env: Mapping[str, str]) -> Secret | None:
    key = env.get(UPSTREAM_KEY_VARIABLE)
    if key and len(upstreams) > 1:
        raise ConfigError([f"{UPSTREAM_KEY_VARIABLE} is set and there are {len(upstreams)} --upstream: "
                           "one key would go to several servers; use --config with a `key` for each backend"])  # fmt: skip
    return Secret(key) if key else None


def _keys(flags: Flags, env: Mapping[str, str], taken: set[str]) -> list[KeyConfig]:
    texts = [*flags.keys, *env.get(KEYS_VARIABLE, "").replace(",", " ").split()]
    if flags.key_file is not None:
        texts += _key_file(flags.key_file)
    out: list[KeyConfig] = []
    for text in dict.fromkeys(texts):  # the same key given in two ways is one key
        number = len(out) + 1
        while f"key-{number}" in taken:
            number += 1
        taken.add(f"key-{number}")
        out.append(KeyConfig(name=f"key-{number}", key=Secret(text)))
    return out


def _key_file(path: Path) -> list[str]:
    """The keys in a file: one a line; blank lines and lines that start with # do not count."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"--key-file: cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}"]) from None
    keys = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not keys:  # an empty file must not silently mean "no key needed"
        raise ConfigError([f"--key-file: {path} holds no key; write one key a line"])
    return keys


def _server(base: ServerConfig, flags: Flags) -> ServerConfig:
    given = {"host": flags.host, "port": flags.port, "workers": flags.workers}
    changes: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    if flags.tls_cert is not None or flags.tls_key is not None:
        if flags.tls_cert is None or flags.tls_key is None:
            raise ConfigError(["--tls-cert and --tls-key belong together: give both"])
        changes["tls"] = Tls(cert=flags.tls_cert, key=flags.tls_key)
    if flags.admin_port is not None:
        changes["admin"] = msgspec.structs.replace(base.admin, port=None if flags.admin_port == "off" else flags.admin_port)
    elif flags.port not in (None, base.port) and base.admin == AdminConfig():
        changes["admin"] = AdminConfig(port=0)  # a second gateway on this machine: the usual admin port may be the first one's
    if flags.log_level is not None:
        changes["log"] = msgspec.convert({**msgspec.structs.asdict(base.log), "level": flags.log_level}, LogConfig)
    return msgspec.structs.replace(base, **changes)
