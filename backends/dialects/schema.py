"""JSON Schema → what Google's models take of it. Pure.

`subset` makes the OpenAPI `Schema` of `functionDeclarations[].parameters` and `responseSchema`: no `$ref`, no `allOf`, no keyword that
the server does not know (it refuses those by name), string enums only. `tidy` is for the newer `parametersJsonSchema` and
`responseJsonSchema`, which take references but nothing beside them, and no `allOf` or `const`.
Source: `Schema` and `process_schema` of the `google-genai` SDK; wire traps 9 and 10.

Everything is bounded: how deep a schema goes, how many nodes it has once references are inlined, how often one is followed into itself.
"""

from __future__ import annotations

from typing import Any

from backends.dialects.schema_merge import ANNOTATIONS, Merger, Schema, join, split_null
from backends.dialects.types import Note
from backends.wire import bad

_TYPES = {name: name.upper() for name in ("string", "number", "integer", "boolean", "array", "object", "null")}
_FORMATS = {"STRING": {"date-time", "enum"}, "NUMBER": {"float", "double"}, "INTEGER": {"int32", "int64"}}
_COMMON = frozenset({"title", "description", "default", "example"})
_KEPT = {
    "STRING": frozenset({"pattern", "minLength", "maxLength"}),
    "NUMBER": frozenset({"minimum", "maximum"}),
    "INTEGER": frozenset({"minimum", "maximum"}),
    "ARRAY": frozenset({"minItems", "maxItems"}),
    "OBJECT": frozenset({"minProperties", "maxProperties"}),
}
# What is read in its own way below, or says nothing about values. `additionalProperties` is here because a constrained decoder
# writes no undeclared property anyway; only a schema for them is a loss.
_READ = frozenset({
    "type", "nullable", "enum", "format", "items", "prefixItems", "properties", "required", "propertyOrdering", "exclusiveMinimum",
    "exclusiveMaximum", "additionalProperties", "examples", "$schema", "$id", "$comment", "$anchor", "$defs", "definitions", "readOnly",
    "writeOnly", "deprecated", "strict",
})  # fmt: skip


def subset(schema: Any, where: str) -> tuple[Schema, list[Note]]:
    """`schema` (decoded JSON) as Gemini's `Schema`, and a note for each keyword that was changed or left out. `where` is its path in
    the client's document. Mutates nothing. Raises `Fault` (bad_request) for what is no schema, too large, or refers to nothing."""
    walk = _Subset(schema, where)
    return walk.convert(schema, where, 0, ()), walk.told()


def parameters(schema: Any, where: str) -> tuple[Schema | None, list[Note]]:
    """`subset` of a function's parameters: always an object; None when it has no properties (Gemini refuses an empty object there)."""
    out, notes = subset(schema, where)
    if "anyOf" in out:
        notes.append(Note(where, "emulated", "Gemini wants an object here: the properties of all alternatives were joined"))
        out = _joined(out["anyOf"])
    if out.get("type") != "OBJECT":
        raise bad(f"'{where}' must be a schema of type object.", param=where)
    return (out if out.get("properties") else None), notes


def _joined(branches: list[Schema]) -> Schema:
    """One object that has the properties of all and requires what all require."""
    objects = [b for b in branches if b.get("type") == "OBJECT"]
    properties = {name: value for b in reversed(objects) for name, value in b.get("properties", {}).items()}
    required = [name for name in properties if all(name in b.get("required", ()) for b in objects)]
    out: Schema = {"type": "OBJECT" if len(objects) == len(branches) else "", "properties": properties}
    return out | ({"required": required} if required else {})


