"""What must hold between the configuration's parts. Pure, but for asking whether the TLS files are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import msgspec

from backends.catalog import row
from backends.engines.spec import LLAMA_CPP
from backends.loopback import is_loopback
from gateway import config_kv
from gateway.config_decode import Problem, did_you_mean, join
from gateway.config_experiments_check import arm_routes, experiments
from gateway.config_policy_check import policies
from gateway.config_target import TargetConfig
from gateway.config_types import BackendConfig, Config, KeyConfig, RouteConfig, ServerConfig
from gateway.discovery import slices
from gateway.together.redis import problem as redis_problem

_SETTINGS = ("project", "location", "region", "api_version", "deployment", "profile", "credentials")
_OF_AUTH = {"aws": ("profile",), "google": ("credentials",)}
_REMOTE_ONLY = ("key", "headers", "timeouts", "health_seconds", "proxy", "http2", "verify", "discover", *_SETTINGS)
_ENGINE_ONLY = (
    "model", "replicas", "context", "threads", "memory", "args", "env", "command", "python", "ready_seconds",
    "embeddings", "reranking", "chat_template", "served_name", "health_path", "slot_save_path", "nice", "kv_transfer",
    "kv_store", "resident", "lora", "projector", "draft", "draft_tokens",
)  # fmt: skip
_A_KIND = "the `kind` of a provider (`pointsman providers` lists them)"
_IN_PYTHON = ("vllm", "sglang", "llama-cpp-python", "llamacpp")
_NAME = re.compile(r"[^\s\x00-\x1f\x7f\"\\]{1,256}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check(config: Config) -> list[Problem]:
    """Every problem in `config`; empty when it can be used. Blocks only to look at the files it names."""
    problems = list(_server(config))
    for name, backend in config.backends.items():
        problems += _backend(join("$.backends", name), name, backend)
    for name, route in config.routes.items():
        problems += _route(join("$.routes", name), name, route, config)
    for path, name, route in arm_routes(config):
        problems += _route(path, name, route, config)
    problems += experiments(config)
    problems += _fallbacks(config)
    problems += _aliases(config)
    problems += _keys(config)
    problems += policies(config)
    if not _TOKEN.fullmatch(config.server.private_header):
        problems.append(("$.server.private_header", "is not a name that a header can have"))
    return problems


def url_problem(url: str) -> str:
    """What is wrong with a backend's URL, as one sentence without the URL (it may hold a secret); empty when it is fine."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL; write http://HOST:PORT/v1"
    if parts.scheme == "unix":
        return (
            ""
            if parts.path.startswith("/") and not parts.netloc
            else "must name a socket by its whole path: unix:///PATH.sock or unix:///PATH.sock:/v1"
        )
    if parts.scheme == "k8s":
        return f"must stand alone, in place of the list: `urls: {slices.FORM}`"
    if parts.scheme not in ("http", "https"):
        return "must start with http://, https:// or unix:///"
    if not parts.hostname or port == 0:
        return "names no host or a port that cannot be; write http://HOST:PORT/v1"
    return _url_extras(url, parts)


def _url_extras(url: str, parts: SplitResult) -> str:
    if parts.username is not None or parts.password is not None:
        return "holds a user name or password; put the key into `key` or `headers`"
    if parts.query or parts.fragment:
        return "has a query or fragment (`?...`, `#...`); give the base URL only"
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        return "holds a space or control character"
    return ""


def _server(config: Config) -> Iterator[Problem]:
    server = config.server
    if not is_loopback(server.host) and not config.keys:
        yield (
            "$.server.host",
            f"{server.host} can be reached from other machines and no key is configured, so anyone could use the models; "
            "add a key (`keys:` or --key), or listen on 127.0.0.1",
        )
    if server.admin.port is not None and not is_loopback(server.admin.host) and not any(key.admin for key in config.keys):
        yield (
            "$.server.admin.host",
            f"{server.admin.host} can be reached from other machines and no key has `admin: true`; add such a key, or listen on 127.0.0.1",
        )
    if server.port and server.port == server.admin.port and server.host == server.admin.host:
        yield "$.server.admin.port", f"{server.port} is the gateway's own port; choose another, 0 for any, or null for none"
    yield from _tls(server)
    if server.redis is not None and (problem := redis_problem(server.redis)):
        yield "$.server.redis", problem
    kept = server.responses.path
    if kept is not None and (Path(kept).is_dir() or not Path(kept).absolute().parent.is_dir()):
        yield "$.server.responses.path", f"{kept} cannot be a file: its folder is not there, or it is a folder itself"
    for index, origin in enumerate(server.cors_origins):
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#]+", origin):
            yield join("$.server.cors_origins", index), "is not an origin; write https://HOST[:PORT] without a path, or *"
    for index, host in enumerate(server.hosts):
        if not re.fullmatch(r"[^/\s]+", host):
            yield join("$.server.hosts", index), "is not a host name; write it as in a URL, without http:// or a path"


