"""From YAML text to structs: every problem found, each with its path. Knows nothing of what the fields mean.

A problem is `(path, text)`; a path has names, not kinds: `$.backends.gpu.urls[1]`.
"""

from __future__ import annotations

import datetime
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import yaml

from gateway.config_types import Secret, read_size

Problem = tuple[str, str]
MAX_BYTES = 4 * 1024 * 1024
_LISTED = 12  # of more words than these, only the nearest is told
BAD: Any = object()  # stands for a value that has a problem
_ENV = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{[^}]*\}?")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


class ConfigError(ValueError):
    """The configuration cannot be used; `problems` holds one line each. Its text is what the user is shown."""

    def __init__(self, problems: Iterable[str], source: str = "") -> None:
        self.problems = list(problems)
        self.source = source
        head = f"{source}: " if source else ""
        count = len(self.problems)
        super().__init__(head + (self.problems[0] if count == 1 else f"{count} problems\n" + "\n".join(f"  {p}" for p in self.problems)))


def join(path: str, key: object) -> str:
    """`path` with one more name or index; a name that is not a plain word is quoted."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    text = str(key)
    return f"{path}.{text}" if _PLAIN.fullmatch(text) else f'{path}["{text}"]'


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean `x`?` for the nearest known word, or an empty text."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean `{near[0]}`?" if near else ""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key standing twice in one mapping (YAML forbids it, PyYAML keeps the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            self._refuse_twice(node)
        return super().construct_mapping(node, deep)

    def _refuse_twice(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            line = key.start_mark.line + 1
            if key.value in seen:
                raise ConfigError([f"line {line}: `{key.value}` stands twice, first in line {seen[key.value]}; keep one of them"])
            seen[key.value] = line


def read_yaml(text: str) -> Any:
    """The YAML document in `text`. Raises ConfigError with the line of what is wrong."""
    if len(text) > MAX_BYTES:
        raise ConfigError([f"the file has {len(text)} characters; a configuration may have at most {MAX_BYTES}"])
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError([f"{where}not valid YAML: {error.problem or error.context or 'cannot be read'}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"not valid YAML: {' '.join(str(error).split())}"]) from None
    except RecursionError:
        raise ConfigError(["nested too deeply"]) from None
    except ValueError as error:  # a date or a number that YAML accepts and Python does not
        raise ConfigError([f"not valid YAML: {error}"]) from None


def expand(value: Any, env: Mapping[str, str], path: str, problems: list[Problem]) -> Any:
    """`value` with `${NAME}` and `${NAME:-default}` replaced in its texts (not in keys); `$${` stands for a plain `${`."""
    if isinstance(value, str):
        return _expand_text(value, env, path, problems) if "${" in value else value
    if isinstance(value, dict):
        return {key: expand(item, env, join(path, str(key)), problems) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, env, join(path, index), problems) for index, item in enumerate(value)]
    return value


def _expand_text(text: str, env: Mapping[str, str], path: str, problems: list[Problem]) -> str:
    def one(found: re.Match[str]) -> str:
        whole, name, default = found[0], found[1], found[2]
        if whole == "$${":
            return "${"
        if name is None:
            problems.append((path, f"`{whole}` is not a variable; write ${{NAME}} or ${{NAME:-default}}, and $${{ for a plain ${{"))
            return ""
        if default is not None:
            return env.get(name) or default
        if name not in env:
            problems.append((path, f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"))
        return env.get(name, "")

    return _ENV.sub(one, text)


def decode(kind: Any, value: Any, path: str, problems: list[Problem]) -> Any:
    """`value` as `kind` (a struct, dict, tuple or a leaf), or BAD with at least one problem added."""
    inner, optional = _unwrap(kind)
    if value is None and optional:
        return None
    if isinstance(value, dict):
        inner = _of_fields(inner)
    elif isinstance(value, list):
        inner = _of_items(inner)
    if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
        return _struct(inner, value, path, problems)
    origin = typing.get_origin(inner)
    if origin is dict:
        return _dict(typing.get_args(inner)[1], value, path, problems)
    if origin in (tuple, frozenset):
        return _list(origin, typing.get_args(inner)[0], value, path, problems)
    return _leaf(kind, value, path, problems)


def _unwrap(kind: Any) -> tuple[Any, bool]:
    """`X | None` and `Annotated[X, ...]` without their wrapping, and whether None is allowed."""
    if typing.get_origin(kind) not in (types.UnionType, typing.Union):
        return kind, False
    rest = [arm for arm in typing.get_args(kind) if arm is not types.NoneType]
    optional = len(rest) < len(typing.get_args(kind))
    return (rest[0], optional) if len(rest) == 1 else (kind, optional)


def _of_fields(kind: Any) -> Any:
    """Of several kinds the one struct, which is what a mapping must be meant for; else `kind`."""
    if typing.get_origin(kind) not in (types.UnionType, typing.Union):
        return kind
    structs = [arm for arm in typing.get_args(kind) if isinstance(arm, type) and issubclass(arm, msgspec.Struct)]
    return structs[0] if len(structs) == 1 else kind


def _of_items(kind: Any) -> Any:
    """Of several kinds the one list, which is what a list must be meant for; else `kind`."""
    lists = [arm for arm in _arms(kind) if typing.get_origin(arm) in (tuple, frozenset)]
    return lists[0] if len(lists) == 1 else kind


def _struct(kind: type[msgspec.Struct], value: Any, path: str, problems: list[Problem]) -> Any:
    if value is None:
        value = {}  # a heading with nothing below it
    if not isinstance(value, dict):
        return _fail(path, f"expected fields (`name: value`), got {_name(value)}", problems)
    known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    before = len(problems)
    for key in value:
        if key not in known:
            problems.append((join(path, key), f"unknown field.{did_you_mean(str(key), known) or ' Known: ' + ', '.join(known) + '.'}"))
    given = {}
    for name, field in known.items():
        if name in value:
            given[field.name] = decode(field.type, value[name], join(path, name), problems)
        elif field.required:
            problems.append((path, f"`{name}` is missing"))
    return kind(**given) if len(problems) == before else BAD


def _dict(kind: Any, value: Any, path: str, problems: list[Problem]) -> Any:
    if value is None:
        value = {}
    if not isinstance(value, dict):
        return _fail(path, f"expected names with values below them, got {_name(value)}", problems)
    before, out = len(problems), {}
    for key, item in value.items():
        if not isinstance(key, str):
            problems.append((join(path, str(key)), f"the name {key!r} is read as {_name(key)}; put it in quotes"))
        out[key] = decode(kind, item, join(path, str(key)), problems)
    return out if len(problems) == before else BAD


def _list(shape: type, kind: Any, value: Any, path: str, problems: list[Problem]) -> Any:
    if value is None:
        value = []
    if not isinstance(value, list):
        return _fail(path, f"expected a list, got {_name(value)}; write it as [a, b] or one `- item` a line", problems)
    before = len(problems)
    out = [decode(kind, item, join(path, index), problems) for index, item in enumerate(value)]
    return shape(out) if len(problems) == before else BAD


def _leaf(kind: Any, value: Any, path: str, problems: list[Problem]) -> Any:
    inner = _unwrap(kind)[0]
    words = _words(inner)
    if words and value not in words:
        hint = did_you_mean(str(value), words)
        listed = f"one of {', '.join(words)}" if len(words) <= _LISTED or not hint else "known here"
        return _fail(path, f"{value!r} is not {listed}.{hint}", problems)
    if isinstance(value, float) and not math.isfinite(value):
        return _fail(path, "expected a finite number", problems)
    try:
        if isinstance(value, datetime.datetime) and inner is str:
            value = value.isoformat()  # YAML reads a time without quotes as one
        if isinstance(value, str) and _is_size(inner) and value not in _literals(inner):
            value = read_size(value)
        # not strict: an expanded ${PORT} is a text even where a number is wanted
        return msgspec.convert(value, kind, strict=False, dec_hook=_hook)
    except (ValueError, OverflowError) as error:
        hint = "; put it in quotes" if isinstance(value, int | float) and "`str" in str(error).split(", got")[0] else ""
        return _fail(path, re.sub(r" - at `.*`$", "", str(error)).replace("Expected", "expected") + hint, problems)


def _words(kind: Any) -> tuple[Any, ...]:
    """The words that a text must be one of; empty where any will do."""
    if any(arm in (str, int, float) or typing.get_origin(arm) is typing.Annotated for arm in _arms(kind)):
        return ()
    return _literals(kind)


def _arms(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


def _literals(kind: Any) -> tuple[Any, ...]:
    return tuple(word for arm in _arms(kind) if typing.get_origin(arm) is typing.Literal for word in typing.get_args(arm))


def _is_size(kind: Any) -> bool:
    notes = (note for arm in _arms(kind) for note in getattr(arm, "__metadata__", ()))
    return any(isinstance(note, msgspec.Meta) and (note.extra or {}).get("size") for note in notes)


def _hook(kind: type, value: Any) -> Any:
    if kind is not Secret:
        raise NotImplementedError
    if not isinstance(value, str):
        raise ValueError(f"expected `str`, got {_name(value)}; put it in quotes")
    return Secret(value)


def _fail(path: str, text: str, problems: list[Problem]) -> Any:
    problems.append((path, text))
    return BAD


def _name(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), f"a {type(value).__name__}")


def lines(problems: Iterable[Problem]) -> Iterator[str]:
    """The problems as the user sees them."""
    return (f"{path}: {text}" for path, text in problems)
