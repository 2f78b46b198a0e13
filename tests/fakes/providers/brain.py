"""The mind behind every scripted provider: one neutral conversation engine, deterministic and pure.

A fake reads its provider's request into `Turn`s and `Settings`, asks `answer`, and writes the `Answer` in its own format. What the
mind says depends on what really arrived, so a client sees at once when a turn, a tool result or an image was lost on the way:

- it asks tools about every place in the last question ("in Paris and in Tokyo"), both at once where parallel calls are allowed,
- it answers tool results with all of them by place, in the order of the calls,
- it describes images and files by their real bytes,
- structured output is made of the facts that tools gave earlier, and checked against the schema asked for,
- it remembers the code word (first user turn) and the password (system prompt),
- anything else it echoes.

`CONVERSATION` is the six-turn conversation as data; `expect` compares one answer of any client with its step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jsonschema_rs

from tests.fakes.providers.media import Media, png

Finish = Literal["stop", "stop_sequence", "length", "calls"]
Doc = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A tool call. The mind leaves `id` empty: each provider names calls in its own way."""

    name: str
    arguments: Doc
    id: str = ""


@dataclass(frozen=True)
class Result:
    """What a tool gave back. `name` or `id` may be empty where a provider's format has none; one of them must be there."""

    text: str
    id: str = ""
    name: str = ""
    error: bool = False
    media: tuple[Media, ...] = ()


@dataclass(frozen=True)
class Turn:
    """One turn of the history, oldest first. Neighbours of one role may be separate turns."""

    role: Literal["user", "assistant"]
    text: str = ""
    media: tuple[Media, ...] = ()
    calls: tuple[Call, ...] = ()
    results: tuple[Result, ...] = ()
    thinking: str = ""


@dataclass(frozen=True)
class Tool:
    name: str
    schema: Doc = field(default_factory=lambda: {"type": "object", "properties": {}})
    description: str = ""


@dataclass(frozen=True)
class Settings:
    """What was asked beside the turns. `force`: auto, none, any, or `=name` for one tool. `max_tokens` counts thinking too."""

    system: str = ""
    tools: tuple[Tool, ...] = ()
    force: str = "auto"
    parallel: bool = True
    schema: Doc | None = None
    json_only: bool = False  # JSON is wanted, of no given schema
    thinking: bool = False
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the model says. `stop` is the sequence that ended it. Token counts are of `tokens`."""

    text: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    finish: Finish = "stop"
    stop: str | None = None

    @property
    def thinking_tokens(self) -> int:
        return len(tokens(self.thinking))

    @property
    def output_tokens(self) -> int:
        """Tokens of the text and the calls, without thinking."""
        return len(tokens(self.text)) + sum(1 + len(tokens(json.dumps(call.arguments))) for call in self.calls)


def tokens(text: str) -> list[str]:
    """The tokens of this model: words, each with the space before it. Joined they are the text again."""
    parts = text.split(" ")
    return [parts[0], *(" " + part for part in parts[1:])] if text else []


def prompt_tokens(turns: Iterable[Turn], settings: Settings) -> int:
    """Tokens of the input: every word, 3 a turn, 85 a file, 10 a tool."""
    count = len(tokens(settings.system)) + 10 * len(settings.tools)
    for turn in turns:
        count += 3 + len(tokens(turn.text)) + len(tokens(turn.thinking)) + 85 * len(turn.media)
        count += sum(1 + len(tokens(json.dumps(call.arguments))) for call in turn.calls)
        count += sum(1 + len(tokens(result.text)) for result in turn.results)
    return count


def plain(value: object) -> str:
    """A tool's output as text, however it was wrapped: an object with a single value (`{"result": …}`) stands for that value."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and len(value) == 1:
        return plain(next(iter(value.values())))
    return json.dumps(value, ensure_ascii=False)


def answer(turns: Sequence[Turn], settings: Settings) -> Answer:
    """The next turn of the model. `turns` must end with a user's turn, or with an assistant's beginning, which is then continued:
    an answer begun by this mind goes on to exactly the whole answer."""
    last = turns[-1]
    if last.role == "assistant" and len(turns) > 1:
        whole = answer(turns[:-1], settings)
        return replace(whole, text=whole.text.removeprefix(last.text))
    thinking = "" if not settings.thinking or last.results else f"The user wrote {len(tokens(last.text))} words. I answer step by step."
    calls = () if settings.force == "none" else _calls(turns, settings)
    if calls:
        text = "I use a tool." if "say what you do" in last.text else ""
        return Answer(text, thinking, calls, "calls")
    return _limited(_text(turns, settings), thinking, settings)