def _tls(server: ServerConfig) -> Iterator[Problem]:
    if server.tls is None:
        return
    for field in ("cert", "key"):
        path = Path(getattr(server.tls, field))
        if not path.is_file():
            yield f"$.server.tls.{field}", f"there is no file {path}"


def _backend(path: str, name: str, backend: BackendConfig) -> Iterator[Problem]:
    yield from _named(path, name, "a backend")
    if "#" in name:  # replicas are named `backend#1`
        yield path, "a backend's name must not hold #"
    ways = [way for way in ("url", "urls", "engine") if getattr(backend, way)]
    if len(ways) != 1:
        got = "got none of them" if not ways else "got " + " and ".join(f"`{way}`" for way in ways)
        yield path, f"needs exactly one of `url`, `urls` (a server elsewhere) and `engine` (one that the gateway runs), or {_A_KIND}; {got}"
        return
    foreign, why = (
        (_REMOTE_ONLY, "a server elsewhere (`url`)") if backend.engine else (_ENGINE_ONLY, "an engine that the gateway runs (`engine`)")
    )
    default = BackendConfig()
    for field in foreign:
        if getattr(backend, field) != getattr(default, field):
            yield join(path, field), f"is only for {why}"
    for wrong in config_kv.problems(backend.kv_events, backend.all_urls, backend.engine, backend.args, backend.service is not None):
        yield join(path, "kv_events"), wrong
    yield from _kv_store(join(path, "kv_store"), backend)
    yield from _engine(path, backend) if backend.engine else _remote(path, backend)


def _kv_store(path: str, backend: BackendConfig) -> Iterator[Problem]:
    store = backend.kv_store
    if store.keep and store.path is None:
        yield join(path, "path"), "is needed for `keep: true`: the folder in which KV outlives the gateway"
    if store.keep and not store.disk:
        yield join(path, "disk"), "must be a size for `keep: true`, such as 10GiB"
    if store.keep and backend.engine is not None and backend.engine != "llamacpp":
        yield join(path, "keep"), f"is only for `engine: llamacpp`; the KV of `{backend.engine}` is its own"
    if store.keep and not backend.kv_transfer:
        yield join(path, "keep"), "needs `kv_transfer: true`: slots that are not ours cannot be saved"
    if store.private and not store.keep:
        yield join(path, "private"), "says what may be kept, so it needs `keep: true`"


def _remote(path: str, backend: BackendConfig) -> Iterator[Problem]:
    if backend.service is not None:
        yield from _service(join(path, "url" if backend.url else "urls"), backend.service)
    elif isinstance(backend.urls, str):
        yield join(path, "urls"), f"is one text; write a list, as in [http://HOST:PORT/v1], or {slices.FORM}"
        return
    for index, url in enumerate(backend.all_urls):
        if wrong := url_problem(url):
            yield join(path, "url") if backend.url else join(join(path, "urls"), index), wrong
    if len(set(backend.all_urls)) < len(backend.all_urls):
        yield join(path, "urls"), "names the same server twice; for more calls at once set `slots`"
    if isinstance(backend.verify, str) and not Path(backend.verify).is_file():
        yield join(path, "verify"), f"there is no file {backend.verify}"
    if backend.proxy is not None and not re.match(r"(https?|socks5h?)://[^/\s]", backend.proxy):
        yield join(path, "proxy"), "must be http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"
    yield from _timeouts(join(path, "timeouts"), backend)
    yield from _kind(path, backend)
    yield from _sent(path, backend)


