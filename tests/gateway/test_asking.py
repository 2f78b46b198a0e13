"""What a policy is told of a call: estimates that nothing can break."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import wire
from backends.native import SurfaceCall
from backends.types import Call
from gateway.asking import IMAGE, asked, estimate
from gateway.auth import Tenant
from routing.policies import Asked

TENANT = Tenant("ann")


def call(doc: Any, api: str = "chat", headers: dict[bytes, bytes] | None = None, tenant: str = "ann") -> Call:
    return Call(b"1", api, "m", False, wire.parse(json.dumps(doc).encode()), tenant, headers or {}, 0.0)


def of(doc: Any, api: str = "chat", headers: dict[bytes, bytes] | None = None, **more: Any) -> Asked:
    return asked(call(doc, api, headers), TENANT, **{"output": 100.0, "minute": 7} | more)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_length_is_about_a_quarter_of_the_bytes() -> None:
    assert of({"messages": [user("x" * 4000)]}).prompt == pytest.approx(1000, rel=0.02)
    assert of({"messages": [user("x" * 400)], "tools": [{"function": {"name": "y" * 4000}}]}).prompt == pytest.approx(1120, rel=0.03)
    assert of({"prompt": "x" * 4000}, "completions").prompt == 1000
    assert of({"messages": []}, prompt=77).prompt == 77, "who has counted knows better"


def test_media_are_not_counted_by_their_bytes() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    found = of({"messages": [user([image, image, {"type": "text", "text": "x" * 400}])]})
    assert found.prompt == pytest.approx(2 * IMAGE + 170, abs=30) and found.needs == {"images"}
    assert estimate([]) == 0


@pytest.mark.parametrize(
    ("doc", "needs"),
    [
        ({"messages": []}, set()),
        ({"messages": [], "tools": [], "functions": None}, set()),
        ({"messages": [], "tools": [{}]}, {"tools"}),
        ({"messages": [], "response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        ({"messages": [], "response_format": {"type": "text"}}, set()),
        ({"messages": [user([{"type": "input_audio"}])]}, {"audio"}),
        ({"messages": [user([{"type": "image", "source": {}}])]}, {"images"}),
        ({"input": [user([{"type": "input_image"}, {"type": "input_file"}])]}, {"images", "documents"}),
        ({"messages": [user('no "image_url" here')]}, {"images"}),
    ],
)
def test_needs(doc: Any, needs: set[str]) -> None:
    assert of(doc).needs == needs


def test_output_is_the_mean_or_what_is_allowed() -> None:
    assert of({"messages": []}).output == 100
    assert of({"messages": [], "max_tokens": 30}).output == 30 and of({"input": "", "max_output_tokens": 0}).output == 1
    assert of({"messages": [], "max_tokens": 3000}).output == 100 and of({"messages": [], "max_tokens": "x"}).output == 100
    assert of({"input": ["a"]}, "embeddings").output == 0


def test_headers_keys_and_privacy() -> None:
    found = asked(
        call({}, headers={b"x-tier": b"gold", b"x-b": b"1"}), Tenant("ann", private=True), output=1.0, minute=5, headers=["x-tier", "x-c"]
    )
    assert (found.headers, found.key, found.private, found.minute, found.session) == ({"x-tier": "gold"}, "ann", True, 5, "")


def session(doc: Any, headers: dict[bytes, bytes] | None = None, tenant: str = "ann") -> str:
    return asked(call(doc, "chat", headers, tenant), Tenant(tenant), output=1.0, minute=0, session="x-pointsman-session").session


def test_sessions() -> None:
    system = {"role": "system", "content": "you are"}
    first = {"messages": [system, user("hello")]}
    later = {"messages": [system, user("hello"), {"role": "assistant", "content": "hi"}, user("more")]}
    assert session(first) == session(later) != session({"messages": [system, user("other")]})
    assert session(first) != session(first, tenant="bob"), "nobody's session is another's"
    assert session({"messages": [], "user": "u"}) == session({"messages": [user("x")], "user": "u"})
    assert session(first | {"prompt_cache_key": "k", "user": "u"}) == session({"messages": [], "prompt_cache_key": "k"})
    header = {b"x-pointsman-session": b"s"}
    assert session(first, header) == session({"messages": []}, header) != session(first)
    assert session({"input": "plain"}) and not session({"model": "m"}) and not session({"messages": "["[:0] or []})
    assert session({"messages": [1, 2]}) == ""


def test_a_surface_s_own_document_is_what_counts() -> None:
    raw = {"system": msgspec.Raw(json.dumps("x" * 4000).encode())}
    made = SurfaceCall(b"1", "chat", "m", False, {"model": msgspec.Raw(b'"m"')}, "ann", {}, 0.0, surface="messages", raw=raw)
    assert asked(made, TENANT, output=1.0, minute=0).prompt == 1000


FIELDS = st.sampled_from(["messages", "input", "tools", "prompt", "max_tokens", "user", "response_format"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=8
)


@given(st.dictionaries(FIELDS, ANYTHING))
def test_nothing_breaks_it(doc: dict[str, Any]) -> None:
    found = of(doc, session="x-s")
    assert found.prompt >= 0 and found.output >= 1
