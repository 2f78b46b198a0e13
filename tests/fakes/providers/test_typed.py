"""JSON against SDK types: what each kind of annotation refuses, with its path; and the real types of both SDKs read whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Required, Union

import pytest
from anthropic.types import MessageCreateParams
from openai.types.chat.completion_create_params import CompletionCreateParams
from typing_extensions import TypedDict

from tests.fakes.providers.typed import Mismatch, check, either


class Cat(TypedDict, total=False):
    type: Required[Literal["cat"]]
    lives: int


class Dog(TypedDict, total=False):
    type: Required[Literal["dog", "hound"]]
    tricks: Iterable[str]


class OtherDog(TypedDict, total=False):
    type: Required[Literal["dog"]]
    name: Required[str]


class House(TypedDict, total=False):
    pet: Required[Cat | Dog | OtherDog]
    size: float | None
    open: bool
    rooms: dict[str, int]
    named: Mapping[str, object]
    anything: Any
    note: Union[str, bytes]  # noqa: UP007


GOOD: list[dict[str, Any]] = [
    {"pet": {"type": "cat"}}, {"pet": {"type": "hound", "tricks": ["sit"]}, "size": 2, "open": True},
    {"pet": {"type": "dog", "name": "Rex"}},
    {"pet": {"type": "cat", "lives": 9}, "size": None, "rooms": {"a": 1}, "named": {"x": []}, "anything": {"deep": [1]}, "note": "x"},
]  # fmt: skip
BAD: list[tuple[Any, str, str]] = [
    ([], "", "type"), ({}, "pet", "missing"), ({"pet": {"type": "cow"}}, "pet.type", "value"), ({"pet": 3}, "pet", "type"),
    ({"pet": {"type": "cat", "lives": "9"}}, "pet.cat.lives", "type"), ({"pet": {"type": "cat", "lives": True}}, "pet.cat.lives", "type"),
    ({"pet": {"type": "cat", "tail": 1}}, "pet.cat.tail", "extra"), ({"pet": {"type": "dog", "tricks": "sit"}}, "pet.dog.tricks", "type"),
    ({"pet": {"type": "dog", "tricks": [1]}}, "pet.dog.tricks.0", "type"), ({"pet": {"lives": 9}}, "pet.type", "missing"),
    ({"pet": {"type": "cat"}, "size": "2"}, "size", "type"), ({"pet": {"type": "cat"}, "rooms": {"a": "b"}}, "rooms.a", "type"),
    ({"pet": {"type": "cat"}, "rooms": []}, "rooms", "type"), ({"pet": {"type": "cat"}, "note": 1}, "note", "type"),
]  # fmt: skip


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_what_fits(at: int) -> None:
    check(GOOD[at], House)


@pytest.mark.parametrize("at", range(len(BAD)))
def test_what_does_not(at: int) -> None:
    value, where, kind = BAD[at]
    with pytest.raises(Mismatch) as caught:
        check(value, House)
    assert (".".join(caught.value.where), caught.value.kind) == (where, kind)


def test_words() -> None:
    assert [either("a"), either("ab"), either("abc")] == ["'a'", "'a' or 'b'", "'a', 'b' or 'c'"]
    with pytest.raises(TypeError, match="no JSON is told"):
        check(1, bytes)


def test_the_sdks_own_types() -> None:
    check({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, MessageCreateParams)
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    check({"model": "m", "messages": [{"role": "user", "content": parts}], "stream": True}, CompletionCreateParams)
    bad = [parts[0], {"type": "image_url", "image_url": {}}]
    with pytest.raises(Mismatch, match=r"messages\.0\.content\.1\.image_url\.image_url\.url: Field required"):
        check({"model": "m", "messages": [{"role": "user", "content": bad}]}, CompletionCreateParams)
