"""Where tokenizers and templates are found, and what is said where there are none; what is too large or broken is refused in a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from backends.prompts import prompter, sources
from backends.prompts.cache import Cache
from backends.prompts.template import MAX_RENDERED, MAX_SOURCE, Template
from backends.prompts.types import Unreadable
from tests.backends.prompts.made import CHATML, HASHING, PARTS, QWEN, chat, folder

ROOT = Path(__file__).resolve().parents[3]


def hub(home: Path, name: str = "org/model", revision: str = "abc123", main: str = "abc123") -> Path:
    repo = home / f"models--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text(main)
    return folder(repo / "snapshots" / revision)


def test_a_folder_or_its_tokenizer(tmp_path: Path) -> None:
    place = folder(tmp_path / "m")
    for name in (place, place / "tokenizer.json"):
        found = sources.find(str(name))
        assert found.tokenizer == place / "tokenizer.json" and found.templates == {"default": CHATML}
        assert found.specials == {"bos_token": "<|begin|>", "eos_token": "</s>"}


@pytest.mark.parametrize("name", ["org/model", "hf:org/model"])
def test_the_hubs_cache_by_each_variable(tmp_path: Path, name: str) -> None:
    for made, environ in (
        (tmp_path / "a", {"HF_HUB_CACHE": str(tmp_path / "a")}),
        (tmp_path / "b" / "hub", {"HF_HOME": str(tmp_path / "b")}),
        (tmp_path / "c" / "huggingface" / "hub", {"XDG_CACHE_HOME": str(tmp_path / "c")}),
    ):
        place = hub(made)
        assert sources.find(name, environ).tokenizer == place / "tokenizer.json"


def test_the_version_that_main_names_else_the_newest(tmp_path: Path) -> None:
    old, new = hub(tmp_path, revision="old1", main="old1"), hub(tmp_path, revision="new1", main="old1")
    os.utime(old, (1, 1))

    def find() -> Path:
        return sources.find("org/model", {"HF_HUB_CACHE": str(tmp_path)}).tokenizer.parent

    assert find() == old
    for named in ("gone", "../../x"):
        (tmp_path / "models--org--model" / "refs" / "main").write_text(named)
        assert find() == new


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("org/model", "not in the Hugging Face cache"), ("model.gguf", "not read from GGUF"), ("../x", "neither a folder nor"),
        ("a/b/c", "neither a folder nor"), ("", "neither a folder nor"), ("org/..", "neither a folder nor"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    p = prompter(name, HASHING)
    assert p.mode == "text" and says in p.reason and p.prompt(chat("x" * 700)).blocks


def test_files_that_are_missing_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason() -> str:
        p = prompter(str(place), HASHING)
        assert p.mode == "text" and str(tmp_path) not in p.reason
        return p.reason

    place = tmp_path / "m"
    place.mkdir()
    assert reason() == "the folder of 'm' has no tokenizer.json."
    (place / "tokenizer.json").write_text("{}")
    assert "no chat template" in reason() or "no tokenizer that can be loaded" in reason()
    folder(place, None)
    assert "no chat template" in reason()
    folder(place, "{% for %}")
    assert "cannot be compiled" in reason()
    folder(place, "x" * (MAX_SOURCE + 1))
    assert "more than 1 MiB" in reason()
    folder(place)
    assert prompter(str(place), HASHING).mode == "tokens"
    (place / "tokenizer_config.json").write_text("[]")
    assert reason() == "tokenizer_config.json is no JSON object."
    (place / "chat_template.jinja").write_bytes(b"\xff")
    (place / "tokenizer_config.json").unlink()
    assert "cannot be read" in reason()
    monkeypatch.setattr(sources, "MAX_CONFIG", 0)
    assert "has more than 0 MiB" in reason()
    monkeypatch.setattr(sources, "MAX_TOKENIZER", 0)
    assert "the tokenizer.json of 'm' has more than" in reason()
    (place / "tokenizer.json").write_bytes(b"\xff\xfe")
    monkeypatch.undo()
    (place / "chat_template.jinja").unlink()
    assert "tokenizer.json cannot be read" in reason()


def test_every_place_of_templates(tmp_path: Path) -> None:
    place = folder(tmp_path, None)

    def found(config: dict[str, Any]) -> Any:
        (place / "tokenizer_config.json").write_text(json.dumps(config))
        return dict(sources.find(str(place)).templates)

    assert found({"chat_template": "a"}) == {"default": "a"}
    rows = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}, {"name": 3}, 4]
    assert found({"chat_template": rows}) == {"default": "a", "tool_use": "b"}
    (place / "chat_template.json").write_text('{"chat_template": "c"}')
    assert found({"chat_template": "a"}) == {"default": "c"}
    (place / "chat_template.jinja").write_text("d")
    (place / "additional_chat_templates").mkdir()
    (place / "additional_chat_templates" / "tool_use.jinja").write_text("e")
    assert found({}) == {"default": "d", "tool_use": "e"}
    p = prompter(str(place), HASHING)
    assert p.rendered is not None
    messages = [{"role": "user", "content": "x"}]
    assert p.rendered.text(chat("x"), messages) == "d"
    assert p.rendered.text(chat("x", tools=[{"type": "function", "function": {"name": "f"}}]), messages) == "e"


@pytest.mark.parametrize("package", ["tokenizers", "jinja2"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    p = prompter(str(folder(tmp_path)), HASHING)
    assert p.mode == "text" and p.reason.startswith(f"the package '{package}' is not installed; pip install")


def test_the_package_is_light() -> None:
    code = "import sys, backends.prompts; print(sorted({'tokenizers', 'jinja2', 'asyncio', 'routing'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


MACRO = "{% macro m(x) %}{% for p in x %}{{ p }}{% endfor %}{% endmacro %}"


def template(source: str) -> Template:
    return Template(source, {"bos_token": "<s>"}, lambda: datetime(2026, 1, 2))


@pytest.mark.parametrize(
    ("source", "form"),
    [
        (CHATML, "string"), (QWEN, "string"), (PARTS, "openai"),
        (MACRO + "{% for q in messages %}{{ m(q.content) }}{% endfor %}", "openai"),
        (MACRO + "{% for q in messages %}{{ m(q.role) }}{% endfor %}", "string"),
        ("{% set content = messages[0]['content'] %}{% for p in content %}{{ p }}{% endfor %}", "openai"),
        ("{% for m in messages %}{% for p in m['content'] | list %}{{ p }}{% endfor %}{% endfor %}", "openai"),
    ],
)  # fmt: skip
def test_the_form_of_contents_that_a_template_asks_for(source: str, form: str) -> None:
    assert template(source).content == form


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}", "{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}{{ ().__class__.__base__.__subclasses__() }}",
        "{{ 1 / 0 }}", "{{ missing | tojson }}", "{{ messages[9].x.y }}", "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(90000) %}{{ 'x' * 100 }}{% endfor %}", "{{ [1, 2] | map('nothing') | list }}",
    ],
)  # fmt: skip
def test_what_templates_must_not_do(source: str) -> None:
    with pytest.raises(Unreadable):
        template(source).render([{"role": "user", "content": "x"}], None, {}, answer=True)
    assert MAX_RENDERED < 90_000 * 100


def test_what_templates_are_given() -> None:
    source = "{{ bos_token }}{{ strftime_now('%d %b %Y') }}{{ {'ü': '<'} | tojson(indent=1) }}{% for i in [1, 2] %}{% break %}{% endfor %}"
    assert template(source).render([], None, {}, answer=True) == '<s>02 Jan 2026{\n "ü": "<"\n}'
    with pytest.raises(Unreadable, match="reserved"):
        template("x").render([], None, {"tools": 1}, answer=True)


def test_a_cache_keeps_what_was_used_last() -> None:
    cache: Cache[str, int] = Cache(8)
    for name in "abcd":
        cache.put(name, ord(name), 2)
    assert cache.get("a") == 97 and len(cache) == 4
    cache.put("e", 1, 2)
    assert cache.get("b") is None and cache.has("a") and not cache.has("b")
    cache.put("a", 5, 1)
    assert (cache.get("a"), cache.weight, cache.hits, cache.misses) == (5, 7, 2, 1)
    cache.put("huge", 1, 3)
    assert not cache.has("huge")
    cache.clear()
    assert len(cache) == cache.weight == 0