def _limited(text: str, thinking: str, settings: Settings) -> Answer:
    found = [(text.find(stop), stop) for stop in settings.stops if stop in text]
    stop: str | None = None
    if found:
        at, stop = min(found)
        text = text[:at]
    words, thought = tokens(text), tokens(thinking)
    limit = settings.max_tokens
    if limit is not None and len(thought) + len(words) > limit:
        thought = thought[:limit]
        return Answer("".join(words[: limit - len(thought)]), "".join(thought), (), "length")
    return Answer(text, thinking, (), "stop_sequence" if stop is not None else "stop", stop)


# Tools.


def _places(text: str) -> list[str]:
    return re.findall(r"\bin ([A-Z]\w+)", text)


def _calls(turns: Sequence[Turn], settings: Settings) -> tuple[Call, ...]:
    tools = [tool for tool in settings.tools if settings.force in ("auto", "any", "=" + tool.name)]
    if not tools:
        return ()
    asker = next((tool for tool in tools if "city" in tool.schema.get("properties", {})), None)
    question, called = _asked(turns)
    if asker is not None:
        wanted = tuple(Call(asker.name, {"city": place}) for place in question if place not in called)
        if wanted:
            return wanted if settings.parallel else wanted[:1]
    if settings.force == "auto":
        return ()
    return (Call(tools[0].name, fill(tools[0].schema, facts(turns))),)


def _asked(turns: Sequence[Turn]) -> tuple[list[str], set[str]]:
    """The places of the last question, and those that tools were asked about since."""
    called: set[str] = set()
    for turn in reversed(turns):
        if turn.role == "user" and turn.text:
            return _places(turn.text), called
        called |= {str(call.arguments.get("city")) for call in turn.calls}
    return [], called


def answered(turns: Sequence[Turn]) -> list[tuple[Call, Result]]:
    """Every call with its result, in the order of the calls. By id where there are ids, else by name and position."""
    found: list[tuple[Call, Result]] = []
    for at, turn in enumerate(turns):
        if not turn.calls:
            continue
        results = [result for later in _results_after(turns, at) for result in later.results]
        for call in turn.calls:
            same = [r for r in results if (r.id == call.id if r.id and call.id else r.name == call.name)]
            if same:
                results.remove(same[0])
                found.append((call, same[0]))
    return found


def _results_after(turns: Sequence[Turn], at: int) -> Iterable[Turn]:
    for turn in turns[at + 1 :]:
        if turn.role == "assistant":
            return
        yield turn


def facts(turns: Sequence[Turn]) -> list[Doc]:
    """What tools said of places: `{"name": "Paris", "degrees": 14, "sky": "rain"}`."""
    rows = []
    for call, result in answered(turns):
        match = re.search(r"(-?\d+) degrees and (\w+)", result.text)
        if match and "city" in call.arguments:
            rows.append({"name": call.arguments["city"], "degrees": int(match[1]), "sky": match[2]})
    return rows


# Text.


def _text(turns: Sequence[Turn], settings: Settings) -> str:
    if settings.schema is not None:
        value = fill(settings.schema, facts(turns))
        jsonschema_rs.validator_for(settings.schema).validate(value)
        return json.dumps(value)
    if settings.json_only:
        return json.dumps({"echo": turns[-1].text})
    last = turns[-1]
    if last.results:
        return _report(turns)
    if last.media:
        return f"I see {' and '.join(item.describe() for item in last.media)}."
    if "code word did I" in last.text:
        return _memory(turns, settings)
    if match := re.search(r"code word is (\w+)", last.text):
        return f"I keep it: {match[1]}."
    return "You said: " + last.text


def _report(turns: Sequence[Turn]) -> str:
    """All results since the last question. A failed one says so; one with files describes them."""
    start = max((at for at, turn in enumerate(turns) if turn.role == "user" and turn.text and not turn.results), default=0)
    parts = []
    for call, result in answered(turns[start:]):
        said = f"failed ({result.text})" if result.error else result.text
        seen = "".join(f" with {item.describe()}" for item in result.media)
        parts.append(f"{call.arguments.get('city', call.name)}: {said}{seen}.")
    return " ".join(parts)


def _memory(turns: Sequence[Turn], settings: Settings) -> str:
    words = [match[1] for turn in turns if turn.role == "user" and (match := re.search(r"code word is (\w+)", turn.text))]
    password = re.search(r"password is (\w+)", settings.system)
    return f"The code word is {words[0] if words else 'unknown'} and the password is {password[1] if password else 'unknown'}."


# Structured values.


def fill(schema: Doc, rows: Sequence[Doc] = ()) -> Any:
    """A value of a JSON schema: `rows` where an array asks for exactly their kind, else the smallest value of it.
    Knows types, enums, const, required properties, `$ref` into `$defs` and the first of anyOf."""
    return _fill(schema, schema, rows, 0)


