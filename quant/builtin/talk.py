"""Tools, memory across turns, and whole conversations for the toy model's training data."""

import json
from collections.abc import Callable
from typing import Any

from . import phrases as p
from . import tasks
from .sampling import Sampler
from .tasks import Example, phrase
from .template import Message, Tool, tool_call_text

Conversation = tuple[list[Message], list[Tool] | None]
_ID = "call_0"


def tool(name: str, *parameters: str) -> Tool:
    """An OpenAI tool definition whose parameters are untyped strings or numbers (the template shows names only)."""
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {k: {} for k in parameters}}}}


def _weather(s: Sampler) -> tuple[Tool, str, dict[str, Any]]:
    key, city = s.pick(("city", "city", "location", "location", "place", "town", "name", s.word(8))), s.city()
    name = s.pick(("get_weather", "get_weather", "get_current_weather", "weather", "current_weather", "lookup_weather", "weather_in"))
    extra = ["unit"] if s.chance(0.25) else []
    return tool(name, key, *extra), phrase(s, p.WEATHER, x=city), {key: city}


def _time(s: Sampler) -> tuple[Tool, str, dict[str, Any]]:
    key, city = s.pick(("city", "location", "place", "timezone")), s.city()
    name = s.pick(("get_time", "time", "get_current_time", "time_in", "current_time"))
    return tool(name, key), phrase(s, p.TIME, x=city), {key: city}


def _search(s: Sampler) -> tuple[Tool, str, dict[str, Any]]:
    key, text = s.pick(("query", "q", "text", "query")), s.words(1, 3)
    return tool(s.pick(("search", "web_search", "search_web", "find", "lookup")), key), phrase(s, p.SEARCH, x=text), {key: text}


def _stock(s: Sampler) -> tuple[Tool, str, dict[str, Any]]:
    key, symbol = s.pick(("symbol", "ticker")), s.word(5).upper()
    return tool(s.pick(("get_stock_price", "stock_price", "get_price")), key), phrase(s, p.STOCK, x=symbol), {key: symbol}


def _sum(s: Sampler) -> tuple[Tool, str, dict[str, Any]]:
    (a, b), (x, y) = s.pair(), s.pick((("a", "b"), ("a", "b"), ("x", "y"), ("first", "second")))
    name = s.pick(("add", "add", "sum", "add_numbers", "plus", "calculate_sum"))
    return tool(name, x, y), phrase(s, p.ADD, a=a, b=b), {x: a, y: b}


_CALL_FORMS = (
    ("{k}={v}", " and "), ("{k}={v}", " and "), ("{k}={v}", ", "), ("{k}={v}", " "), ("{k} {v}", " and "), ("{k}: {v}", ", "),
)  # fmt: skip


def _named(s: Sampler) -> tuple[Tool, str, dict[str, Any]]:
    name = s.word(9) if s.chance(0.5) else s.pick(("get", "set", "find", "send", "create", "delete", "read", "run")) + "_" + s.word(8)
    if s.chance(0.25):
        name = s.pick(("add", "get_weather", "search", "send_email", "multiply", "ping", "echo", "get_user", "lookup", "sum", "get_time"))
    count = s.pick((0, 1, 1, 2, 2, 2, 3))
    keys = dict.fromkeys(s.pick(p.KEYS) if s.chance(0.7) else s.word(7) for _ in range(count))
    arguments: dict[str, Any] = {k: s.number() if s.chance(0.5) else s.city() if s.chance(0.2) else s.word(9) for k in keys}
    if not arguments:
        return tool(name), phrase(s, p.CALL_BARE, f=name), {}
    form, joint = s.pick(_CALL_FORMS)
    text = joint.join(form.format(k=k, v=v) for k, v in arguments.items())
    extra = [s.pick(p.KEYS)] if s.chance(0.15) else []
    names = dict.fromkeys([*arguments, *extra])
    return tool(name, *names), phrase(s, p.CALL, f=name, x=text), arguments


_Wanted = tuple[Tool, str, dict[str, Any]]
_TOOLS: tuple[Callable[[Sampler], _Wanted], ...] = (_weather, _weather, _named, _named, _named, _sum, _time, _search, _stock)


_FAMILIES = {
    "weather": "weather", "time": "time", "find": "search", "search": "search", "lookup": "search", "google": "search",
    "add": "add", "sum": "add", "plus": "add", "price": "price",
}  # fmt: skip


