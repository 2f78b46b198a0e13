"""`probed: FILE` of a backend or a target: what `pointsman probe --write` found, laid under what the configuration says itself.

Works on the tree before it is decoded, so that everything after it sees `facts` and `unsupported` only. Blocks for the files named.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.config_decode import ConfigError, Problem, join, read_yaml

_TOLD = frozenset({"backend", "kind", "model", "facts", "unsupported", "checks"})  # what such a file has


def fold(tree: Any, folder: Path | None, problems: list[Problem]) -> Any:
    """`tree` with the files that it names laid under its `facts` and `unsupported`. Mutates it; adds to `problems` what is wrong."""
    for path, entry in _entries(tree):
        name = entry.get("probed")
        if isinstance(name, str):
            _lay(join(path, "probed"), entry, name, folder, problems)
    return tree


def _entries(tree: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every backend and every target, with its path."""
    tree = tree if isinstance(tree, dict) else {}
    for path, entry in _children("$.backends", tree.get("backends")):
        yield path, entry
    arms = [
        arm for path, one in _children("$.experiments", tree.get("experiments")) for arm in _children(join(path, "arms"), one.get("arms"))
    ]
    for path, route in (*_children("$.routes", tree.get("routes")), *arms):
        targets = route.get("targets")
        for index, target in enumerate(targets if isinstance(targets, list) else ()):
            if isinstance(target, dict):
                yield join(join(path, "targets"), index), target


def _children(path: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, entry in value.items() if isinstance(value, dict) else ():
        if isinstance(entry, dict):
            yield join(path, str(name)), entry


def _lay(path: str, entry: dict[str, Any], name: str, folder: Path | None, problems: list[Problem]) -> None:
    file = (folder or Path()) / Path(name).expanduser()
    try:
        told = read_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(
            (path, f"cannot read {file}: {error.strerror or 'unknown reason'}; `pointsman probe BACKEND --write FILE` writes it")
        )
        return
    except (UnicodeDecodeError, ConfigError) as error:
        why = error.problems[0] if isinstance(error, ConfigError) else "it is not UTF-8 text"
        problems.append((path, f"cannot read {file}: {why}"))
        return
    facts, unsupported = (told.get("facts"), told.get("unsupported")) if isinstance(told, dict) and told.keys() <= _TOLD else (None, None)
    if not isinstance(facts, dict) or not isinstance(unsupported, list):
        problems.append((path, f"{file} was not written by `pointsman probe BACKEND --write FILE`; it needs `facts` and `unsupported`"))
        return
    _under(entry, facts, unsupported)


def _under(entry: dict[str, Any], facts: dict[str, Any], unsupported: list[Any]) -> None:
    """What is said in the configuration wins. Something there that has no such form stays as it is: decoding will say so."""
    own, left_out = entry.get("facts"), entry.get("unsupported")
    if own is None or isinstance(own, dict):
        entry["facts"] = {**facts, **(own or {})}
    if left_out is None or isinstance(left_out, list):
        entry["unsupported"] = [*(left_out or ()), *(name for name in unsupported if name not in (left_out or ()))]
