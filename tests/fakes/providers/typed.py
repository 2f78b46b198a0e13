"""JSON checked strictly against the request types of an official Python SDK (`TypedDict`s, unions, literals). Pure.

The SDKs describe what may be sent; their servers refuse the rest with a path. So does `check`: unknown keys, missing keys, wrong JSON
types and values outside a `Literal` each raise `Mismatch`. Unions of objects are told apart by `type` or `role`, as the servers do.
Members that stand for no JSON (open files, response models) are left out of unions.
"""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin

import typing_extensions

Kind = Literal["missing", "extra", "type", "value"]
PLAIN: Mapping[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a valid string"),
    int: ((int,), "a valid integer"),
    float: ((int, float), "a valid number"),
    bool: ((bool,), "a valid boolean"),
    type(None): ((type(None),), "null"),
}
WRAPPERS: tuple[Any, ...] = (typing.Required, typing_extensions.Required, typing.NotRequired, typing_extensions.NotRequired)
LISTS = (list, collections.abc.Iterable, collections.abc.Sequence)
TAGS = ("type", "role")


class Mismatch(Exception):
    """`where` is a dotted path with the tags of unions in it (`messages.0.content.1.image.source`); empty at the top."""

    def __init__(self, where: tuple[str, ...], kind: Kind, what: str) -> None:
        super().__init__(f"{'.'.join(where)}: {what}")
        self.where, self.kind, self.what = where, kind, what


def check(value: Any, wanted: Any, where: tuple[str, ...] = ()) -> None:
    """Raises Mismatch for the first thing in `value` (decoded JSON) that the annotation `wanted` does not allow."""
    wanted = bare(wanted)
    origin = get_origin(wanted)
    if wanted is Any or wanted is object:
        return
    if wanted in PLAIN:
        _plain(value, wanted, where)
    elif typing_extensions.is_typeddict(wanted):
        _object(value, wanted, where)
    elif origin in (Union, types.UnionType):
        _union(value, wanted, where)
    elif origin in (Literal, typing_extensions.Literal):
        if not any(value is one or (type(value) is type(one) and value == one) for one in get_args(wanted)):
            raise Mismatch(where, "value", f"Input should be {either(get_args(wanted))}")
    elif origin in LISTS or getattr(origin, "__name__", "") == "SequenceNotStr":
        _list(value, get_args(wanted)[0], where)
    elif origin in (dict, collections.abc.Mapping):
        _mapping(value, get_args(wanted)[1], where)
    else:
        raise TypeError(f"no JSON is told by {wanted!r} at {'.'.join(where)}")


def bare(wanted: Any) -> Any:
    """The annotation without Required, NotRequired and Annotated."""
    while get_origin(wanted) in WRAPPERS or hasattr(wanted, "__metadata__"):
        wanted = get_args(wanted)[0]
    return wanted


def either(values: Iterable[Any]) -> str:
    """`'a', 'b' or 'c'`."""
    names = [repr(value) for value in values]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _plain(value: Any, wanted: Any, where: tuple[str, ...]) -> None:
    kinds, name = PLAIN[wanted]
    if not isinstance(value, kinds) or (isinstance(value, bool) and wanted is not bool):
        raise Mismatch(where, "type", f"Input should be {name}")


@lru_cache(maxsize=1024)
def fields(wanted: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The members of a TypedDict and those that must be there. The SDKs make everything optional that is not marked Required."""
    hints = typing_extensions.get_type_hints(wanted, include_extras=True)
    return hints, frozenset(name for name, hint in hints.items() if get_origin(hint) in WRAPPERS[:2])


def _object(value: Any, wanted: Any, where: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise Mismatch(where, "type", "Input should be an object")
    hints, required = fields(wanted)
    open_ended = getattr(wanted, "__pydantic_config__", {}).get("extra") == "allow"
    for name in sorted(required - value.keys()):
        raise Mismatch((*where, name), "missing", "Field required")
    for name, inner in value.items():
        if name in hints:
            check(inner, hints[name], (*where, name))
        elif not open_ended:
            raise Mismatch((*where, name), "extra", "Extra inputs are not permitted")


def _list(value: Any, item: Any, where: tuple[str, ...]) -> None:
    if not isinstance(value, list):
        raise Mismatch(where, "type", "Input should be a valid list")
    for at, one in enumerate(value):
        check(one, item, (*where, str(at)))


def _mapping(value: Any, item: Any, where: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise Mismatch(where, "type", "Input should be a valid dictionary")
    for name, one in value.items():
        check(one, item, (*where, name))


def members(wanted: Any) -> list[Any]:
    """The members of a union, nested ones too, that stand for JSON."""
    found: list[Any] = []
    for one in map(bare, get_args(wanted)):
        if get_origin(one) in (Union, types.UnionType):
            found += members(one)
        elif one in PLAIN or one in (Any, object) or typing_extensions.is_typeddict(one) or _generic(one):
            found.append(one)
    return found


def _generic(wanted: Any) -> bool:
    origin = get_origin(wanted)
    return origin in (Literal, *LISTS, dict, collections.abc.Mapping) or getattr(origin, "__name__", "") == "SequenceNotStr"


@lru_cache(maxsize=1024)
def tags(wanted: Any, tag: str) -> tuple[Any, ...]:
    """What a TypedDict allows under its tag; empty when it has none."""
    hint = bare(fields(wanted)[0].get(tag, str))
    choices = members(hint) if get_origin(hint) in (Union, types.UnionType) else [hint]
    return tuple(value for choice in choices if get_origin(choice) is Literal for value in get_args(choice))


def _union(value: Any, wanted: Any, where: tuple[str, ...]) -> None:
    choices = members(wanted)
    if isinstance(value, dict):
        objects = [one for one in choices if typing_extensions.is_typeddict(one)]
        for tag in TAGS:
            if objects and sum(bool(tags(one, tag)) for one in objects) == len(objects) > 1 and tag in value:
                _tagged(value, objects, tag, where)
                return
    problems: list[Mismatch] = []
    for one in choices:
        try:
            check(value, one, where)
            return
        except Mismatch as problem:
            problems.append(problem)
    raise max(problems, key=lambda problem: len(problem.where))


def _tagged(value: dict[str, Any], objects: list[Any], tag: str, where: tuple[str, ...]) -> None:
    said = value[tag]
    fitting = [one for one in objects if said in tags(one, tag)]
    if not fitting:
        raise Mismatch((*where, tag), "value", f"Input should be {either(sorted({name for one in objects for name in tags(one, tag)}))}")
    inner = (*where, said) if tag == "type" else where
    problems: list[Mismatch] = []
    for one in fitting:
        try:
            check(value, one, inner)
            return
        except Mismatch as problem:
            problems.append(problem)
    raise max(problems, key=lambda problem: len(problem.where))
