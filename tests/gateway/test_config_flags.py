"""The configuration that a command line makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, Flags, from_flags, hash_key
from gateway.config_flags import route_name


def flags(env: dict[str, str] | None = None, file: Path | None = None, **given: object) -> Config:
    return from_flags(Flags(**given), env or {}, file=file)  # type: ignore[arg-type]


def refused(env: dict[str, str] | None = None, file: Path | None = None, **given: object) -> str:
    with pytest.raises(ConfigError) as caught:
        flags(env, file, **given)
    return str(caught.value)


def test_without_anything_the_built_in_model_is_served() -> None:
    config = flags()
    assert list(config.routes) == ["pointsman-toy"]
    assert config.backends["pointsman-toy"].engine == "llamacpp"
    assert config.backends["pointsman-toy"].model == "builtin"
    assert config.targets("pointsman-toy")[0].model == "pointsman-toy"
    assert config.keys == ()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("/m/Qwen3-8B-Instruct-Q4_K_M.gguf", "qwen3-8b-instruct"),
        ("Llama-3.3-70B-Instruct-UD-Q2_K_XL-00001-of-00002.gguf", "llama-3.3-70b-instruct"),
        ("gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b"),
        ("gemma-3-4b-it-IQ3_XXS.gguf", "gemma-3-4b-it"),
        ("model.i1-Q4_0.gguf", "model.i1"),
        ("hf:Qwen/Qwen3-0.6B-GGUF:Q8_0", "qwen3-0.6b"),
        ("hf:owner/some.model", "some.model"),
        ("Q4_K_M.gguf", "q4_k_m"),
        ("weird name (1).gguf", "weird-name-1"),
        ("~~.gguf", "model"),
        ("x-bf16.gguf", "x"),
    ],
)  # fmt: skip
def test_names_of_routes(model: str, name: str) -> None:
    assert route_name(model) == name
    assert route_name(model, {name, f"{name}-2"}) == f"{name}-3"


def test_models_and_upstreams_stand_side_by_side() -> None:
    urls = ("http://127.0.0.1:11434/v1", "unix:///run/engine.sock:/v1", "http://127.0.0.1:11434/other")
    config = flags(models=("a-Q4_0.gguf", "b/a-Q8_0.gguf", "builtin"), upstreams=urls)
    assert list(config.routes) == ["a", "a-2", "pointsman-toy"]
    assert config.backends["a-2"].model == str(Path("b/a-Q8_0.gguf").absolute())
    remote = {name: backend.url for name, backend in config.backends.items() if backend.discover}
    assert remote == dict(zip(("127.0.0.1:11434", "engine", "127.0.0.1:11434-2"), urls, strict=True))


def test_an_upstream_alone_brings_no_built_in_model() -> None:
    assert list(flags(upstreams=("http://a/v1",)).backends) == ["a"]


def test_keys_come_from_three_places_and_count_once(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# people\nsk-file\n\n  sk-flag  \n", encoding="utf-8")
    config = flags({"POINTSMAN_KEYS": "sk-env, sk-two"}, keys=("sk-flag",), key_file=file)
    assert [key.hash for key in config.keys] == [hash_key(text) for text in ("sk-flag", "sk-env", "sk-two", "sk-file")]
    assert len({key.name for key in config.keys}) == 4


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "server: {port: 1000, host: 127.0.0.2, log: {format: json}}\nbackends: {gpu: {url: http://a}}\n"
        "routes: {a: {targets: [{backend: gpu}]}}\nkeys: [{name: key-1, key: sk-file}]\n",
        encoding="utf-8",
    )
    config = flags(file=file, port=2000, models=("a.gguf",), keys=("sk-flag",), log_level="debug", workers=2)
    assert (config.server.port, config.server.host, config.server.workers) == (2000, "127.0.0.2", 2)
    assert (config.server.log.level, config.server.log.format) == ("debug", "json")
    assert list(config.routes) == ["a", "a-2"]
    assert [key.name for key in config.keys] == ["key-1", "key-2"]
    assert list(flags(file=file).routes) == ["a"]


def test_the_control_plane_gives_way_to_a_second_gateway() -> None:
    assert flags().server.admin.port == 8485
    assert flags(port=9000).server.admin.port == 0
    assert flags(port=9000, admin_port=9001).server.admin.port == 9001
    assert flags(admin_port="off").server.admin.port is None


def test_the_key_of_an_upstream_comes_from_the_environment() -> None:
    env = {"POINTSMAN_UPSTREAM_KEY": "sk-up"}
    assert flags(env, upstreams=("https://a/v1",)).backends["a"].key == "sk-up"
    told = refused(env, upstreams=("https://a/v1", "https://b/v1"))
    assert "one key would go to several servers" in told and "sk-up" not in told


def test_what_is_refused(tmp_path: Path) -> None:
    assert refused(tls_cert="c.pem") == "--tls-cert and --tls-key belong together: give both"
    assert "$.server.tls.cert: there is no file c.pem" in refused(tls_cert="c.pem", tls_key="k.pem")
    assert refused(upstreams=("localhost:8000",)) == "--upstream: the URL must start with http://, https:// or unix:///"
    assert "no key is configured" in refused(host="0.0.0.0")
    assert refused(key_file=tmp_path / "none").endswith("none: No such file or directory")
    (tmp_path / "empty").write_text("# nobody yet\n", encoding="utf-8")
    assert refused(key_file=tmp_path / "empty").endswith("holds no key; write one key a line")
    (tmp_path / "binary").write_bytes(b"\xff")
    assert refused(key_file=tmp_path / "binary").endswith("binary: it is not text")
    assert "visible ASCII" in refused(keys=("",))
    assert refused(file=tmp_path / "none.yaml").startswith(f"{tmp_path / 'none.yaml'}: cannot read")


def test_what_no_flag_is_about_stays_as_the_file_has_it(tmp_path: Path) -> None:
    """Also experiments, and whatever noun comes next."""
    file = tmp_path / "pointsman.yaml"
    file.write_text(
        "backends: {far: {url: http://127.0.0.1:9/v1}}\nroutes: {m: {targets: [{backend: far, model: x}]}}\n"
        "experiments: {mini: {route: m, key: user, arms: {a: {}, b: {parameters: {temperature: 0}}}}}\n"
    )
    config = from_flags(Flags(port=0), {}, file=file)
    assert [*config.experiments] == ["mini"]
