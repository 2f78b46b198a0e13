"""One line adds a provider: `groq: {kind: groq}` becomes its URL and its key, from the catalogue and the environment.

Works on the tree as YAML gave it, after variables are expanded and before it is decoded, so what it fills in is checked like anything
that was written. What was written is never changed. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from backends.catalog import Row, Setting, find
from gateway.config_decode import Problem, join

_AUTHORISED = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key"})
_SHAPES = {
    "project": r"[A-Za-z0-9][A-Za-z0-9.:_-]*", "location": r"[a-z0-9-]+", "region": r"[a-z0-9-]+",
    "deployment": r"[A-Za-z0-9][A-Za-z0-9._-]*", "api_version": r"[A-Za-z0-9.-]+", "url": r".+",
}  # fmt: skip


def fill(tree: Any, env: Mapping[str, str], problems: list[Problem]) -> Any:
    """`tree` with the URLs, settings and keys of backends whose `kind` has them. Adds to `problems` what is missing or cannot be."""
    if not isinstance(tree, dict) or not isinstance(tree.get("backends"), dict):
        return tree
    backends = {name: _backend(join("$.backends", name), entry, env, problems) for name, entry in tree["backends"].items()}
    return {**tree, "backends": backends}


def _backend(path: str, entry: Any, env: Mapping[str, str], problems: list[Problem]) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str) or entry.get("engine"):
        return entry
    row = find(entry["kind"])
    if row is None or not row.url:
        return entry
    out = dict(entry)
    bare = not entry.get("url") and not entry.get("urls")  # its address is ours to fill in
    found = _settings(path, row, out, env, problems, bare)
    if found is None:
        return out
    if bare:
        out["url"] = row.base(found)
    if "key" not in entry and _trusted(row, out, bare):
        _key(path, row, out, env, problems)
    return out


def _settings(
    path: str, row: Row, out: dict[str, Any], env: Mapping[str, str], problems: list[Problem], bare: bool
) -> dict[str, str] | None:
    """The settings of a row's URL by name, also put into `out`; None when one is missing or is not what it should be."""
    found: dict[str, str] = {}
    good = True
    for setting in row.settings:
        if setting.name == "url" and not bare:
            continue
        value = _value(setting, out.get(setting.name), env)
        if value is None:
            if setting.required and bare:
                problems.append((path, _missing(row, setting)))
                good = False
        elif not isinstance(value, str):
            good = False  # decoding will say what it is
        elif not re.fullmatch(_SHAPES[setting.name], value):
            good = False
            example = f", as in {setting.example}" if setting.example else ""
            problems.append((join(path, setting.name), f"is not a name that can stand in the URL of `kind: {row.name}`{example}"))
        else:
            out[setting.name] = found[setting.name] = value
    return found if good else None


def _value(setting: Setting, written: Any, env: Mapping[str, str]) -> Any:
    """What is written, else the first variable that is set, else the default; None when there is none of them."""
    if written is None:
        return next((env[name] for name in setting.variables if env.get(name)), setting.default or None)
    if isinstance(written, int | date) and not isinstance(written, bool):
        return str(written)  # YAML reads an endpoint's number and an API's version as what they look like
    return written


def _missing(row: Row, setting: Setting) -> str:
    written = f"`{setting.name}: {setting.example}`" if setting.example else f"`{setting.name}`"
    variable = f", or set {setting.variables[0]}" if setting.variables else ""
    return f"`kind: {row.name}` needs `{setting.name}`: write {written}{variable}"


def _trusted(row: Row, out: Mapping[str, Any], bare: bool) -> bool:
    """Whether the provider's own key may go where this backend's calls go: never to an address that somebody else may hold."""
    if bare and "{url}" not in row.url:
        return True
    urls = out.get("urls") or [out.get("url")]
    return isinstance(urls, list) and all(isinstance(url, str) and row.owns(url) for url in urls)


def _key(path: str, row: Row, out: dict[str, Any], env: Mapping[str, str], problems: list[Problem]) -> None:
    key = next((env[name] for name in row.key if env.get(name)), None)
    if key is not None:
        out["key"] = key
        return
    headers = out.get("headers")
    sent = {str(name).lower() for name in headers} if isinstance(headers, dict) else set()
    if row.auth == "key" and _AUTHORISED.isdisjoint(sent):
        problems.append((path, f"`kind: {row.name}` needs a key: set {row.key[0]}, or write `key: ${{SOME_VARIABLE}}`"))