def _fill(schema: Doc, root: Doc, rows: Sequence[Doc], depth: int) -> Any:
    if depth > 32:
        raise ValueError("the schema nests too deeply")
    schema = _resolved(schema, root)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties: Doc = schema.get("properties", {})
        return {name: _fill(properties.get(name, {"type": "string"}), root, rows, depth + 1) for name in schema.get("required", properties)}
    if kind == "array":
        return _array(schema, root, rows, depth)
    simple: Doc = {"string": "x", "integer": schema.get("minimum", 1), "number": schema.get("minimum", 0.5), "boolean": True, "null": None}
    return simple[kind]


def _resolved(schema: Doc, root: Doc) -> Doc:
    if "$ref" in schema:
        return _resolved(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    return _resolved(schema["anyOf"][0], root) if "anyOf" in schema else schema


def _array(schema: Doc, root: Doc, rows: Sequence[Doc], depth: int) -> list[Any]:
    items = _resolved(schema.get("items", {"type": "string"}), root)
    if rows and set(items.get("required", ())) == set(rows[0]):
        return [dict(row) for row in rows]
    return [_fill(items, root, rows, depth + 1) for _ in range(schema.get("minItems", 0))]


# The conversation.

SYSTEM = "You are a careful assistant. The password is heron."
WEATHER = Tool(
    "get_weather",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "Name of the city"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "The weather in a city now.",
)
REPORT: Doc = {
    "type": "object",
    "properties": {
        "cities": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "degrees": {"type": "integer"},
                    "sky": {"type": "string", "enum": ["sun", "rain", "snow"]},
                },
                "required": ["name", "degrees", "sky"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["cities"],
    "additionalProperties": False,
}
PICTURE = Media("image/png", png(3, 2))


@dataclass(frozen=True)
class Step:
    """One request of the conversation: what the client adds to the history and asks for, and exactly what must come back.

    `results` (by the call's `city`) are sent instead of a text, one for every call of the answer before. `tools`: WEATHER is offered.
    `said` is the whole text of the answer; `value` its JSON instead, where `schema` was asked for.
    """

    name: str
    text: str = ""
    media: Media | None = None
    results: Mapping[str, str] = field(default_factory=dict)
    tools: bool = True
    thinking: bool = False
    schema: Doc | None = None
    said: str = ""
    value: Any = None
    calls: tuple[Call, ...] = ()


CONVERSATION: tuple[Step, ...] = (
    Step("question", "The code word is albatross. Keep it for later.", tools=False, said="I keep it: albatross."),
    Step(
        "calls", "What is the weather in Paris and in Tokyo?", thinking=True,
        calls=(Call("get_weather", {"city": "Paris"}), Call("get_weather", {"city": "Tokyo"})),
    ),
    Step(
        "results", results={"Paris": "14 degrees and rain", "Tokyo": "21 degrees and sun"}, thinking=True,
        said="Paris: 14 degrees and rain. Tokyo: 21 degrees and sun.",
    ),
    Step("image", "What do you see here?", PICTURE, said="I see a png image of 3 by 2 pixels."),
    Step(
        "structured", "Give me what the tools said, as JSON.", tools=False, schema=REPORT,
        value={"cities": [{"name": "Paris", "degrees": 14, "sky": "rain"}, {"name": "Tokyo", "degrees": 21, "sky": "sun"}]},
    ),
    Step(
        "memory", "Which code word did I give you, and which password were you told?", thinking=True,
        said="The code word is albatross and the password is heron.",
    ),
)  # fmt: skip


def expect(step: Step, text: str | None, calls: Sequence[Call] = (), thinking: str | None = None) -> None:
    """Asserts that a client got what the step promises. `calls` in order, their ids free but distinct. Pass `thinking` only where
    the client's format shows it: then it must be there exactly when the step asked for it and the mind thinks (not after results)."""
    assert [(call.name, call.arguments) for call in calls] == [(call.name, call.arguments) for call in step.calls], (step.name, calls)
    assert len({call.id for call in calls}) == len(calls), (step.name, calls)
    if step.schema is not None:
        assert json.loads(text or "") == step.value, (step.name, text)
    else:
        assert (text or "") == step.said, (step.name, text)
    if thinking is not None:
        assert bool(thinking) == (step.thinking and not step.results), (step.name, thinking)


def with_ids(calls: Iterable[Call], ids: Iterable[str]) -> tuple[Call, ...]:
    """The calls under a provider's ids."""
    return tuple(replace(call, id=name) for call, name in zip(calls, ids, strict=False))
