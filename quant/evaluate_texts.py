"""What models read when they are evaluated: some twenty short texts of ours (prose, talk, lists, code, JSON, several languages), or the
user's own chats. Blocks on the disk where a file is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from quant.evaluate_jobs import EvaluateError, Text

FOLDER = Path(__file__).parent / "texts"
MAX_CHATS = 64  # that are read; of more, as many evenly spread
MAX_LINES = 1_000_000
MAX_LINE = 8 << 20  # bytes of one chat
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


class Chats(msgspec.Struct, frozen=True):
    """The user's own prompts: `chats` as OpenAI bodies (`messages`, `tools`), `texts` those without roles. `left_out`: how many were not
    text alone; `found`: all that the file holds."""

    chats: tuple[Mapping[str, Any], ...]
    texts: tuple[str, ...]
    found: int
    left_out: int


@lru_cache(maxsize=1)
def built_in() -> tuple[Text, ...]:
    """Our own texts, by name."""
    return tuple(Text(path.stem, path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.txt")))


def digest(texts: Iterable[Text]) -> str:
    """One hash of all of them: figures with the same one are of the same texts."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(msgspec.json.encode((text.name, text.text, text.special, text.go_on)) + b"\n")
    return whole.hexdigest()[:16]


def read_chats(path: Path) -> Chats:
    """The chats of a JSONL file, one a line: a request's body (Chat Completions, Responses, Messages or Completions), or its
    messages alone. Raises `EvaluateError`."""
    try:
        with path.open("rb") as file:
            bodies = []
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
                if len(line) > MAX_LINE or number > MAX_LINES:
                    raise EvaluateError(
                        f"{path.name} is too large (line {number}); give at most {MAX_LINES} lines of {MAX_LINE >> 20} MiB."
                    )
                if line.strip():
                    bodies.append((number, line))
    except FileNotFoundError:
        raise EvaluateError(f"The file of prompts {path} does not exist.") from None
    except OSError as error:
        raise EvaluateError(f"The file of prompts {path} cannot be read: {error.strerror}.") from None
    return gathered((_parsed(path.name, number, line) for number, line in spread(bodies)), len(bodies), path.name)


def spread(found: list[Any]) -> list[Any]:
    """At most `MAX_CHATS` of them, evenly spread. Pure."""
    if len(found) <= MAX_CHATS:
        return found
    return [found[at * len(found) // MAX_CHATS] for at in range(MAX_CHATS)]


def gathered(bodies: Iterable[object], found: int, name: str) -> Chats:
    """What can be read of `bodies`. `found`: how many there were to choose from. Pure; raises `EvaluateError` where there is nothing."""
    chats: list[Mapping[str, Any]] = []
    texts: list[str] = []
    left_out = 0
    for body in bodies:
        read = understood(body)
        if isinstance(read, str):
            texts.append(read)
        elif read is None:
            left_out += 1
        else:
            chats.append(read)
    if not chats and not texts:
        raise EvaluateError(f'{name} holds no chat; write one a line, like {{"messages": [{{"role": "user", "content": "Hello"}}]}}.')
    return Chats(tuple(chats), tuple(texts), found, left_out)


def _parsed(name: str, number: int, line: bytes) -> object:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise EvaluateError(f"Line {number} of {name} is no JSON ({str(error)[:80]}); write one chat a line.") from None


def understood(body: object) -> Mapping[str, Any] | str | None:
    """A chat with plain messages, a text alone, or None where it holds what is not text (or nothing). Pure."""
    if isinstance(body, dict) and isinstance(body.get("body"), dict):
        body = body["body"]  # a line of a log or of a batch
    if isinstance(body, list):
        body = {"messages": body}
    if not isinstance(body, dict):
        return None
    if isinstance(prompt := body.get("prompt"), str) and prompt:
        return prompt
    turns = body.get("messages", body.get("input"))
    turns = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
    first = body.get("system") or body.get("instructions")
    if not isinstance(turns, list) or not turns:
        return None
    messages = [_message(turn) for turn in ([{"role": "system", "content": first}] if first else []) + turns]
    kept = [message for message in messages if message is not None]
    if len(kept) < len(messages) or not any(message["role"] == "user" for message in kept):
        return None
    tools = [tool for tool in body.get("tools") or () if isinstance(tool, dict) and isinstance(tool.get("function"), dict)]
    return {"messages": kept, **({"tools": tools} if tools else {})}


def _message(turn: object) -> dict[str, Any] | None:
    """One message with its content as plain text; None where it is something else."""
    if not isinstance(turn, dict) or turn.get("type", "message") != "message":
        return None
    role, content = turn.get("role"), turn.get("content")
    role = "system" if role == "developer" else role
    if role not in ("system", "user", "assistant", "tool"):
        return None
    if isinstance(content, list):
        parts = [_part(part) for part in content]
        content = None if None in parts else "".join(part for part in parts if part)
    calls = turn.get("tool_calls")
    if not isinstance(content, str) and not (calls and content is None):
        return None
    extra = {key: turn[key] for key in ("tool_calls", "tool_call_id", "name") if turn.get(key)}
    return {"role": role, "content": content, **extra}


def _part(part: object) -> str | None:
    if isinstance(part, dict) and part.get("type") in _TEXT_PARTS:
        text = part.get("text", part.get("refusal"))
        return text if isinstance(text, str) else None
    return None