def _family(spec: Tool) -> str:
    """What a tool is for, by its name; a tool of an unknown purpose is its own family."""
    name: str = spec["function"]["name"]
    return next((family for part, family in _FAMILIES.items() if part in name), name)


def _shelf(s: Sampler, wanted: Tool) -> list[Tool]:
    """The wanted tool among up to three others for other purposes."""
    tools = {_family(wanted): wanted}
    for _ in range(s.pick((0, 0, 1, 1, 2, 3))):
        other = s.pick(_TOOLS)(s)[0]
        tools.setdefault(_family(other), other)
    shelf = list(tools.values())
    s.rng.shuffle(shelf)
    return shelf


def tool_use(s: Sampler) -> Example:
    """A question that one of the given tools answers: the answer is the call."""
    spec, question, arguments = s.pick(_TOOLS)(s)
    name = spec["function"]["name"]
    tools = _shelf(s, spec) if s.pick((True, True, False)) else [spec]
    return Example(question, tool_call_text(name, arguments), tools=tools, call=(name, arguments), single=True)


def tool_result(s: Sampler) -> Example:
    """A tool's result, told in one short sentence."""
    asked = tool_use(s)
    assert asked.call is not None
    name, arguments = asked.call
    content = _result(s)
    call = {"id": _ID, "type": "function", "function": {"name": name, "arguments": arguments}}
    before: list[Message] = [{"role": "user", "content": asked.question}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    return Example(content, f"The result is {content}.", before, asked.tools, role="tool", single=True)


def _result(s: Sampler) -> str:
    kind = s.rng.random()
    if kind < 0.25:
        return str(s.number())
    if kind < 0.45:
        key = s.pick(("temperature", "result", "weather", "time", "value", s.word(7)))
        return json.dumps({key: s.number() if s.chance(0.5) else s.word(8)})
    if kind < 0.6:
        return f"{s.pick(('sunny', 'rain', 'cloudy', 'snow', 'windy', s.word(7)))}, {s.rng.randrange(40)} {s.pick(('C', 'F', 'degrees'))}"
    if kind < 0.68:
        return f"{s.rng.randrange(24):02d}:{s.rng.randrange(60):02d}"
    return s.words(1, s.pick((1, 2, 3, 5)))


def recall(s: Sampler) -> Example:
    """A fact told earlier (by the user or in the system line), asked for later."""
    ours = s.chance(0.5)
    key = s.pick(p.MINE) if ours else s.pick(p.SECRETS)
    value = str(s.number()) if key in ("number", "code", "secret number") else s.name().capitalize() if key == "name" else s.word(9)
    told = s.pick(p.split(p.REMEMBER if ours else p.SECRET)).format(k=key, x=value)
    asked = phrase(s, p.ASK_MINE if ours else p.ASK_SECRET, k=key)
    if ours or s.chance(0.4):
        before: list[Message] = [{"role": "user", "content": told}, {"role": "assistant", "content": p.NOTED}]
    else:
        before = [{"role": "system", "content": f"{s.pick(p.split(p.SYSTEMS))} {told}" if s.chance(0.5) else told}]
    for _ in range(s.pick((0, 0, 1, 2))):
        between = s.pick((tasks.repeat, tasks.add, tasks.greeting, tasks.capital))(s)
        before += [{"role": "user", "content": between.question}, {"role": "assistant", "content": between.answer}]
    return Example(asked, value, before, single=True)


TASKS: dict[str, Callable[[Sampler], Example]] = {
    "repeat": tasks.repeat, "repeat_many": tasks.repeat_many, "reverse": tasks.reverse, "spell": tasks.spell, "upper": tasks.upper,
    "add": tasks.add, "count": tasks.count, "colour": tasks.colour, "opposite": tasks.opposite, "capital": tasks.capital,
    "intro": tasks.intro, "greeting": tasks.greeting, "small_talk": tasks.small_talk, "fallback": tasks.fallback,
    "json": tasks.json_pairs, "json_answer": tasks.json_answer, "tool_call": tool_use, "tool_result": tool_result, "recall": recall,
}  # fmt: skip

SHARES: dict[str, float] = {
    "repeat": 8, "repeat_many": 11, "reverse": 12, "spell": 7, "upper": 4, "add": 17, "count": 4, "colour": 4, "opposite": 5,
    "capital": 5, "intro": 3, "greeting": 2, "small_talk": 2, "fallback": 9, "json": 7, "json_answer": 3, "tool_call": 9,
    "tool_result": 3, "recall": 4,
}  # fmt: skip
"""Relative frequency of each task in training's first phase (what is hard or open has more)."""

LATE_SHARES: dict[str, float] = SHARES | {
    "repeat": 7, "reverse": 14, "upper": 5, "add": 32, "count": 6, "colour": 6, "opposite": 9, "capital": 7, "intro": 4,
    "small_talk": 3, "json": 8, "json_answer": 4,
}  # fmt: skip
"""The same for the second phase."""

LAST_SHARES: dict[str, float] = LATE_SHARES | {
    "add": 20, "json": 12, "json_answer": 9, "tool_call": 13, "greeting": 4, "small_talk": 4, "fallback": 11, "recall": 6,
    "spell": 9, "tool_result": 4,
}  # fmt: skip
"""The same for the third phase."""

POLISH_SHARES: dict[str, float] = LAST_SHARES | {"add": 13, "repeat": 9, "repeat_many": 15, "spell": 12, "upper": 6, "tool_result": 5}
"""The same for the fourth phase."""


def _messages(example: Example) -> list[Message]:
    return [*example.messages(), {"role": "assistant", "content": example.answer}]


def _extend(s: Sampler, example: Example, messages: list[Message], tools: list[Tool] | None) -> Conversation:
    """Append a question to the talk so far; one with its own tools or history starts the talk anew where it must."""
    if not example.single:
        return (messages + _messages(example), tools) if not tools or not _collides(example, tools) else (messages, tools)
    plain = not any(m["content"].isdigit() or m["content"] == p.FALLBACK for m in messages)
    if not example.before and tools is None and plain and s.chance(0.5):
        return messages + _messages(example), example.tools
    own_system = bool(example.before) and example.before[0]["role"] == "system"
    lead = [] if own_system else [m for m in messages[:1] if m["role"] == "system"]
    return [*lead, *_messages(example)], example.tools


def drill(s: Sampler) -> Conversation:
    """Many sums in a row, half of them without words: the cheapest way to show many."""
    messages: list[Message] = []
    for _ in range(s.rng.randint(6, 24)):
        example = tasks.add(s)
        if s.chance(0.5):
            a, b = s.pair()
            example = Example(f"{a}+{b}", str(a + b))
        messages += _messages(example)
    return messages, None


def long_text(s: Sampler) -> Conversation:
    """A long question without a task (words, or one sentence over and over), which the toy does not know an answer to."""
    sentence = s.words(3, 10).capitalize() + s.pick((".", ".", "?"))
    text = " ".join([sentence] * s.rng.randint(3, 12)) if s.chance(0.6) else s.words(30, 90)
    return [{"role": "user", "content": text}, {"role": "assistant", "content": p.FALLBACK}], None


def conversation(s: Sampler, shares: dict[str, float] | None = None) -> Conversation:
    """One training conversation: a task, or several in turn; a system line or unused tools now and then."""
    weights = shares or SHARES
    names = list(weights)
    turns = s.pick((1, 1, 1, 1, 2, 2, 3, 4)) if not s.chance(0.03) else s.rng.randint(5, 14)
    messages: list[Message] = []
    tools: list[Tool] | None = _shelf(s, s.pick(_TOOLS)(s)[0]) if s.chance(0.07) else None
    if s.chance(0.22):
        messages.append({"role": "system", "content": s.pick(p.split(p.SYSTEMS)) if s.chance(0.75) else s.words(3, 12).capitalize() + "."})
    for example in [TASKS[name](s) for name in s.rng.choices(names, [weights[n] for n in names], k=turns)]:
        messages, tools = _extend(s, example, messages, tools)
    if len(messages) < 2:
        messages = messages + _messages(tasks.repeat(s))
    return messages, tools


def _collides(example: Example, tools: list[Tool]) -> bool:
    """Whether a listed tool would rightly be called for a plain question (sums, the weather, searching)."""
    taken = {"add"} if example.answer.isdigit() else {"weather", "time", "search", "price"} if example.answer == p.FALLBACK else set()
    return any(_family(t) in taken for t in tools)
