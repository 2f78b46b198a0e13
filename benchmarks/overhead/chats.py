"""Chats as a load: conversations that grow turn by turn, 2 to 8 KiB, over a few shared system prompts. Pure; the same for one seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

PLACE = "@@@@@@@@"  # becomes another text each time the bodies are sent again, so that no conversation comes twice
APPS, SYSTEM_BYTES = 8, 1600  # applications, each with a system prompt of its own
TURNS, TURN_BYTES = 7, 920  # a question and its answer
ACTIVE = 64  # conversations that go on at once
WORDS = (
    "the a of to and in is it you that was for on are with as at be this have from or one had by word but not what all were we when your "
    "can said there use each which she do how their if will up other about out many then them these so some her would make like him"
).split()


def text(rng: random.Random, size: int) -> str:
    """Words of about `size` bytes."""
    out: list[str] = []
    left = size
    while left > 0:
        out.append(rng.choice(WORDS))
        left -= len(out[-1]) + 1
    return " ".join(out)


def bodies(model: str, conversations: int, seed: int = 1, *, named: bool = False) -> Iterator[str]:
    """The requests of so many conversations for a model, one line of JSON each, in the order in which they would come: each turn after
    the one before it, many conversations among each other. `named`: each conversation is one user's, as the field `user` says."""
    rng = random.Random(seed)
    systems = [text(rng, SYSTEM_BYTES) for _ in range(APPS)]
    begun = 0
    going: list[Iterator[list[dict[str, str]]]] = []
    while begun < conversations or going:
        while len(going) < ACTIVE and begun < conversations:
            going.append(_conversation(rng, rng.choice(systems), begun))
            begun += 1
        chat = rng.choice(going)
        messages = next(chat, None)
        if messages is None:
            going.remove(chat)
        else:
            doc = {"model": model, "messages": messages, "max_tokens": 256, "temperature": 0.7}
            if named:
                doc["user"] = f"user-{messages[1]['content'].split(':')[0].rsplit(' ', 1)[-1]}"
            yield json.dumps(doc, separators=(",", ":"))


def same(body: str, *, named: bool = False) -> Iterator[str]:
    """One request, `body`, by 64 users if `named`: a line of JSON each, as `bodies` gives them. What differs is no part of the prompt."""
    for user in range(64):
        doc = {**json.loads(body), "metadata": {"pass": PLACE}}
        yield json.dumps(doc | {"user": f"user-{user}"} if named else doc, separators=(",", ":"))


def _conversation(rng: random.Random, system: str, number: int) -> Iterator[list[dict[str, str]]]:
    messages = [{"role": "system", "content": system}]
    question = f"{PLACE} {number}: "
    for _ in range(TURNS):
        messages.append({"role": "user", "content": question + text(rng, TURN_BYTES // 3)})
        yield messages
        messages.append({"role": "assistant", "content": text(rng, TURN_BYTES - TURN_BYTES // 3)})
        question = ""
