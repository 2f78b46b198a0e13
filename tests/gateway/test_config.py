"""The configuration file: what it means, and what a mistake in it is told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from backends.engines.spec import Lora
from backends.types import Timeouts
from gateway.config import Config, ConfigError, hash_key, load, parse, remarks, schema

ROOT = Path(__file__).resolve().parents[2]
GPU: dict[str, Any] = {"gpu": {"url": "http://gpu:8000/v1"}}


def text(**parts: Any) -> str:
    return json.dumps(parts)  # JSON is YAML


def problems(source: str, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(source, env or {})
    return caught.value.problems


def only(source: str, env: dict[str, str] | None = None) -> str:
    found = problems(source, env)
    assert len(found) == 1, found
    return found[0]


def backend(**fields: Any) -> str:
    return text(backends={"b": fields})


# --- what it means


def test_an_empty_file_is_the_defaults() -> None:
    assert parse("", {}) == parse("server:\nbackends:\nroutes:\nkeys:\n", {}) == Config()


def test_sizes_and_durations() -> None:
    limits = parse("server: {limits: {body_bytes: 3MiB, header_bytes: '2048', event_bytes: 1.5 kb, body_seconds: 2}}", {}).server.limits
    assert (limits.body_bytes, limits.header_bytes, limits.event_bytes, limits.body_seconds) == (3 << 20, 2048, 1500, 2.0)


def test_variables_are_expanded_in_texts_only() -> None:
    source = "server: {port: '${PORT}', hosts: ['a-${X:-y}-${E:-z}', '$${X}', $5]}\nbackends: {'${N}': {url: 'http://${N}:1'}}"
    config = parse(source, {"PORT": "9000", "N": "n", "E": ""})
    assert config.server.port == 9000
    assert config.server.hosts == ("a-y-z", "${X}", "$5")
    assert config.backends["${N}"].url == "http://n:1"


def test_an_expanded_value_is_not_expanded_again() -> None:
    assert parse("server: {hosts: ['${A}']}", {"A": "${B}", "B": "no"}).server.hosts == ("${B}",)


def test_a_key_is_kept_as_its_hash_alone() -> None:
    config = parse("keys: [{name: me, key: '${K}'}]", {"K": "sk-very-secret"})
    assert config.keys[0].hash == "sha256:" + hashlib.sha256(b"sk-very-secret").hexdigest() == hash_key("sk-very-secret")
    assert config.keys[0].key is None
    assert "very-secret" not in repr(config)


def test_secrets_of_backends_do_not_show() -> None:
    config = parse(backend(url="http://a", key="sk-hidden", headers={"x-key": "hidden-too"}, proxy="http://u:hidden@p:1"), {})
    assert config.backends["b"].key == "sk-hidden"
    assert "hidden" not in repr(config)


def test_targets_join_what_the_backend_says() -> None:
    backends = {"gpu": {"url": "http://a", "unsupported": ["n"]}, "cpu": {"engine": "llamacpp", "model": "m.gguf", "context": 512}}
    targets: list[dict[str, Any]] = [{"backend": "gpu", "unsupported": ["seed"]}, {"backend": "cpu", "weight": 2}]
    routes = {"r": {"targets": targets, "timeouts": {"idle": 7}}}
    config = parse(text(backends=backends, routes=routes), {})
    gpu, cpu = config.targets("r")
    assert (gpu.model, gpu.unsupported, gpu.context) == ("r", {"n", "seed"}, None)
    assert (cpu.model, cpu.weight, cpu.context) == ("cpu", 2.0, 512)
    assert config.timeouts("r", "gpu") == Timeouts(idle=7)


def test_an_engine_without_a_route_gets_one_and_a_server_does_not() -> None:
    config = parse(text(backends=GPU | {"cpu": {"engine": "llamacpp", "model": "builtin"}}), {})
    assert list(config.routes) == ["cpu"]
    assert config.targets("cpu")[0].model == "cpu"
    assert remarks(config) == ["$.backends.gpu: no route names it and `discover` is off, so nothing is ever sent there"]


def test_engine_spec_carries_every_field() -> None:
    given = {"engine": "vllm", "model": "hf:a/b", "replicas": 2, "context": 99, "threads": 3, "memory": "1GiB", "args": ["-x"],
             "env": {"A": "1"}, "python": "py", "ready_seconds": 5, "embeddings": False, "reranking": True, "chat_template": "t",
             "served_name": "s", "health_path": "/h", "slot_save_path": "p", "nice": 3, "slots": 7}  # fmt: skip
    config = parse(text(backends={"b": given}), {}).backends["b"]
    spec = config.engine_spec("b", "/models/b")
    assert spec.model == "/models/b" and config.engine_spec("b").model == "hf:a/b"
    assert (spec.name, spec.kind, spec.command) == ("b", "vllm", ())
    for field in given.keys() - {"engine", "model", "memory", "args"}:
        assert getattr(spec, field) == given[field], field
    assert type(spec.env["A"]) is str and spec.memory == 1 << 30 and spec.args == ("-x",)
    with pytest.raises(ValueError, match="`r` is not an engine"):
        parse(backend(url="http://a"), {}).backends["b"].engine_spec("r")


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    for name in ("c.pem", "k.pem", "ca.pem"):
        (tmp_path / name).touch()
    source = """
