"""Single questions with their exact answers: the toy model's tasks, for training and for evaluation."""

import json
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import phrases as p
from .sampling import Sampler
from .template import Message, Tool
from .words import CAPITALS, COLOURS, OPPOSITES


@dataclass
class Example:
    """One question (after optional earlier messages) and the exact answer wanted."""

    question: str
    answer: str
    before: list[Message] = field(default_factory=list)
    tools: list[Tool] | None = None
    call: tuple[str, dict[str, Any]] | None = None
    role: str = "user"
    single: bool = False

    def messages(self) -> list[Message]:
        """The conversation up to and including the question."""
        return [*self.before, {"role": self.role, "content": self.question}]


_CACHE: dict[str, list[str]] = {}


def phrase(s: Sampler, block: str, **values: Any) -> str:
    """One phrasing of a block with its payload, in a random spelling (case, final punctuation)."""
    form = s.pick(_CACHE.setdefault(block, p.split(block)))
    kind = s.rng.random()
    if kind < 0.15:
        form = form.replace("JSON", "json") if form.startswith("JSON") else form[0].lower() + form[1:]
    elif kind < 0.2:
        form = form.lower()
    elif kind < 0.21:
        form = "".join(literal.upper() + (f"{{{name}}}" if name else "") for literal, name, _, _ in string.Formatter().parse(form))
    kind = s.rng.random()
    if kind < 0.12 and form[-1] in "?.!":
        form = form[:-1]
    elif kind < 0.12 and form[-1] not in "?.!=\"':":
        form += s.pick((".", ".", "!"))
    return form.format(**values)


def _cased(s: Sampler, text: str) -> str:
    kind = s.rng.random()
    return text.capitalize() if kind < 0.12 else text.upper() if kind < 0.15 else text


def repeat(s: Sampler) -> Example:
    """Repeat one word (or a number)."""
    word = str(s.number()) if s.chance(0.04) else _cased(s, s.word())
    return Example(phrase(s, p.REPEAT, x=word), word)


def repeat_many(s: Sampler) -> Example:
    """Repeat two to seven words."""
    text = s.words(2, s.pick((2, 2, 3, 3, 4, 5, 6, 7)))
    if s.chance(0.05):
        text += f" {s.number()}"
    return Example(phrase(s, p.REPEAT_MANY, x=(text := _cased(s, text))), text)


def reverse(s: Sampler) -> Example:
    """The letters of a word backwards."""
    word = _cased(s, s.word(10))
    return Example(phrase(s, p.REVERSE, x=word), word[::-1])


def spell(s: Sampler) -> Example:
    """The letters of a word with hyphens between."""
    word = _cased(s, s.word())
    return Example(phrase(s, p.SPELL, x=word), "-".join(word))


def upper(s: Sampler) -> Example:
    """A word in capital letters."""
    word = s.word()
    return Example(phrase(s, p.UPPER, x=word), word.upper())


def add(s: Sampler) -> Example:
    """The sum of two numbers of one or two digits."""
    a, b = s.pair()
    return Example(phrase(s, p.ADD, a=a, b=b), str(a + b))


def count(s: Sampler) -> Example:
    """Count up to, between, or down from numbers (up to 50, mostly up to 20)."""
    high = s.rng.randint(2, s.pick((10, 10, 20, 20, 30, 50)))
    kind = s.rng.random()
    if kind < 0.5:
        return Example(phrase(s, p.COUNT_TO, b=high), ", ".join(str(i) for i in range(1, high + 1)))
    if kind < 0.75:
        low = s.rng.randint(max(1, high - 12), high - 1)
        return Example(phrase(s, p.COUNT_FROM, a=low, b=high), ", ".join(str(i) for i in range(low, high + 1)))
    high = min(high, 20)
    return Example(phrase(s, p.COUNT_DOWN, b=high), ", ".join(str(i) for i in range(high, 0, -1)))


def _fact(block: str, facts: dict[str, str]) -> Callable[[Sampler], Example]:
    keys = list(facts)

    def ask(s: Sampler) -> Example:
        key = s.pick(keys)
        shown = key.lower() if s.chance(0.08) else key
        return Example(phrase(s, block, x=shown), facts[key])

    return ask


def _fixed(block: str, answer: str) -> Callable[[Sampler], Example]:
    return lambda s: Example(phrase(s, block), answer)


