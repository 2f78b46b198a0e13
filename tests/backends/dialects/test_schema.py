"""JSON Schema made fit for Google's models: what comes out is known to them, whatever goes in; and how each keyword fares."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import wire
from backends.dialects.schema import parameters, subset
from backends.dialects.schema_merge import MAX_DEPTH, MAX_NOTES, join
from backends.dialects.schema_tidy import tidy
from backends.types import Fault

Schema = dict[str, Any]
TEXT: Schema = {"type": "STRING", "description": "(A JSON object, written as a string.)"}


def made(schema: Any) -> Schema:
    return subset(schema, "s")[0]


def notes(schema: Any) -> dict[str, str]:
    return {note.param: note.fate for note in subset(schema, "s")[1]}


def tidied(schema: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(tidy(wire.raw(schema), "s")[0]))


def check(schema: Schema, depth: int = 0) -> None:
    """What Gemini demands of a schema beyond knowing its keywords."""
    if "anyOf" in schema:
        assert schema.keys() == {"anyOf"} and len(schema["anyOf"]) > 1
        for branch in schema["anyOf"]:
            check(branch, 1)
        return
    assert isinstance(schema["type"], str)
    assert schema["type"] != "OBJECT" or schema.get("properties") or not depth
    if schema["type"] == "ARRAY":
        check(schema["items"], 1)
    assert set(schema.get("required", ())) <= schema.get("properties", {}).keys()
    assert schema["type"] == "STRING" or "enum" not in schema
    assert all(isinstance(value, str) and value for value in schema.get("enum", ()))
    for value in schema.get("properties", {}).values():
        check(value, 1)


NAMES = st.sampled_from(["a", "b", "$ref", "type", "anyOf"])
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "array", "object", "null"])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=3), st.floats(-1, 1))
LEAVES = st.one_of(
    st.just({}), st.booleans(), st.fixed_dictionaries({"type": TYPES}), st.fixed_dictionaries({"enum": st.lists(VALUES, max_size=3)}),
    st.fixed_dictionaries({"const": VALUES}), st.fixed_dictionaries({"$ref": st.sampled_from(["#/$defs/A", "#/definitions/B", "#"])}),
)  # fmt: skip


def grown(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(children, min_size=1, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.one_of(TYPES, st.lists(TYPES, min_size=1, max_size=3, unique=True)),
            "properties": st.dictionaries(NAMES, children, max_size=3), "required": st.lists(NAMES, max_size=2),
            "items": st.one_of(children, several), "prefixItems": several, "anyOf": several, "oneOf": several, "allOf": several,
            "enum": st.lists(VALUES, max_size=3), "const": VALUES,
            "$ref": st.sampled_from(["#/$defs/A", "#/definitions/B"]), "minimum": st.integers(0, 3), "exclusiveMaximum": st.integers(0, 3),
            "minLength": st.integers(0, 3), "format": st.sampled_from(["uuid", "date-time", "int32"]), "pattern": st.just("^a"),
            "additionalProperties": children, "not": children, "description": st.text(max_size=5), "default": VALUES,
            "nullable": st.booleans(), "x-mine": VALUES,
        },
    )  # fmt: skip


SCHEMAS = st.recursive(LEAVES, grown, max_leaves=12)


@settings(max_examples=120, deadline=None)
@given(SCHEMAS, SCHEMAS, SCHEMAS)
def test_the_subset_is_always_one(schema: Any, a: Any, b: Any) -> None:
    root = {"$defs": {"A": a}, "definitions": {"B": b}, **(schema if isinstance(schema, dict) else {})}
    try:
        out, _ = subset(root, "s")
    except Fault as fault:
        assert fault.kind == "bad_request" and "parts" in fault.message, fault
        return
    check(out)
    types.Schema.model_validate(out)


@settings(max_examples=120, deadline=None)
@given(SCHEMAS, SCHEMAS)
def test_tidy_leaves_nothing_that_is_refused(schema: Any, a: Any) -> None:
    root = {"$defs": {"A": a, "B": {"type": "string"}}, **(schema if isinstance(schema, dict) else {})}
    try:
        out = tidied(root)
    except Fault as fault:
        assert fault.kind == "bad_request" and "parts" in fault.message, fault
        return
    stack = [out]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            assert not node.keys() & {"allOf", "const", "definitions"} or node is not out
            stack += [v for k, v in node.items() if k in ("items", "not", "additionalProperties")]
            assert "$ref" not in node or all(k[:1] == "$" or k in ("description", "default") for k in node)


def test_types_are_named_and_null_is_a_flag() -> None:
    assert made({"type": "string"}) == {"type": "STRING"}
    assert made({"type": ["string", "null"]}) == {"type": "STRING", "nullable": True}
    assert made({"type": ["null"]}) == {"type": "NULL"} == made({"anyOf": [{"type": "null"}]}) == made({"anyOf": [{"const": None}]})
    assert made({"type": "string", "enum": ["a", None]}) == {"type": "STRING", "enum": ["a"], "nullable": True}
    assert made({"type": ["string", "integer"], "description": "d"}) == {
        "anyOf": [{"type": "STRING", "description": "d"}, {"type": "INTEGER", "description": "d"}]
    }
    either = {"type": ["string", "integer"]}
    assert made({"anyOf": [either, {"type": "null"}]}) == made({"anyOf": [either], "nullable": True})
    assert made({"anyOf": [either, {"type": "null"}]}) == {
        "anyOf": [{"type": "STRING", "nullable": True}, {"type": "INTEGER", "nullable": True}]
    }
    assert made({"type": "string", "nullable": True}) == {"type": "STRING", "nullable": True}


def test_a_node_without_type_gets_one() -> None:
    assert made({"properties": {"a": {"items": {}}}})["properties"]["a"] == {"type": "ARRAY", "items": {"type": "STRING"}}
    assert made({"enum": [1, 2]}) == {"type": "INTEGER", "minimum": 1, "maximum": 2} and notes({"enum": [1, 2]}) == {"s.enum": "clamped"}
    assert made({"enum": ["x"]}) == {"type": "STRING", "enum": ["x"]}
    assert made({}) == made(True) == {"type": "STRING"} and notes({}) == {"s": "mapped"}
    assert made({"type": "array"}) == {"type": "ARRAY", "items": {"type": "STRING"}}


def test_enums_of_what_cannot_be_listed() -> None:
    assert made({"type": "string", "enum": ["", "a", 1]}) == {"type": "STRING", "enum": ["a"]}
    assert notes({"type": "string", "enum": ["", "a"]}) == {"s.enum": "clamped"}
    assert made({"type": "number", "enum": [0.5]}) == {"type": "NUMBER"}
    assert notes({"type": "number", "enum": [0.5]}) == {"s.enum": "dropped"}
    assert made({"type": "string", "enum": [""]}) == {"type": "STRING"}


def test_bounds() -> None:
    assert made({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 9}) == {"type": "INTEGER", "minimum": 1, "maximum": 8}
    assert made({"type": "number", "exclusiveMinimum": 0.5}) == {"type": "NUMBER", "minimum": 0.5}
    assert made({"type": "number", "minimum": 1, "exclusiveMinimum": True}) == {"type": "NUMBER", "minimum": 1}
    assert notes({"type": "number", "minimum": 1, "exclusiveMinimum": True}) == {"s.exclusiveMinimum": "dropped"}


def test_arrays_with_a_schema_for_each_item() -> None:
    both = {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]}
    assert made({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]})["items"] == both
    assert made({"type": "array", "items": [{"type": "string"}, {"type": "integer"}]})["items"] == both
    assert made({"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "integer"}})["items"] == both
    assert made({"type": "array", "prefixItems": [{"type": "string"}], "items": False})["items"] == {"type": "STRING"}


def test_objects_of_unknown_properties_are_asked_for_as_text() -> None:
    schema = {"properties": {"a": {"type": "object", "description": "Any.", "title": "t"}, "b": {"type": "object"}}}
    assert made(schema)["properties"] == {"a": {**TEXT, "description": f"Any. {TEXT['description']}", "title": "t"}, "b": TEXT}
    assert notes(schema) == {"s.properties.a": "emulated", "s.properties.b": "emulated"}


def test_objects() -> None:
    out = made({"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}, "required": ["a", 5, "gone"]})
    assert out["required"] == ["a"] and out["propertyOrdering"] == ["b", "a"]
    ordered = {"type": "object", "properties": {"a": {"type": "string"}}, "propertyOrdering": ["a"], "required": []}
    assert made(ordered)["propertyOrdering"] == ["a"] and "required" not in made(ordered)
    assert made({"type": "object", "additionalProperties": {"type": "string"}}) == {"type": "OBJECT"}
    assert notes({"type": "object", "additionalProperties": {"type": "string"}}) == {"s.additionalProperties": "dropped"}
    assert notes({"type": "object", "additionalProperties": False, "$schema": "x", "title": "t", "maxProperties": 2}) == {}


def test_formats_and_unknown_keywords_are_noted() -> None:
    assert made({"type": "string", "format": "date-time", "minLength": 1}) == {"type": "STRING", "format": "date-time", "minLength": 1}
    assert notes({"type": "string", "format": "uuid", "x-a": 1}) == {"s.format": "dropped", "s.x-a": "dropped"}
    assert len(subset({"type": "string", **{f"x{i}": i for i in range(100)}}, "s")[1]) == MAX_NOTES


def test_alternatives_stand_alone() -> None:
    branches = [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {}}}]
    out = made({"type": "object", "properties": {"id": {"type": "string"}}, "oneOf": branches})
    assert [sorted(branch["properties"]) for branch in out["anyOf"]] == [["a", "id"], ["b", "id"]]
    optional = {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "d"}
    assert made(optional) == {"type": "STRING", "description": "d", "nullable": True}
    assert made({"anyOf": [{"type": "string"}], "nullable": False}) == {"type": "STRING"}
    nested = made({"anyOf": [{"type": ["string", "integer"]}, {"type": "boolean"}, {"type": "null"}], "description": "d"})
    assert [branch["type"] for branch in nested["anyOf"]] == ["STRING", "INTEGER", "BOOLEAN"]
    crossed = made({"anyOf": [{"type": "string"}, {"type": "integer"}], "oneOf": [{"description": "x"}, {"description": "y"}]})
    assert len(crossed["anyOf"]) == 4


def test_references() -> None:
    chain = {"properties": {"next": {"$ref": "#/$defs/N"}, "v": {"type": "string"}}}
    root: Schema = {"$defs": {"a/b": {"type": "string"}, "N": chain}, "properties": {}}
    assert made({**root, "$ref": "#/$defs/a~1b", "description": "d"}) == {"type": "STRING", "description": "d"}
    out = made({**root, "properties": {"n": {"$ref": "#/$defs/N"}}})
    assert out["properties"]["n"]["properties"]["next"]["properties"]["next"] == TEXT
    assert made({"prefixItems": [{"type": "string"}], "items": {"$ref": "#/prefixItems/0"}})["type"] == "ARRAY"
    for ref in ("#/$defs/none", "http://example.com/s", "#A", 5, "#/$defs/N/5", "#/prefixItems/7"):
        with pytest.raises(Fault, match="not in this schema"):
            subset({**root, "prefixItems": [{}], "allOf": [{"$ref": ref}]}, "s")
    with pytest.raises(Fault, match="not in this schema"):
        subset({"$ref": "#/type/x", "type": "string"}, "s")


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        ({"type": "number"}, {"type": "integer"}, {"type": "integer"}),
        ({"type": "integer"}, {"type": "number"}, {"type": "integer"}),
        ({"type": ["string", "null"]}, {"type": ["null", "string", "array"]}, {"type": ["string", "null"]}),
        ({"type": "string"}, {"type": "array"}, {"type": "string"}),
        ({"minimum": 1, "maximum": 5}, {"minimum": 2, "maximum": 9}, {"minimum": 2, "maximum": 5}),
        ({"minimum": 1}, {"minimum": "x"}, {"minimum": 1}),
        ({"enum": [1, 2]}, {"enum": [2, 3]}, {"enum": [2]}),
        ({"enum": [1]}, {"enum": 5}, {"enum": [1]}),
        ({"required": ["a"]}, {"required": ["b", "a"]}, {"required": ["a", "b"]}),
        ({"required": ["a"]}, {"required": 5}, {"required": ["a"]}),
        ({"properties": {"a": {"type": "string"}}}, {"properties": 5}, {"properties": {"a": {"type": "string"}}}),
        ({"anyOf": [{}]}, {"anyOf": 5}, {"anyOf": [{}]}),
        ({"items": {"a": 1}}, {"items": {"a": 2}}, {"items": {"allOf": [{"a": 1}, {"a": 2}]}}),
        ({"title": "a"}, {"title": "b"}, {"title": "a"}),
    ],
)
def test_what_two_schemas_allow(a: Schema, b: Schema, both: Schema) -> None:
    assert join(a, b) == both


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "str"}, "s.type"), ({"allOf": 5}, "s.allOf"), ({"anyOf": []}, "s.anyOf"), ({"anyOf": 5}, "s.anyOf"), (5, "s"),
        ({"properties": {"a": 5}}, "s.properties.a"), ({"anyOf": [{}, 5]}, "s.anyOf[1]"),
    ],
)  # fmt: skip
def test_what_is_no_schema_is_refused_by_its_path(schema: Any, path: str) -> None:
    with pytest.raises(Fault) as refused:
        subset(schema, "s")
    assert refused.value.param == path and path in refused.value.message


def test_size_is_bounded() -> None:
    deep: Schema = {"type": "string"}
    for _ in range(MAX_DEPTH + 1):
        deep = {"type": "array", "items": deep}
    with pytest.raises(Fault, match="levels deep"):
        subset(deep, "s")
    wide = {"$defs": {f"d{i}": {"properties": {n: {"$ref": f"#/$defs/d{i + 1}"} for n in "abcdefgh"}} for i in range(9)} | {"d9": {}}}
    with pytest.raises(Fault, match="parts"):
        subset({**wide, "$ref": "#/$defs/d0"}, "s")


def test_parameters_are_an_object() -> None:
    assert parameters({"type": "object"}, "p") == (None, [])
    text = {"type": "string"}
    out, told = parameters({"anyOf": [{"properties": {n: text, "c": text}, "required": [n, "c"]} for n in "ab"]}, "p")
    assert out is not None and sorted(out["properties"]) == ["a", "b", "c"] and out["required"] == ["c"]
    assert [note.fate for note in told] == ["emulated"]
    assert "required" not in (parameters({"anyOf": [{"properties": {n: {"type": "string"}}} for n in "ab"]}, "p")[0] or {})
    for schema in ({"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "object"}]}):
        with pytest.raises(Fault, match="must be a schema of type object"):
            parameters(schema, "p")


def test_tidy_passes_what_is_tidy_as_it_came() -> None:
    raw = msgspec.Raw(b'{ "type" : "object" }')
    assert tidy(raw, "s") == (raw, [])


def test_tidy() -> None:
    ref = {"$ref": "#/$defs/A"}
    defs = {"$defs": {"A": {"type": "object", "properties": {"x": {"type": "string"}}}, "T": True}}

    def inside(node: Schema) -> Any:
        return tidied({**defs, "properties": {"a": node}})["properties"]["a"]

    assert inside({"allOf": [ref], "title": "t"}) == {"anyOf": [ref], "title": "t"}
    assert inside({"allOf": [ref, {"description": "d"}]}) == {"anyOf": [ref], "description": "d"}
    assert inside({"allOf": [{"description": "d"}]}) == {"description": "d"}
    merged = inside({"allOf": [ref, {"properties": {"y": {"const": 1}}}]})
    assert merged == {"type": "object", "properties": {"x": {"type": "string"}, "y": {"enum": [1]}}}
    assert inside({**ref, "description": "d"}) == {**ref, "description": "d"}
    assert inside({**ref, "title": "t"}) == {"anyOf": [ref], "title": "t"}
    inlined = inside({**ref, "anyOf": [{"title": "t"}, {"title": "u"}]})
    assert inlined["type"] == "object" and len(inlined["anyOf"]) == 2
    assert tidied({**defs, "allOf": [ref, {"required": ["x"]}]})["$defs"] == defs["$defs"]
    assert tidied({"allOf": [{"required": ["x"]}, {"required": ["y"]}]}) == {"required": ["x", "y"]}
    assert tidied({"const": 1, "enum": [1]}) == {"enum": [1]}
    assert tidied({"definitions": {"A": {}}, "items": [{"$ref": "#/definitions/A"}]}) == {"$defs": {"A": {}}, "items": [ref]}
    assert tidied({"definitions": {"A": {}}, "$defs": {"B": {}}})["$defs"] == {"A": {}, "B": {}}
    with pytest.raises(Fault, match="must be a list"):
        tidy(wire.raw({"allOf": 5}), "s")


def test_tidy_follows_no_reference_forever() -> None:
    loop = {"$defs": {"A": {"properties": {"next": {"allOf": [{"$ref": "#/$defs/A"}, {"required": []}]}}}}, "$ref": "#/$defs/A"}
    out, told = tidy(wire.raw(loop), "s")
    assert b"allOf" not in msgspec.json.encode(out) and "clamped" in {note.fate for note in told}
