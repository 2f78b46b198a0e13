"""The mind itself: the conversation in neutral terms, and each thing that it notices when it is lost."""

from __future__ import annotations

import json

import pytest

from tests.fakes.providers.brain import (
    CONVERSATION,
    SYSTEM,
    WEATHER,
    Answer,
    Call,
    Result,
    Settings,
    Tool,
    Turn,
    answer,
    expect,
    fill,
    plain,
    prompt_tokens,
    with_ids,
)  # fmt: skip
from tests.fakes.providers.media import PDF, Media, dimensions, gif, png, wav


def converse(*, ids: bool, parallel: bool = True) -> list[Answer]:
    """The whole conversation without any wire; without `ids` results are told by name and order."""
    turns: list[Turn] = []
    given: list[Answer] = []
    for step in CONVERSATION:
        settings = Settings(SYSTEM, (WEATHER,) if step.tools else (), parallel=parallel, schema=step.schema, thinking=step.thinking)
        if step.results:
            results = tuple(Result(step.results[call.arguments["city"]], call.id, call.name) for call in turns[-1].calls)
            turns.append(Turn("user", results=results))
        else:
            turns.append(Turn("user", step.text, (step.media,) if step.media else ()))
        said = answer(turns, settings)
        calls = with_ids(said.calls, ["a", "b"]) if ids else said.calls
        turns.append(Turn("assistant", said.text, calls=calls, thinking=said.thinking))
        given.append(said)
        expect(step, said.text, with_ids(said.calls, ["a", "b"]), said.thinking)
    return given


@pytest.mark.parametrize("ids", [True, False])
def test_the_conversation(ids: bool) -> None:
    assert [one.finish for one in converse(ids=ids)] == ["stop", "calls", "stop", "stop", "stop", "stop"]


def test_calls_one_by_one_when_not_parallel() -> None:
    settings = Settings(tools=(WEATHER,), parallel=False)
    turns = [Turn("user", "What is the weather in Paris and in Tokyo?")]
    for place in ("Paris", "Tokyo"):
        calls = answer(turns, settings).calls
        assert calls == (Call("get_weather", {"city": place}),)
        turns += [Turn("assistant", calls=with_ids(calls, [place])), Turn("user", results=(Result(f"fine at {place}", place),))]
    assert answer(turns, settings).text == "Paris: fine at Paris. Tokyo: fine at Tokyo."


def test_what_is_lost_is_noticed() -> None:
    asked = Turn("user", "What is the weather in Paris and in Tokyo?")
    calls = with_ids(answer([asked], Settings(tools=(WEATHER,))).calls, ["1", "2"])
    crossed = Turn("user", results=(Result("sun", "2"), Result("broken", "1", error=True)))
    turns = [asked, Turn("assistant", calls=calls), crossed]
    assert answer(turns, Settings()).text == "Paris: failed (broken). Tokyo: sun."
    forgot = answer([Turn("user", "Which code word did I give you?")], Settings()).text
    assert forgot == "The code word is unknown and the password is unknown."


def test_forced_tools_are_filled_from_their_schema() -> None:
    properties = {"a": {"type": ["integer", "null"]}, "b": {"$ref": "#/$defs/b"}}
    made = Tool("emit", {"type": "object", "properties": properties, "$defs": {"b": {"const": 3}}})
    assert answer([Turn("user", "go")], Settings(tools=(made, WEATHER), force="=emit")).calls == (Call("emit", {"a": 1, "b": 3}),)
    assert answer([Turn("user", "go")], Settings(tools=(made,), force="any")).finish == "calls"
    assert answer([Turn("user", "go")], Settings(tools=(made,))).text == "You said: go"
    assert answer([Turn("user", "in Oslo")], Settings(tools=(WEATHER,), force="none")).calls == ()
    assert answer([Turn("user", "say what you do in Oslo")], Settings(tools=(WEATHER,))).text == "I use a tool."


def test_limits_stops_and_json() -> None:
    turns = [Turn("user", "one two three four")]
    assert answer(turns, Settings(max_tokens=4)) == Answer("You said: one two", "", (), "length")
    assert answer(turns, Settings(stops=("four", " three"))) == Answer("You said: one two", "", (), "stop_sequence", " three")
    short = answer(turns, Settings(thinking=True, max_tokens=3))
    assert (short.text, short.thinking, short.finish) == ("", "The user wrote", "length")
    assert json.loads(answer(turns, Settings(json_only=True)).text) == {"echo": "one two three four"}
    either = {"anyOf": [{"type": "boolean"}, {"type": "null"}]}
    some = {"type": "object", "properties": {"x": either, "y": {"type": "array", "minItems": 2}}}
    assert fill(some) == {"x": True, "y": ["x", "x"]}
    endless = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}
    with pytest.raises(ValueError, match="too deeply"):
        fill(endless | {"$defs": {"a": endless}})


def test_files_are_described_by_their_bytes() -> None:
    jpeg = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x0b\x08\0\x05\0\x07\x01\x01\x11\0"
    webp = b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0/" + (6 | 4 << 14).to_bytes(4, "little") + b"\0" * 8
    assert [dimensions(data) for data in (png(3, 2), gif(4, 5), jpeg, webp, b"\xff\xd8\xff", b"GIF89a\0", PDF)] == [
        (3, 2), (4, 5), (7, 5), (7, 5), None, None, None,
    ]  # fmt: skip
    files = (Media("image/png", png(3, 2)), Media("application/pdf", PDF), Media("audio/wav", wav()), Media("x", b"??"))
    said = answer([Turn("user", media=files)], Settings()).text
    assert said == f"I see a png image of 3 by 2 pixels and a pdf of {len(PDF)} bytes and a wav of 60 bytes and a unknown of 2 bytes."
    result = Turn("user", results=(Result("here", name="f", media=files[:1]),))
    assert answer([Turn("assistant", calls=(Call("f", {}),)), result], Settings()).text == "f: here with a png image of 3 by 2 pixels."


def test_a_beginning_is_continued() -> None:
    asked = Turn("user", "one two three")
    assert answer([asked, Turn("assistant", "You said: one")], Settings()).text == " two three"
    assert answer([asked, Turn("assistant", "Well,")], Settings()).text == "You said: one two three"


def test_counts() -> None:
    asked, called = Turn("user", "a b", (Media("", b""),)), Turn("assistant", calls=(Call("f", {}),))
    turns = [asked, called, Turn("user", results=(Result("x y", "1"),))]
    assert prompt_tokens(turns, Settings("s t", (WEATHER,))) == 2 + 10 + (3 + 2 + 85) + (3 + 1 + 1) + (3 + 1 + 2)
    assert Answer("a b", "c", (Call("f", {}),)).output_tokens == 4
    assert [plain("x"), plain({"result": {"output": "y"}}), plain({"a": 1, "b": 2})] == ["x", "y", '{"a": 1, "b": 2}']
