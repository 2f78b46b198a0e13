"""Small questions with one exact answer, asked of a model and of its source. They do not measure how clever a model is; they show whether
quantising changed what it answers (Dutta et al., "Accuracy is not all you need", arXiv:2407.09141: answers flip where their share that is
right stays the same). The built-in model gets the questions that it was made for. Pure.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Sequence
from typing import Any

import msgspec

from quant.evaluate_jobs import Answered, Question

PER_TASK = 4  # questions of each kind for the built-in model


class Task(msgspec.Struct, frozen=True):
    """`wanted`: texts of which the answer must be one (a tuple), or a JSON value (an object), or a tool's name with its arguments
    (`call`). `exact`: to the letter."""

    question: Question
    wanted: Any
    exact: bool = False
    call: bool = False


# question, answers that count
_ASKED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is 17 + 26?", ("43",)),
    ("What is 9 times 8?", ("72",)),
    ("What is 100 minus 37?", ("63",)),
    ("What is 144 divided by 12?", ("12",)),
    ("A book costs 12 euros and a pen costs 3 euros. What do two books and three pens cost together, in euros?", ("33", "€33", "33 euros")),
    ("Mia is 4 years older than Jon. Jon is 11. How old is Mia?", ("15", "15 years", "15 years old")),
    ("Which number comes next: 3, 6, 12, 24?", ("48",)),
    ("Which number is larger: 0.8 or 0.75?", ("0.8", "0.80")),
    ("How many days are there in a leap year?", ("366", "366 days")),
    ("How many minutes are there in two and a half hours?", ("150", "150 minutes")),
    ("What is the capital of Japan?", ("tokyo",)),
    ("What is the capital of Canada?", ("ottawa",)),
    ("What is the capital of Kenya?", ("nairobi",)),
    ("On which continent is Peru?", ("south america",)),
    ("Which planet is closest to the sun?", ("mercury",)),
    ("What is the chemical symbol of iron?", ("fe",)),
    ("At how many degrees Celsius does water boil at sea level?", ("100", "100 °c", "100 degrees", "100 degrees celsius", "100°c")),
    ("What is the opposite of 'ancient'?", ("modern", "new", "recent")),
    ("What is the plural of 'mouse' (the animal)?", ("mice",)),
    ("What is the past tense of 'to bring'?", ("brought",)),
    ("Write the word 'window' backwards.", ("wodniw",)),
    ("Write the word 'river' in capital letters.", ("RIVER",)),
    ("What is the third letter of the word 'garden'?", ("r",)),
    ("Which of these is not a fruit: apple, pear, hammer, plum?", ("hammer",)),
    ("Sort these words by the alphabet, separated by commas: pear, apple, fig.", ("apple, fig, pear", "apple,fig,pear")),
    ("Translate into French: 'Thank you'.", ("merci",)),
    ("Translate into Spanish: 'house'.", ("casa", "la casa")),
    ("Translate into German: 'water'.", ("wasser", "das wasser")),
    ("Is this sentence true or false? 'All squares are rectangles.'", ("true",)),
    ("All cats are animals. Tom is a cat. Is Tom an animal? Answer yes or no.", ("yes",)),
)
_JSON: tuple[tuple[str, Any], ...] = (
    ('Give a JSON object with the key "city" set to "Oslo" and the key "zip" set to the number 150.', {"city": "Oslo", "zip": 150}),
    ("Give a JSON list of the numbers from 1 to 4.", [1, 2, 3, 4]),
)
_ONLY = " Answer with the answer alone, without any other words."
_SHOTS = "Question: What is 2 + 2?\nAnswer: 4\n\nQuestion: What is the capital of Italy?\nAnswer: Rome\n\nQuestion: {}\nAnswer:"
_THOUGHT = re.compile(r"<think>.*?</think>", re.S)
_FENCE = re.compile(r"^```\w*\n(.*)\n```$", re.S)
_EDGES = string.whitespace + "\"'`*_.!$()“”‘’«»"


def general() -> tuple[Task, ...]:
    """Questions for any model."""
    made = [*_ASKED, *_JSON]
    return tuple(
        Task(Question([{"role": "user", "content": asked + _ONLY}], tokens=48, prompt=_SHOTS.format(asked)), wanted)
        for asked, wanted in made
    )


def of_the_toy(per_task: int = PER_TASK, seed: int = 1) -> tuple[Task, ...]:
    """The built-in model's own tasks, from what its training never saw."""
    from quant.builtin.evaluate import wanted, wire
    from quant.builtin.phrases import instruction_words
    from quant.builtin.sampling import Sampler
    from quant.builtin.talk import TASKS

    made = []
    for name, task in TASKS.items():
        sampler = Sampler(random.Random(f"{seed} {name}"), evaluation=True, taught=instruction_words())
        for _ in range(per_task):
            example = task(sampler)
            answer = wanted(example)
            call = not isinstance(answer, str)
            made.append(Task(Question(wire(example.messages()), example.tools, 256), answer if call else (answer,), not call, call))
    return tuple(made)


def right(task: Task, answer: Answered) -> bool:
    """Whether an answer is the wanted one."""
    if task.call:
        return answer.call is not None and tuple(answer.call) == tuple(task.wanted)
    if answer.call is not None:
        return False
    if task.exact:
        return answer.text in task.wanted
    said = _THOUGHT.sub("", answer.text).strip()
    if not isinstance(task.wanted, tuple):
        return _same_json(said, task.wanted)
    plain = said.strip(_EDGES)
    return any(plain == wanted if wanted == "RIVER" else plain.casefold() == wanted for wanted in task.wanted)


def _same_json(said: str, wanted: object) -> bool:
    fenced = _FENCE.match(said)
    try:
        found: object = json.loads(fenced[1] if fenced else said)
    except (ValueError, RecursionError):
        return False
    return found == wanted


def judged(tasks: Sequence[Task], answers: Sequence[Answered]) -> tuple[bool, ...]:
    """Of each task, whether its answer is right."""
    return tuple(right(task, answer) for task, answer in zip(tasks, answers, strict=True))