def _service(path: str, text: str) -> Iterator[Problem]:
    try:
        slices.parse(text)
    except ValueError as error:
        yield path, str(error)


def _timeouts(path: str, backend: BackendConfig) -> Iterator[Problem]:
    for name, value in msgspec.structs.asdict(backend.timeouts).items():
        if name == "min_rate":
            if not value >= 0:
                yield join(path, name), "must be 0 (any rate) or more tokens a second"
        elif value is not None and not value > 0:
            yield join(path, name), "must be more than 0 seconds"


def _kind(path: str, backend: BackendConfig) -> Iterator[Problem]:
    entry = row(backend.kind)
    known = {*(setting.name for setting in entry.settings), *_OF_AUTH.get(entry.auth, ())}
    for name in _SETTINGS:
        if getattr(backend, name) is not None and name not in known:
            yield join(path, name), f"is not used by `kind: {backend.kind}`"
    if backend.credentials is not None and not Path(backend.credentials).is_file():
        yield join(path, "credentials"), f"there is no file {backend.credentials}"
    if backend.batch_embeddings and entry.carrier != "openai":
        yield join(path, "batch_embeddings"), f"is only for servers that speak OpenAI's own format, which `kind: {backend.kind}` does not"
    if backend.health_seconds and not entry.lists:
        yield join(path, "health_seconds"), f"`kind: {backend.kind}` has nothing that could be asked without a charge"
    if backend.discover and not entry.lists:
        yield join(path, "discover"), f"`kind: {backend.kind}` gives no list of its models; name them as targets of routes"


def _sent(path: str, backend: BackendConfig) -> Iterator[Problem]:
    for header, value in backend.headers.items():
        if not _TOKEN.fullmatch(header) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            yield join(join(path, "headers"), header), "cannot be sent: it holds a character that a header must not have"
    if backend.key is not None and not re.fullmatch(r"[\x21-\x7e]+", backend.key):
        yield join(path, "key"), "must be visible ASCII without spaces, and not empty"


def _engine(path: str, backend: BackendConfig) -> Iterator[Problem]:
    if backend.engine == "command":
        if not backend.command:
            yield path, "`engine: command` needs `command`, a list: the program and its arguments"
    elif not backend.model:
        yield path, f"`engine: {backend.engine}` needs `model`: a path, hf:REPO[:QUANT], a name of `pointsman ls`, or builtin"
    if (backend.model or "").startswith("hf:") and not re.fullmatch(r"hf:[\w.-]+/[\w.-]+(?::[^\s:]+)?", backend.model or ""):
        yield join(path, "model"), "is not hf:OWNER/REPOSITORY[:QUANT], as in hf:Qwen/Qwen3-0.6B-GGUF:Q8_0"
    if backend.command and backend.engine not in ("command", "llama-server"):
        yield join(path, "command"), f"is not used by `engine: {backend.engine}`; for your own program write `engine: command`"
    if backend.python is not None and backend.engine not in _IN_PYTHON:
        yield join(path, "python"), f"is not used by `engine: {backend.engine}`"
    yield from _beside(path, backend)
    for name in backend.env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            yield join(join(path, "env"), name), "is not the name of an environment variable"


def _beside(path: str, backend: BackendConfig) -> Iterator[Problem]:
    """The files beside a model, of llama.cpp's engines only."""
    said = {
        "lora": backend.lora, "projector": isinstance(backend.projector, str), "draft": backend.draft, "draft_tokens": backend.draft_tokens,
    }  # fmt: skip
    if backend.engine not in LLAMA_CPP:
        for field in (field for field, value in said.items() if value):
            yield join(path, field), f"is not used by `engine: {backend.engine}`, but by llamacpp and llama-server"
    elif backend.draft_tokens and not backend.draft:
        yield join(path, "draft_tokens"), "says nothing without `draft`, the model that guesses"


def _route(path: str, name: str, route: RouteConfig, config: Config) -> Iterator[Problem]:
    yield from _named(path, name, "a route")
    if not route.targets:
        yield join(path, "targets"), "is empty; name at least one backend"
    elif not any(target.weight for target in route.targets):
        yield join(path, "targets"), "every weight is 0, so no call could go anywhere; give at least one a weight"
    seen: set[tuple[str, str]] = set()
    for index, target in enumerate(route.targets):
        here = join(join(path, "targets"), index)
        yield from _target(here, target, config)
        if (target.backend, target.model) in seen:
            yield here, "stands twice in this route; use `weight`"
        seen.add((target.backend, target.model))