colour, opposite, capital = _fact(p.COLOUR, COLOURS), _fact(p.OPPOSITE, OPPOSITES), _fact(p.CAPITAL, CAPITALS)
intro, greeting, ability = _fixed(p.WHO, p.INTRO), _fixed(p.HELLO, p.GREETING), _fixed(p.CAN, p.HELP)


def fallback(s: Sampler) -> Example:
    """Anything the toy does not know: one fixed, honest answer."""
    topics = _CACHE.setdefault(p.TOPICS, p.split(p.TOPICS))
    kind = s.rng.random()
    if kind < 0.45:
        topic = s.pick(topics) if s.chance(0.5) else s.words(1, 3)
        question = phrase(s, p.OPEN, x=topic, y=s.words(1, 2))
    elif kind < 0.6:
        question = phrase(s, p.SINGLES)
    elif kind < 0.72:
        block = s.pick((p.CAPITAL, p.CAPITAL, p.OPPOSITE, p.COLOUR, p.WEATHER, p.TIME, p.SEARCH))
        known = block in (p.OPPOSITE, p.COLOUR)
        question = phrase(s, block, x=s.word() + s.pick(("ia", "land", "ish", "oo")) if known else s.word().capitalize())
    elif kind < 0.73:
        question = phrase(s, p.CALL, f=s.word(), x=f"{s.word()}={s.number()}")
    elif kind < 0.76:
        a, b = s.rng.randrange(100), s.rng.randrange(1, 100)
        question = s.pick(("What is {a}{o}{b}?", "{a}{o}{b}", "What is {a} {o} {b}?")).format(a=a, b=b, o=s.pick("-*/"))
    else:
        question = _chatter(s)
    return Example(question, p.FALLBACK)


_STARTS = (
    "why", "how", "who", "when", "where", "what", "the", "a", "my", "I think", "please", "can you", "do you", "is", "could you write",
)  # fmt: skip
_PAIR_FORMS = (
    ("{k}={v}", " "), ("{k}={v}", ", "), ("{k}={v}", " and "), ("{k} {v}", " and "), ("{k} {v}", ", "), ("{k}: {v}", ", "),
    ("{k} is {v}", ", "), ("{k} is {v}", " and "),
)  # fmt: skip


def _chatter(s: Sampler) -> str:
    """Words without a task: a bare word, a made-up sentence or question, now and then a long text."""
    low = s.pick((1, 1, 2, 4, 8))
    text = s.words(low, low + s.pick((0, 2, 6)))
    if s.chance(0.03):
        text = s.words(20, 60)
    if s.chance(0.5) or text.startswith(("hello", "test", "repeat", "name")):
        start = s.pick(_STARTS)
        text = f"{start} {text}"
    if s.chance(0.6):
        text = text[0].upper() + text[1:]
    return text + s.pick(("", "?", ".", "?", "!"))


def _value(s: Sampler) -> Any:
    return s.number() if s.chance(0.4) else _cased(s, s.word(9))


def json_pairs(s: Sampler) -> Example:
    """Key-value pairs as a JSON object."""
    data: dict[str, Any] = {}
    for _ in range(s.pick((1, 2, 2, 2, 3))):
        data[s.pick(p.KEYS) if s.chance(0.75) else s.word(7)] = _value(s)
    if s.chance(0.2):
        data = {"name": s.name(), "age": s.rng.randrange(100)}
    form, joint = s.pick(_PAIR_FORMS)
    text = joint.join(form.format(k=k, v=v) for k, v in data.items())
    return Example(phrase(s, p.JSON_PAIRS, x=text), json.dumps(data))


def json_answer(s: Sampler) -> Example:
    """A known question (or a free one) answered as ``{"answer": ...}``."""
    if s.chance(0.2):
        return Example(phrase(s, p.JSON_FREE), json.dumps({"name": p.NAME, "kind": "toy"}))
    task = s.pick((repeat, add, colour, opposite, capital, capital, reverse, fallback))
    inner = task(s)
    answer: Any = int(inner.answer) if task is add else inner.answer
    if task is fallback:
        answer = None
    return Example(phrase(s, p.JSON_ASK, x=inner.question), json.dumps({"answer": answer}))


def small_talk(s: Sampler) -> Example:
    """Thanks and goodbyes, and what the toy can do."""
    block, answer = s.pick(((p.THANK, p.THANKS), (p.BYE, p.GOODBYE), (p.CAN, p.HELP)))
    return Example(phrase(s, block), answer)
