"""Whether an asked-for JSON schema is one, and one that the mind can answer by. Pure."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

from tests.fakes.providers import brain


def is_schema(schema: Any) -> bool:
    return jsonschema_rs.meta.is_valid(schema)


def unanswerable(schema: dict[str, Any]) -> str | None:
    """Why the mind has no value for a schema: a reference to nothing, a contradiction, or words that `brain.fill` does not know."""
    try:
        jsonschema_rs.validator_for(schema).validate(brain.fill(schema))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"no value can be made of this schema ({type(error).__name__} at {str(error)[:80]!r})."
    return None
