"""JSON Schema for the endpoints of Google that take JSON Schema itself: references may stay, but stand alone. Pure.

Source: `responseJsonSchema` in Google's reference (its list of keywords has `$ref`, `$defs`, `anyOf`, `oneOf`, `enum`, but neither
`allOf` nor `const` nor `definitions`; beside `$ref` only keys that start with `$`); wire trap 10: description and default may stay.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.dialects.schema_merge import ANNOTATIONS, Merger, Schema
from backends.dialects.types import Note

_MARKS = (b'"$ref"', b'"allOf"', b'"const"', b'"definitions"')
_ONE = frozenset({"items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else", "unevaluatedProperties"})
_MANY = frozenset({"anyOf", "oneOf", "prefixItems", "items"})
_NAMED = frozenset({"properties", "$defs", "patternProperties", "dependentSchemas"})
_BESIDE_REF = frozenset({"description", "default"})
_any = msgspec.json.Decoder()


def tidy(raw: msgspec.Raw, where: str) -> tuple[Any, list[Note]]:
    """The schema in `raw` (JSON), as it came when nothing in it needs changed. Raises `Fault` (bad_request) like `schema.subset`."""
    text = bytes(raw)
    if not any(mark in text for mark in _MARKS):
        return raw, []
    root = _any.decode(text)
    walk = _Tidy(root, where)
    return walk.walk(root, where, 0, ()), walk.told()


class _Tidy(Merger):
    def walk(self, node: Any, path: str, depth: int, seen: tuple[str, ...]) -> Any:
        self.count(path, depth)
        if not isinstance(node, dict):
            return node
        node, seen = self._node(node, path, seen)
        out: Schema = {}
        for key, value in node.items():
            if key in _NAMED and isinstance(value, dict):
                out[key] = {name: self.walk(v, f"{path}.{key}.{name}", depth + 1, seen) for name, v in value.items()}
            elif key in _MANY and isinstance(value, list):
                out[key] = [self.walk(v, f"{path}.{key}[{i}]", depth + 1, seen) for i, v in enumerate(value)]
            elif key in _ONE:
                out[key] = self.walk(value, f"{path}.{key}", depth + 1, seen)
            else:
                out[key] = value
        return out

    def _node(self, node: Schema, path: str, seen: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        """One node without `const`, `definitions`, `allOf`, or anything that must not stand beside `$ref`."""
        node = dict(node)
        if "const" in node:
            node.setdefault("enum", [node["const"]])
            del node["const"]
        if isinstance(old := node.pop("definitions", None), dict):
            node["$defs"] = {**old, **node.get("$defs", {})}
        node = self._lifted(node)
        if "allOf" in node:
            self.note(f"{path}.allOf", "mapped", "Gemini has no allOf: its parts were merged")
            defs = node.get("$defs")
            node, seen = self.flat(node, path, seen)
            node = {k: v for k, v in node.items() if k not in ("$defs", "definitions")} | ({"$defs": defs} if defs else {})
        if isinstance(ref := node.get("$ref"), str):
            node["$ref"] = ref.replace("#/definitions/", "#/$defs/", 1)
            if any(k[:1] != "$" and k not in _BESIDE_REF for k in node):
                return self._apart(node, path, seen)
        return node, seen

    def _lifted(self, node: Schema) -> Schema:
        """`allOf` of one part that says something (pydantic's way to describe a reference) as `anyOf` of that one."""
        parts = node.get("allOf")
        if not isinstance(parts, list) or "anyOf" in node or not all(isinstance(p, dict) for p in parts):
            return node
        some = [p for p in parts if not p.keys() <= ANNOTATIONS]
        if len(some) > 1:
            return node
        said = {k: v for p in parts if p.keys() <= ANNOTATIONS for k, v in p.items()}
        return {**said, **{k: v for k, v in node.items() if k != "allOf"}, **({"anyOf": some} if some else {})}

    def _apart(self, node: Schema, path: str, seen: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        """`$ref` and what stood beside it, each where it may stand."""
        if "anyOf" in node:
            self.note(f"{path}.$ref", "mapped", "Gemini takes nothing beside $ref: it was inlined")
            return self.flat(node, path, seen)
        rest = {k: v for k, v in node.items() if k != "$ref"}
        return {**rest, "anyOf": [{"$ref": node["$ref"]}]}, seen