server: {tls: {cert: c.pem, key: k.pem}, responses: {path: r.db}, experiments: {path: e.db}}
backends:
  far: {url: https://a, verify: ca.pem, discover: true}
  near:
    engine: llamacpp
    model: m.gguf
    draft: ./d.gguf
    projector: p.gguf
    lora: [a.gguf, {path: b.gguf, scale: 0.5}]
    kv_store: {path: kv}
  repo: {engine: vllm, model: Qwen/Qwen3-8B, python: venv/bin/python}
  here: {engine: vllm, model: Qwen/Qwen3-8B, python: python3}
"""
    (tmp_path / "pointsman.yaml").write_text("\ufeff" + source, encoding="utf-8")
    config = load(tmp_path / "pointsman.yaml", {})
    assert config.server.tls is not None and config.server.tls.cert == str(tmp_path / "c.pem")
    assert config.backends["far"].verify == str(tmp_path / "ca.pem")
    assert (config.server.responses.path, config.server.experiments.path) == (str(tmp_path / "r.db"), str(tmp_path / "e.db"))
    near = config.backends["near"]
    assert [near.model, near.draft, near.projector] == [str(tmp_path / name) for name in ("m.gguf", "d.gguf", "p.gguf")]
    assert near.lora == (str(tmp_path / "a.gguf"), Lora(str(tmp_path / "b.gguf"), 0.5))
    assert near.kv_store.path == str(tmp_path / "kv")
    repo = config.backends["repo"]
    assert (repo.model, repo.projector, repo.kv_store.path) == ("Qwen/Qwen3-8B", True, None)
    assert (repo.python, config.backends["here"].python) == (str(tmp_path / "venv/bin/python"), "python3")


# --- what a mistake is told


def test_every_problem_is_named_with_its_path() -> None:
    source = """
server: {prot: 1, limits: {body_bytes: 3 parsecs}}
backends: {a/b: {kind: vlm}, c: {engine: llamacpp, threads: 0, model: 5}}
routes: {r: {}}
"""
    assert problems(source) == [
        "$.server.prot: unknown field. Did you mean `port`?",
        "$.server.limits.body_bytes: '3 parsecs' is not a size; write a number of bytes or a text such as \"32MiB\"",
        "$.backends[\"a/b\"].kind: 'vlm' is not known here. Did you mean `vllm`?",
        "$.backends.c.model: expected `str | null`, got `int`; put it in quotes",
        "$.backends.c.threads: expected `int` >= 1",
        "$.routes.r: `targets` is missing",
    ]


def test_the_text_of_the_error_is_one_line_or_a_list() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("server: {prot: 1}", {}, source="my.yaml")
    assert str(caught.value) == "my.yaml: $.server.prot: unknown field. Did you mean `port`?"
    with pytest.raises(ConfigError) as caught:
        parse("server: {prot: 1, hots: 2}", {}, source="my.yaml")
    assert str(caught.value).splitlines()[0] == "my.yaml: 2 problems"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("a: [", "not valid YAML"),
        ("\tserver: 1", "line 1, column 1: not valid YAML"),
        ("server: \x00", "not valid YAML"),
        ("server: {}\nserver: {}", "line 2: `server` stands twice, first in line 1"),
        ("backends: {a: {url: http://a}, a: {url: http://b}}", "`a` stands twice"),
        ("- 1", "$: expected fields (`name: value`), got a list"),
        ("[" * 3000, "nested too deeply"),
        ("server: 2024-99-99", "not valid YAML"),
        ("backends: []", "$.backends: expected names with values below them, got a list"),
        ("routes: {1.5: {targets: [{backend: b}]}}", "the name 1.5 is read as a number; put it in quotes"),
        ("routes: {no: {targets: [{backend: b}]}}", "the name False is read as true or false; put it in quotes"),
        ("server: {cors_origins: https://a}", "$.server.cors_origins: expected a list, got a text"),
        ("server: {port: 70000}", "$.server.port: expected `int` <= 65535"),
        ("server: {wait_seconds: .inf}", "$.server.wait_seconds: expected a finite number"),
        ("server: {wait_seconds: 0}", "$.server.wait_seconds: expected `float` > 0"),
        ("keys: [{name: a, key: 123}]", "$.keys[0].key: expected `str`, got a number; put it in quotes"),
        ("x" * (4 << 20) + "y", "at most 4194304"),
    ],
)  # fmt: skip
def test_unreadable(source: str, told: str) -> None:
    assert told in only(source)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("${A}", "$.server.host: the environment variable A is not set; set it, or write ${A:-default}"),
        ("${A-b}", "$.server.host: `${A-b}` is not a variable"),
        ("${A", "$.server.host: `${A` is not a variable"),
    ],
)  # fmt: skip
def test_variables_that_cannot_be_expanded(value: str, told: str) -> None:
    assert told in only(text(server={"host": value}))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "got none of them"),
        ({"url": "http://a", "engine": "vllm"}, "got `url` and `engine`"),
        ({"urls": []}, "got none of them"),
        ({"url": "ftp://a"}, "$.backends.b.url: must start with http://"),
        ({"urls": ["http://a", "http://"]}, "$.backends.b.urls[1]: names no host"),
        ({"urls": ["http://a", "http://a"]}, "names the same server twice"),
        ({"url": "http://a:x"}, "is not a URL"),
        ({"url": "http://u:p@a"}, "holds a user name or password"),
        ({"url": "http://a/v1?x=1"}, "has a query or fragment"),
        ({"url": "http://a/v 1"}, "holds a space"),
        ({"url": "unix://a.sock"}, "must name a socket by its whole path"),
        ({"url": "http://a", "threads": 3}, "$.backends.b.threads: is only for an engine that the gateway runs"),
        ({"engine": "llamacpp", "model": "m", "key": "k"}, "$.backends.b.key: is only for a server elsewhere"),
        ({"engine": "llamacpp"}, "`engine: llamacpp` needs `model`"),
        ({"engine": "llamacpp", "model": "hf:x"}, "is not hf:OWNER/REPOSITORY"),
        ({"engine": "command"}, "needs `command`"),
        ({"engine": "vllm", "model": "m", "command": ["x"]}, "`engine: command`"),
        ({"engine": "llama-server", "model": "m", "python": "p"}, "$.backends.b.python: is not used"),
        ({"engine": "vllm", "model": "m", "env": {"A=B": "1"}}, "is not the name of an environment variable"),
        ({"url": "http://a", "verify": "/nowhere/ca.pem"}, "there is no file /nowhere/ca.pem"),
        ({"url": "http://a", "proxy": "p:1"}, "$.backends.b.proxy: must be http://HOST:PORT"),
        ({"url": "http://a", "timeouts": {"idle": 0}}, "$.backends.b.timeouts.idle: must be more than 0 seconds"),
        ({"url": "http://a", "headers": {"x": "a\nb"}}, "$.backends.b.headers.x: cannot be sent"),
        ({"url": "http://a", "headers": {"x y": "a"}}, '$.backends.b.headers["x y"]: cannot be sent'),
        ({"url": "http://a", "key": "a b"}, "$.backends.b.key: must be visible ASCII"),
    ],
)  # fmt: skip
def test_backends_that_cannot_be(fields: dict[str, Any], told: str) -> None:
    assert told in only(backend(**fields))


@pytest.mark.parametrize(
    ("routes", "told"),
    [
        ({"r": {"targets": []}}, "$.routes.r.targets: is empty"),
        ({"r": {"targets": [{"backend": "gpuu"}]}}, "$.routes.r.targets[0].backend: there is no backend `gpuu`. Did you mean `gpu`?"),
        ({"r": {"targets": [{"backend": "zzzzz"}]}}, "Configured: gpu."),
        ({"r": {"targets": [{"backend": "gpu", "weight": 0}]}}, "every weight is 0"),
        ({"r": {"targets": [{"backend": "gpu"}, {"backend": "gpu"}]}}, "$.routes.r.targets[1]: stands twice"),
        ({"r r": {"targets": [{"backend": "gpu"}]}}, '$.routes["r r"]: is not a name for a route'),
        ({"r": {"targets": [{"backend": "gpu"}], "aliases": ["r"]}}, "`r` is already the name of a route"),
        ({"r": {"targets": [{"backend": "gpu"}], "aliases": ["a", "a"]}}, "`a` is already an alias of the route `r`"),
        ({"r": {"targets": [{"backend": "gpu"}], "aliases": ["a b"]}}, "is not a name for an alias"),
    ],
)  # fmt: skip
def test_routes_that_cannot_be(routes: dict[str, Any], told: str) -> None:
    assert told in only(text(backends=GPU, routes=routes))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ([{"name": "a"}], "$.keys[0]: needs `key:"),
        ([{"name": "a", "hash": "sha256:12"}], "$.keys[0].hash: must be"),
        ([{"name": "a", "key": "x", "hash": hash_key("x")}], "$.keys[0]: has both `key` and `hash`"),
        ([{"name": "a", "key": ""}], "$.keys[0]: `key` must be visible ASCII"),
        ([{"name": "a", "key": "x y"}], "$.keys[0]: `key` must be visible ASCII"),
        ([{"name": "a", "key": "x"}, {"name": "a", "key": "y"}], "$.keys[1].name: `a` is already the name of another key"),
        ([{"name": "a", "key": "x"}, {"name": "b", "key": "x"}], "$.keys[1]: is the same key as `a`"),
        ([{"name": "a", "key": "x", "routes": ["gone"]}], "$.keys[0].routes[0]: there is no route `gone`"),
    ],
)  # fmt: skip
def test_keys_that_cannot_be(keys: list[dict[str, Any]], told: str) -> None:
    found = only(text(keys=keys))
    assert told in found
    assert "x y" not in found


def test_a_key_may_name_a_route_that_is_yet_to_be_discovered() -> None:
    source = text(backends={"b": {"url": "http://a", "discover": True}}, keys=[{"name": "a", "key": "x", "routes": ["later"]}])
    assert parse(source, {}).keys[0].routes == ("later",)


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ({"host": "0.0.0.0"}, "$.server.host: 0.0.0.0 can be reached from other machines and no key is configured"),
        ({"host": "::"}, "$.server.host: :: can be reached"),
        ({"host": "models.example.org"}, "$.server.host: models.example.org can be reached"),
        ({"admin": {"host": "0.0.0.0"}}, "$.server.admin.host: 0.0.0.0 can be reached from other machines and no key has `admin: true`"),
        ({"admin": {"port": 8484}}, "$.server.admin.port: 8484 is the gateway's own port"),
        ({"tls": {"cert": __file__, "key": "/nowhere/k.pem"}}, "$.server.tls.key: there is no file /nowhere/k.pem"),
        ({"tls": {"cert": __file__}}, "$.server.tls: `key` is missing"),
        ({"cors_origins": ["https://a/x"]}, "$.server.cors_origins[0]: is not an origin"),
        ({"hosts": ["http://a"]}, "$.server.hosts[0]: is not a host name"),
    ],
)  # fmt: skip
def test_servers_that_cannot_be(server: dict[str, Any], told: str) -> None:
    assert told in only(text(server=server))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_key_and_another_address_is_fine_with_one(host: str) -> None:
    assert parse(text(server={"host": host}), {}).server.host == host
    assert parse(text(server={"host": "0.0.0.0"}, keys=[{"name": "a", "key": "k"}]), {}).server.host == "0.0.0.0"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bad\.yaml: cannot read the configuration: it is not UTF-8 text"):
        load(tmp_path / "bad.yaml", {})
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot read the configuration: No such file"):
        load(tmp_path / "none.yaml", {})


# --- the documents


def test_the_example_loads_and_names_every_field() -> None:
    path = ROOT / "docs/config.example.yaml"
    config = load(path, {})
    assert set(config.routes) == {"llama-70b", "desk", "sonnet", "gpt", "small", "mine"}
    assert remarks(config) == []
    example = path.read_text(encoding="utf-8")
    fields = {field for part in schema()["$defs"].values() for field in part["properties"]}
    assert [field for field in sorted(fields) if f"{field}:" not in example] == ["python", "served_name", "slot_save_path"]


def test_the_schema_in_the_documents_is_the_code_s() -> None:
    """After a change: pointsman check --schema > docs/config.schema.json"""
    assert json.loads((ROOT / "docs/config.schema.json").read_text(encoding="utf-8")) == json.loads(json.dumps(schema()))
