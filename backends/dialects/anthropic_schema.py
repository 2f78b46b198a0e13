"""A JSON Schema as Anthropic's structured output takes it: closed objects, and no bounds. Pure.

Sources: `transform_schema` of the official SDK (what it moves to the description) and the documentation's "JSON Schema limitations";
wire trap 38. A bound is told to the model in the description instead; it is not enforced.
"""

from __future__ import annotations

from typing import Any

from backends import wire

MAX_DEPTH = 64
_BOUNDS = {
    "integer": ("minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"),
    "number": ("minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"),
    "string": ("minLength", "maxLength"),
    "array": ("maxItems", "uniqueItems", "contains", "prefixItems"),
    "object": ("minProperties", "maxProperties", "patternProperties"),
}
_NAMED = frozenset({"properties", "$defs", "definitions"})  # name → schema
_VALUES = frozenset({"enum", "const", "default", "examples", "required", "description", "title"})  # no schemas inside


class Fitter:
    """Fits one schema. `changes` are the keywords that were changed, for a note. Raises `Fault` (bad_request) for one too deep."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.changes: set[str] = set()

    def fit(self, schema: Any, depth: int = 0) -> Any:
        """A copy of `schema` that Anthropic takes."""
        if depth > MAX_DEPTH:
            raise wire.bad(f"'{self.where}' is nested deeper than {MAX_DEPTH} levels.", param=self.where)
        if isinstance(schema, list):
            return [self.fit(one, depth + 1) for one in schema]
        if not isinstance(schema, dict):
            return schema
        kind = schema.get("type")
        bounds = {key: schema[key] for key in _BOUNDS.get(kind if isinstance(kind, str) else "", ()) if key in schema}
        if kind == "array" and schema.get("minItems", 0) not in (0, 1):
            bounds["minItems"] = schema["minItems"]
        out = {key: self._inner(key, value, depth) for key, value in schema.items() if key not in bounds}
        if kind == "object" and schema.get("additionalProperties") is not False:
            out["additionalProperties"] = False
            self.changes.add("additionalProperties")
        if bounds:
            self.changes.update(bounds)
            told = f"Must hold: {wire.encode(bounds).decode()}"
            out["description"] = f"{schema['description']} {told}" if schema.get("description") else told
        return out

    def _inner(self, key: str, value: Any, depth: int) -> Any:
        if key in _VALUES:
            return value
        if key in _NAMED and isinstance(value, dict):
            return {name: self.fit(one, depth + 1) for name, one in value.items()}
        return self.fit(value, depth + 1)