def _target(path: str, target: TargetConfig, config: Config) -> Iterator[Problem]:
    if target.backend not in config.backends:
        hint = did_you_mean(target.backend, config.backends) or f" Configured: {', '.join(config.backends) or 'none'}."
        yield join(path, "backend"), f"there is no backend `{target.backend}`.{hint}"


def followers(route: RouteConfig) -> list[tuple[str, str]]:
    """(field, name) of every route that may take this one's calls, in the order in which they are tried."""
    given = route.fallbacks
    if isinstance(given, tuple):
        return [("fallbacks", name) for name in given]
    named = [("fallbacks.context", given.context), ("fallbacks.content", given.content)]
    return [("fallbacks.any", name) for name in given.any] + [(field, name) for field, name in named if name is not None]


def _fallbacks(config: Config) -> Iterator[Problem]:
    discovering = any(backend.discover for backend in config.backends.values())
    for name, route in config.routes.items():
        path = join("$.routes", name)
        for field, other in followers(route):
            if other not in config.routes:
                known = " Routes that are found while running cannot be named here." if discovering else did_you_mean(other, config.routes)
                yield f"{path}.{field}", f"there is no route `{other}`.{known}"
            elif loop := _loop(config, name, other):
                yield f"{path}.{field}", f"the fallbacks go round in a circle: {' -> '.join(loop)}; take one of them out"


def _loop(config: Config, start: str, then: str) -> list[str]:
    """The way from `start` over `then` back to `start` along fallbacks; empty when there is none. Every route is looked at once."""
    seen: set[str] = set()
    ways = [[start, then]]
    while ways:
        way = ways.pop()
        if way[-1] == start:
            return way
        if way[-1] not in seen and way[-1] in config.routes:
            seen.add(way[-1])
            ways += [[*way, other] for _, other in followers(config.routes[way[-1]])]
    return []


def _aliases(config: Config) -> Iterator[Problem]:
    owner: dict[str, str] = {}
    for name, route in config.routes.items():
        for index, alias in enumerate(route.aliases):
            here = join(join(join("$.routes", name), "aliases"), index)
            yield from _named(here, alias, "an alias")
            if alias in config.routes:
                yield here, f"`{alias}` is already the name of a route"
            elif alias in owner:
                yield here, f"`{alias}` is already an alias of the route `{owner[alias]}`"
            owner.setdefault(alias, name)


def _keys(config: Config) -> Iterator[Problem]:
    names: set[str] = set()
    hashes: dict[str, str] = {}
    public = {*config.routes, *(alias for route in config.routes.values() for alias in route.aliases)}
    closed = not any(backend.discover for backend in config.backends.values())
    for index, key in enumerate(config.keys):
        here = join("$.keys", index)
        if key.name in names:
            yield join(here, "name"), f"`{key.name}` is already the name of another key"
        names.add(key.name)
        yield from _named(join(here, "name"), key.name, "a key")
        yield from _one_key(here, key)
        if key.hash and hashes.setdefault(key.hash, key.name) != key.name:
            yield here, f"is the same key as `{hashes[key.hash]}`"
        for at, route in enumerate(key.routes or ()):
            if closed and route not in public:
                yield join(join(here, "routes"), at), f"there is no route `{route}`.{did_you_mean(route, public)}"


def _one_key(path: str, key: KeyConfig) -> Iterator[Problem]:
    if key.hash is None:
        yield path, 'needs `key: ${SOME_VARIABLE}` or `hash: "sha256:..."`'
    elif not _HASH.fullmatch(key.hash):
        yield join(path, "hash"), 'must be "sha256:" and 64 lower-case hex digits: printf %s KEY | sha256sum'


def _named(path: str, name: str, what: str) -> Iterator[Problem]:
    if not _NAME.fullmatch(name):
        yield path, f"is not a name for {what}; use 1 to 256 characters without spaces, quotes, backslashes or control characters"