class _Subset(Merger):
    """One schema on its way to the subset: the document that references point into, what was noted, and how many nodes were made."""

    def convert(self, node: Any, path: str, depth: int, seen: tuple[str, ...]) -> Schema:
        """`node` as a `Schema`. `seen` are the references that led here."""
        self.count(path, depth)
        flat, seen = self.flat(self.checked(node, path), path, seen)
        if "anyOf" in flat:
            return self._alternatives(flat, flat["anyOf"], path, depth, seen)
        named = flat.get("type")
        types = [t for t in (named if isinstance(named, list) else [named]) if isinstance(t, str)]
        nullable = flat.get("nullable") is True or (len(types) > 1 and "null" in types)
        if len(types) > 1:
            types = [t for t in types if t != "null"]
        if len(types) > 1:
            rest = {k: v for k, v in flat.items() if k != "type"}
            return self._alternatives(rest, [{"type": t} for t in types], path, depth, seen)
        values, null_value = split_null(flat.get("enum"))
        kind = _TYPES.get(types[0]) if types else self._guess(flat, values, path)
        if kind is None:
            raise bad(f"'{path}.type' is '{types[0]}', which JSON Schema has not.", param=f"{path}.type")
        out = self._single(flat, kind, values, path, depth, seen)
        return out | {"nullable": True} if nullable or null_value else out

    def _guess(self, node: Schema, values: list[Any], path: str) -> str:
        """The type of a node that names none: Gemini demands one."""
        if "properties" in node or "required" in node:
            return "OBJECT"
        if "items" in node or "prefixItems" in node:
            return "ARRAY"
        if values and all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            return "INTEGER"
        if not values:
            self.note(path, "mapped", "Gemini wants a type: a value of any type is asked for as a string")
        return "STRING"

    def _alternatives(self, node: Schema, branches: Any, path: str, depth: int, seen: tuple[str, ...]) -> Schema:
        """`anyOf` stands alone in Gemini's schema: what stood beside it goes into each branch, null becomes `nullable`."""
        if not isinstance(branches, list) or not branches:
            raise bad(f"'{path}.anyOf' must be a list of schemas.", param=f"{path}.anyOf")
        rest = {k: v for k, v in node.items() if k != "anyOf"}
        some = [b for b in branches if not _null(b)]
        nullable = len(some) < len(branches) or rest.pop("nullable", None) is True
        if not some:
            return {"type": "NULL"}
        if len(some) == 1:
            out = self.convert(join(rest, self.checked(some[0], path)), path, depth + 1, seen)
            return _or_null(out) if nullable else out
        base = {k: v for k, v in rest.items() if k not in ANNOTATIONS}
        made = [
            self.convert(join(self.checked(b, f"{path}.anyOf[{i}]"), base), f"{path}.anyOf[{i}]", depth + 1, seen)
            for i, b in enumerate(some)
        ]
        if "description" in rest:
            made = [b if "anyOf" in b else {"description": rest["description"], **b} for b in made]
        if nullable:
            made = [_or_null(b) for b in made]
        return {"anyOf": [inner for b in made for inner in b.get("anyOf", (b,))]}

    def _single(self, node: Schema, kind: str, values: list[Any], path: str, depth: int, seen: tuple[str, ...]) -> Schema:
        out: Schema = {"type": kind}
        kept = _COMMON | _KEPT.get(kind, frozenset())
        for key, value in node.items():
            if key in kept:
                out[key] = value
            elif key not in _READ:
                self.note(f"{path}.{key}", "dropped", "Gemini's schemas have no such keyword here")
        self._format(out, node.get("format"), kind, path)
        self._enum(out, values, kind, path)
        if kind in ("INTEGER", "NUMBER"):
            self._exclusive(out, node, kind, path)
        elif kind == "ARRAY":
            self._items(out, node, path, depth, seen)
        elif kind == "OBJECT":
            self._properties(out, node, path, depth, seen)
        return out

    def _format(self, out: Schema, form: Any, kind: str, path: str) -> None:
        if form in _FORMATS.get(kind, ()):
            out["format"] = form
        elif form is not None:
            self.note(f"{path}.format", "dropped", "Gemini knows few formats, and not this one")

    def _enum(self, out: Schema, values: list[Any], kind: str, path: str) -> None:
        """Values are strings, none empty; of integers only the range can be said."""
        if not values:
            return
        where = f"{path}.enum"
        if kind == "INTEGER" and all(isinstance(v, int) for v in values):
            out |= {"minimum": min(values), "maximum": max(values)}
            self.note(where, "clamped", "Gemini takes a list of strings only: sent as the range of the values")
        elif kind == "STRING" and (texts := [v for v in values if isinstance(v, str) and v]):
            out["enum"] = texts
            if len(texts) < len(values):
                self.note(where, "clamped", "Gemini takes strings that are not empty: other values were left out")
        else:
            self.note(where, "dropped", "Gemini takes a list of strings only")

    def _exclusive(self, out: Schema, node: Schema, kind: str, path: str) -> None:
        for key, bound, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
            value = node.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or bound in out:
                self.note(f"{path}.{key}", "dropped", "Gemini has inclusive bounds only")
                continue
            out[bound] = value + step if kind == "INTEGER" and isinstance(value, int) else value
            self.note(f"{path}.{key}", "mapped", f"Gemini has inclusive bounds only: sent as {bound}")

    def _items(self, out: Schema, node: Schema, path: str, depth: int, seen: tuple[str, ...]) -> None:
        items, first = node.get("items"), node.get("prefixItems")
        if isinstance(items, list):  # how drafts before 2020-12 wrote prefixItems
            items, first = None, items
        if isinstance(first, list) and first:
            self.note(f"{path}.prefixItems", "mapped", "Gemini has one schema for all items: any of those given")
            branches = [*first, items] if isinstance(items, dict) else first
            items = branches[0] if len(branches) == 1 else {"anyOf": branches}
        out["items"] = self.convert(items if isinstance(items, dict) else {"type": "string"}, f"{path}.items", depth + 1, seen)

    def _properties(self, out: Schema, node: Schema, path: str, depth: int, seen: tuple[str, ...]) -> None:
        if isinstance(node.get("additionalProperties"), dict):
            self.note(f"{path}.additionalProperties", "dropped", "Gemini's schemas have no such keyword here")
        properties = node.get("properties")
        if not isinstance(properties, dict) or not properties:
            if depth:
                self._free(out, path)
            return
        made = {name: self.convert(value, f"{path}.properties.{name}", depth + 1, seen) for name, value in properties.items()}
        out["properties"] = made
        required = node.get("required")
        if isinstance(required, list) and (names := [name for name in required if isinstance(name, str) and name in made]):
            out["required"] = names
        order = node.get("propertyOrdering")
        if isinstance(order, list) or len(made) > 1:  # older models write them in alphabetical order otherwise
            out["propertyOrdering"] = order if isinstance(order, list) else list(made)

    def _free(self, out: Schema, path: str) -> None:
        """An object of no known properties, which is refused: its JSON as text. Changes `out`."""
        self.note(path, "emulated", "Gemini takes no object without properties: asked for as JSON in a string")
        told = [out["description"]] if isinstance(out.get("description"), str) else []
        description = " ".join([*told, "(A JSON object, written as a string.)"])
        title = {"title": out["title"]} if "title" in out else {}
        out.clear()
        out |= {"type": "STRING", "description": description, **title}


def _null(branch: Any) -> bool:
    if not isinstance(branch, dict):
        return False
    return branch.get("type") in ("null", ["null"]) or branch.get("enum") == [None] or branch.get("const", 0) is None


def _or_null(made: Schema) -> Schema:
    """The same with null allowed: each branch says so, since nothing may stand beside `anyOf`."""
    if "anyOf" in made:
        return {"anyOf": [_or_null(branch) for branch in made["anyOf"]]}
    return made | {"nullable": True}
