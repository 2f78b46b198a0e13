"""Where a model's tokenizer and chat template lie on this machine: a folder, or the Hugging Face cache. Nothing is fetched.

Files as transformers writes them: tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja (or .json, or in
tokenizer_config.json), additional_chat_templates/NAME.jinja. Reading blocks on the disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from backends.prompts.types import Unreadable

MAX_CONFIG = 64 << 20  # bytes of one JSON file besides the tokenizer
MAX_TOKENIZER = 256 << 20
_REPO = re.compile(r"(?:hf:)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*|[A-Za-z0-9][\w.-]*)")
_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class Source(msgspec.Struct, frozen=True):
    """What was found. `templates` by name, "default" first; `specials`: the texts that templates know as bos_token and so on."""

    tokenizer: Path
    templates: Mapping[str, str]
    specials: Mapping[str, str]


def find(model: str, environ: Mapping[str, str] | None = None) -> Source:
    """The files of a model given by its folder, its tokenizer.json, or its name on the hub. Raises `Unreadable`."""
    folder = _folder(model, os.environ if environ is None else environ)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise Unreadable(f"the folder of {_short(model)} has no tokenizer.json.")
    if tokenizer.stat().st_size > MAX_TOKENIZER:
        raise Unreadable(f"the tokenizer.json of {_short(model)} has more than {MAX_TOKENIZER >> 20} MiB.")
    config = _object(folder / "tokenizer_config.json")
    return Source(tokenizer, _templates(folder, config), _specials(folder, config))


def _folder(model: str, environ: Mapping[str, str]) -> Path:
    if model.endswith(".gguf"):
        raise Unreadable("tokenizers are not read from GGUF files; name the folder or the repository of the original model.")
    place = Path(model.removeprefix("hf:"))
    if model and place.is_dir():
        return place
    if place.name == "tokenizer.json" and place.is_file():
        return place.parent
    match = _REPO.fullmatch(model)
    if match is None or ".." in model:
        raise Unreadable(f"{_short(model)} is neither a folder nor a model's name on the hub.")
    return _snapshot(_hub(environ) / f"models--{match[1].replace('/', '--')}", model)


def _hub(environ: Mapping[str, str]) -> Path:
    """The hub's cache, by the variables that huggingface_hub reads."""
    if at := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(at).expanduser()
    home = environ.get("HF_HOME") or str(Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(home).expanduser() / "hub"


def _snapshot(repo: Path, model: str) -> Path:
    """The version that `main` names, else the newest one that has a tokenizer."""
    try:
        revision = (repo / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        revision = ""
    named = repo / "snapshots" / revision
    if re.fullmatch(r"[0-9a-zA-Z]+", revision) and (named / "tokenizer.json").is_file():
        return named
    found = sorted((repo / "snapshots").glob("*/tokenizer.json"), key=lambda path: path.parent.stat().st_mtime)
    if not found:
        raise Unreadable(f"{_short(model)} is not in the Hugging Face cache of this machine with a tokenizer.json.")
    return found[-1].parent


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    inside = config.get("chat_template")
    if isinstance(inside, str):
        found["default"] = inside
    for row in inside if isinstance(inside, list) else ():
        if isinstance(row, dict) and isinstance(row.get("name"), str) and isinstance(row.get("template"), str):
            found[row["name"]] = row["template"]
    other = _object(folder / "chat_template.json").get("chat_template")
    if isinstance(other, str):
        found["default"] = other
    if (text := _text(folder / "chat_template.jinja")) is not None:
        found["default"] = text
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))[:16]:
        if (text := _text(path)) is not None:
            found[path.stem] = text
    return found


def _specials(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    rows = _object(folder / "special_tokens_map.json") | dict(config)
    found: dict[str, str] = {}
    for name in _NAMES:
        value = rows.get(f"{name}_token")
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[f"{name}_token"] = text
    return found


def _text(path: Path) -> str | None:
    """A file's text; None when there is none. Raises `Unreadable` for one that is too large or no text."""
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise Unreadable(f"{path.name} has more than {MAX_CONFIG >> 20} MiB.")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError) as e:
        raise Unreadable(f"{path.name} cannot be read ({type(e).__name__}).") from None


def _object(path: Path) -> dict[str, Any]:
    text = _text(path)
    if text is None:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        raise Unreadable(f"{path.name} is no JSON object.") from None


def _short(model: str) -> str:
    """A model's name without the folders before it."""
    return repr(model.rstrip("/").rsplit("/", 1)[-1][:80]) if model.startswith(("/", ".", "~")) else repr(model[:120])
