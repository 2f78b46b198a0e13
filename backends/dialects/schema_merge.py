"""The part of JSON Schema's logic that translators need: references looked up, and schemas that all hold made one. Pure."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, product
from typing import Any

from backends.dialects.types import Fate, Note
from backends.wire import bad, encode

Schema = dict[str, Any]

MAX_DEPTH = 48  # levels of one schema
MAX_NODES = 4096  # once references are inlined
MAX_TWICE = 2  # how often a reference is followed into itself
MAX_NOTES = 32
ANNOTATIONS = frozenset({"title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly", "$comment"})


def split_null(values: Any) -> tuple[list[Any], bool]:
    """The values of an `enum` without null, and whether null was among them."""
    if not isinstance(values, list):
        return [], False
    return [v for v in values if v is not None], None in values


def join(a: Schema, b: Schema) -> Schema:
    """A schema for what both `a` and `b` allow, as far as one can be written; annotations of `a` win. May hold `allOf` further down."""
    out = {**b, **a}
    for key in a.keys() & b.keys():
        if (rule := _RULES.get(key)) is not None and a[key] != b[key]:
            out[key] = rule(a[key], b[key])
    return out


def _types(a: Any, b: Any) -> Any:
    left, right = (x if isinstance(x, list) else [x] for x in (a, b))
    both = [t for t in left if t in right or (t == "integer" and "number" in right)]
    both += [t for t in right if t == "integer" and "number" in left and t not in both]
    return (both[0] if len(both) == 1 else both) or a


def _properties(a: Any, b: Any) -> Any:
    if not isinstance(a, dict) or not isinstance(b, dict):
        return a
    shared = {k: {"allOf": [a[k], b[k]]} for k in a.keys() & b.keys() if a[k] != b[k]}
    return {**b, **a, **shared}


def _lists(a: Any, b: Any) -> Any:
    if not isinstance(a, list) or not isinstance(b, list):
        return a
    known = {encode(x) for x in a}
    return [*a, *(x for x in b if encode(x) not in known)]


def _common(a: Any, b: Any) -> Any:
    if not isinstance(a, list) or not isinstance(b, list):
        return a
    known = {encode(x) for x in b}
    return [x for x in a if encode(x) in known]


def _both(a: Any, b: Any) -> Any:
    return {"allOf": [a, b]} if isinstance(a, dict) and isinstance(b, dict) else a


def _product(a: Any, b: Any) -> Any:
    if not isinstance(a, list) or not isinstance(b, list):
        return a
    return [{"allOf": [x, y]} for x, y in islice(product(a, b), MAX_NODES)]  # as many already fail the count


def _bound(pick: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: pick(a, b) if all(isinstance(x, int | float) for x in (a, b)) else a


_least, _most = _bound(max), _bound(min)
_RULES: dict[str, Callable[[Any, Any], Any]] = {
    "type": _types, "properties": _properties, "required": _lists, "enum": _common, "anyOf": _product, "allOf": _lists,
    "items": _both, "$defs": _properties, "definitions": _properties,
    "minimum": _least, "exclusiveMinimum": _least, "minLength": _least, "minItems": _least, "minProperties": _least,
    "maximum": _most, "exclusiveMaximum": _most, "maxLength": _most, "maxItems": _most, "maxProperties": _most,
}  # fmt: skip


class Merger:
    """One schema being rewritten: the document that references point into, what was noted, and how many nodes were visited."""

    def __init__(self, root: Any, where: str) -> None:
        self.root, self.where = root, where
        self._nodes = 0
        self._notes: dict[str, Note] = {}

    def note(self, param: str, fate: Fate, why: str) -> None:
        """Notes once what became of `param`; at most `MAX_NOTES` are kept."""
        if len(self._notes) < MAX_NOTES:
            self._notes.setdefault(param, Note(param, fate, why))

    def told(self) -> list[Note]:
        """The notes so far."""
        return list(self._notes.values())

    def count(self, path: str, depth: int) -> None:
        """Counts a node; raises `Fault` (bad_request) when there are too many or it lies too deep."""
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise bad(f"The schema '{self.where}' is nested more than {MAX_DEPTH} levels deep.", param=self.where)
        if self._nodes > MAX_NODES:
            raise bad(f"The schema '{self.where}' has more than {MAX_NODES} parts once its references are inlined.", param=self.where)

    def checked(self, node: Any, path: str) -> Schema:
        """`node` as an object; `true` and `false` are schemas too, and neither can be asked for more exactly than by an empty one."""
        if isinstance(node, bool):
            return {}
        if not isinstance(node, dict):
            raise bad(f"'{path}' must be a schema, which is an object.", param=path)
        return node

    def flat(self, node: Schema, path: str, seen: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        """`node` with what its `$ref` and `allOf` say merged into it, `oneOf` as `anyOf` and `const` as `enum`; and the references
        followed. A reference that leads into itself ends as a bare object, with a note."""
        while True:
            node = _plain(node)
            self.count(path, 0)
            if "$ref" in node:
                ref = node["$ref"]
                rest = {k: v for k, v in node.items() if k != "$ref"}
                if seen.count(ref) >= MAX_TWICE:
                    self.note(path, "clamped", "The schema refers to itself: it is followed twice, then any object is allowed")
                    return {"type": "object", **{k: v for k, v in rest.items() if k in ANNOTATIONS}}, seen
                node, seen = join(rest, self._lookup(ref, path)), (*seen, ref)
            elif "allOf" in node:
                parts = node["allOf"]
                if not isinstance(parts, list):
                    raise bad(f"'{path}.allOf' must be a list of schemas.", param=f"{path}.allOf")
                node = {k: v for k, v in node.items() if k != "allOf"}
                led = seen  # each part starts from here; what follows has come through all of them
                for part in parts:
                    one, came = self.flat(self.checked(part, path), path, led)
                    node, seen = join(node, one), (*seen, *came[len(led) :])
            else:
                return node, seen

    def _lookup(self, ref: Any, path: str) -> Schema:
        """What a reference within the document (`#/$defs/Name`) points to."""
        node = self.root
        steps = ref[1:].split("/")[1:] if isinstance(ref, str) and ref[:1] == "#" and ref[1:2] in ("", "/") else None
        for step in steps or ():
            node = _step(node, step.replace("~1", "/").replace("~0", "~"))
        if steps is None or node is None:
            raise bad(f"'{path}.$ref' refers to {str(ref)[:200]!r}, which is not in this schema.", param=f"{path}.$ref")
        return self.checked(node, path)


def _step(node: Any, name: str) -> Any:
    """One step of a reference. `definitions` is what `$defs` was called before; either finds the other."""
    if isinstance(node, list):
        return node[int(name)] if name.isdecimal() and int(name) < len(node) else None
    if not isinstance(node, dict):
        return None
    return node.get(name, node.get({"$defs": "definitions", "definitions": "$defs"}.get(name, name)))


def _plain(node: Schema) -> Schema:
    """`node` with `const` as an `enum` of one and `oneOf` as `anyOf`."""
    if "const" in node:
        value = node["const"]
        node = join({k: v for k, v in node.items() if k != "const"}, {"enum": [value]})
    if "oneOf" in node:
        node = join({k: v for k, v in node.items() if k != "oneOf"}, {"anyOf": node["oneOf"]})
    return node
