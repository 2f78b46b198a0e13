"""What `pointsman providers` prints: the catalogue as a table, one row of it with the lines to paste, or either as JSON. Pure.

The environment is only asked whether a variable is set; no value of one is shown.
"""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from backends.catalog import Row, Setting, find, rows

_WIDTH = 100
_OWN = {"aws": "AWS credentials", "google": "Google credentials", "none": "-"}


class UnknownProvider(LookupError):
    """There is no such row; its text says what there is."""


def show(name: str | None, env: Mapping[str, str], *, as_json: bool = False) -> str:
    """The text of `pointsman providers [NAME] [--json]`. Raises UnknownProvider."""
    if name is None:
        if as_json:
            return json.dumps([_plain(row, env) for row in rows()], indent=2) + "\n"
        return _table(env)
    row = find(name)
    if row is None:
        near = difflib.get_close_matches(name, [row.name for row in rows()], n=1, cutoff=0.6)
        hint = f" Did you mean `{near[0]}`?" if near else " `pointsman providers` lists them."
        raise UnknownProvider(f"there is no provider `{name}`.{hint}")
    return json.dumps(_plain(row, env), indent=2) + "\n" if as_json else _one(row, env)


def _table(env: Mapping[str, str]) -> str:
    """One line a provider: its name, what it speaks, its key and whether that is set, its base URL."""
    cells = [("NAME", "SPEAKS", "KEY", "BASE URL")]
    cells += [(row.name, ", ".join(row.speaks[:4]) + (", …" if len(row.speaks) > 4 else ""), _key(row, env), _url(row)) for row in rows()]
    widths = [max(len(cell[column]) for cell in cells) for column in range(3)]
    lines = ["  ".join([*(cell[i].ljust(widths[i]) for i in range(3)), cell[3]]).rstrip() for cell in cells]
    return "\n".join([*lines, "", "pointsman providers NAME shows one, with the lines to paste into the configuration.", ""])


def _set(row: Row, env: Mapping[str, str]) -> str | None:
    """The variable that the key would be taken from, or None."""
    return next((name for name in row.key if env.get(name)), None)


def _key(row: Row, env: Mapping[str, str]) -> str:
    if (found := _set(row, env)) is not None:
        return f"{found} (set)"
    if row.auth == "key":
        return f"{row.key[0]} (not set)"
    return _OWN[row.auth]


def _url(row: Row) -> str:
    return row.url.replace("{host}", "…aiplatform.googleapis.com").replace("{url}", "") or "(yours)"


def _one(row: Row, env: Mapping[str, str]) -> str:
    facts = [("speaks", ", ".join(row.speaks)), ("base URL", _url(row)), ("key", _keys(row, env)), ("documentation", row.docs)]
    facts += [("setting", _setting(row, setting, env)) for setting in row.settings]
    facts += [("difference", f"{entry.quirk}: {entry.source}") for entry in row.differences]
    facts += [("not supported", f"{', '.join(entry.params)}: {entry.source}") for entry in row.unsupported]
    width = max(len(name) for name, _ in facts)
    lines = [f"{row.name} - {row.title}", ""]
    last = ""
    for name, value in facts:
        wrapped = textwrap.wrap(value, _WIDTH - width - 4, break_long_words=False, break_on_hyphens=False) or [""]
        lines.append(f"  {'' if name == last else name:{width}}  {wrapped[0]}")
        lines += [f"  {'':{width}}  {line}" for line in wrapped[1:]]
        last = name
    return "\n".join([*lines, "", "Add it to the configuration:", "", textwrap.indent(paste(row, env), "  "), ""])


def _keys(row: Row, env: Mapping[str, str]) -> str:
    words = [f"{name} ({'set' if env.get(name) else 'not set'})" for name in row.key]
    if row.auth in ("aws", "google"):
        words.append({"aws": "the credentials that the AWS SDK finds", "google": "Google's application-default credentials"}[row.auth])
    return ", or ".join(words) or "none needed"


def _setting(row: Row, setting: Setting, env: Mapping[str, str]) -> str:
    words = [f"{name} ({'set' if env.get(name) else 'not set'})" for name in setting.variables]
    if setting.default:
        words.append(f"default {setting.default}")
    elif not setting.required:
        words.append("may be left out")
    return f"{setting.name}: {', or '.join(words) or f'as in {setting.example}'}"


def paste(row: Row, env: Mapping[str, str]) -> str:
    """The lines of YAML that add a row: what the environment has is left out, what it lacks is written as an example."""
    fields = [f"kind: {row.name}"]
    for setting in row.settings:
        if setting.required and not setting.default and not any(env.get(name) for name in setting.variables):
            fields.append(f"{setting.name}: {setting.example}")
    if row.auth == "key" and _set(row, env) is None:
        fields.append(f'key: "${{{row.key[0]}}}"')
    if row.lists:
        return f"backends:\n  {row.name}: {{{', '.join([*fields, 'discover: true'])}}}\n"
    targets = f"routes:\n  MODEL: {{targets: [{{backend: {row.name}, model: MODEL}}]}}\n"
    return f"backends:\n  {row.name}: {{{', '.join(fields)}}}\n{targets}"


def _plain(row: Row, env: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": row.name, "title": row.title, "url": row.url or None, "speaks": list(row.speaks), "carrier": row.carrier, "auth": row.auth,
        "key_variables": list(row.key), "key_set": _set(row, env) is not None, "docs": row.docs, "lists_models": row.lists,
        "local": row.local,
        "settings": [
            {"name": s.name, "variables": list(s.variables), "default": s.default or None, "required": s.required} for s in row.settings
        ],
        "differences": [{"quirk": entry.quirk, "source": entry.source} for entry in row.differences],
        "unsupported": [{"params": list(entry.params), "source": entry.source} for entry in row.unsupported],
    }  # fmt: skip
