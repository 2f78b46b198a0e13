"""The items of OpenAI's Responses API: what is refused of them, and how they read as turns. Pure; sentences are in `openai_table`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.fakes.providers.brain import Call, Result, Turn
from tests.fakes.providers.media import Media
from tests.fakes.providers.openai_chat_rules import is_object
from tests.fakes.providers.openai_rules import fits, image, pdf
from tests.fakes.providers.openai_table import Doc, refuse

PREFIX = {"message": "msg", "function_call": "fc", "reasoning": "rs"}
SPOKEN = ("message", "function_call", "function_call_output", "reasoning")


@dataclass(frozen=True)
class Memory:
    """What the service remembers of its own items. `sealed` says whether an encrypted content is one of its own; `paired` gives the
    reasoning that an item was made with; `kept` whether an item is stored."""

    sealed: Callable[[str], bool]
    paired: Callable[[str], str | None]
    kept: Callable[[str], bool]


def listed(given: Any) -> list[Doc]:
    """The input as items with a type. A text is a user's message."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return [{"type": "message", **item} if "type" not in item and "role" in item else item for item in given or ()]


def completed(item: Any) -> Any:
    """An assistant's message with what the service itself fills in, though the SDK's type asks for it: id, status, annotations."""
    if not isinstance(item, dict) or item.get("role") != "assistant" or not isinstance(item.get("content"), list):
        return item
    content = [
        {"annotations": [], **part} if isinstance(part, dict) and part.get("type") == "output_text" else part for part in item["content"]
    ]
    return {"id": "msg_0", "status": "completed", "type": "message", **item, "content": content}


# Refusals.


def check_items(items: Sequence[Doc], before: Sequence[Doc], memory: Memory) -> None:
    """Items of a request after those of the response that it goes on from. Raises Refusal."""
    for at, item in enumerate(items):
        if item["type"] not in SPOKEN:
            raise refuse("not spoken", f"input[{at}]", value=item["type"])
        _id(item, at)
        if item.get("content") == []:
            raise refuse("empty array", f"input[{at}].content")
        if item["type"] == "function_call":
            fits(f"input[{at}].name", item["name"])
            is_object(item["arguments"], f"input[{at}].arguments")
            _pair(items, at, memory)
        elif item["type"] == "reasoning":
            _reasoning(items, at, memory)
    _matched([*before, *items])


def _id(item: Doc, at: int) -> None:
    prefix = PREFIX.get(item["type"])
    if prefix and item.get("id") is not None and not str(item["id"]).startswith(prefix):
        raise refuse("item id", f"input[{at}].id", value=item["id"], prefix=prefix)
    if item["type"] == "function_call_output" and item.get("call_id") is None:
        raise refuse("missing", f"input[{at}].call_id")
    if "call_id" in item and not 1 <= len(item["call_id"] or "") <= 64:
        raise refuse("long string", f"input[{at}].call_id", limit=64, value=len(item["call_id"] or ""))


def _pair(items: Sequence[Doc], at: int, memory: Memory) -> None:
    """A call that a reasoning item came with goes back with it."""
    wanted = memory.paired(items[at].get("id") or "")
    if wanted is not None and not any(one.get("id") == wanted for one in items[:at]):
        raise refuse("no reasoning", "input", id=items[at]["id"], wanted=wanted)


def _reasoning(items: Sequence[Doc], at: int, memory: Memory) -> None:
    item = items[at]
    following = items[at + 1] if at + 1 < len(items) else {}
    if following.get("type") != "function_call" and following.get("role") != "assistant":
        raise refuse("no following", "input", id=item["id"])
    if item.get("encrypted_content"):
        if not memory.sealed(item["encrypted_content"]):
            raise refuse("encrypted", "input", shown=item["encrypted_content"][:8] + "...")
    elif not memory.kept(item["id"]):
        raise refuse("item lost", "input", id=item["id"])


def _matched(items: Sequence[Doc]) -> None:
    """Every call has its output after it, every output a call before it."""
    waiting: list[str] = []
    for item in items:
        if item["type"] == "function_call":
            waiting.append(item["call_id"])
        elif item["type"] == "function_call_output":
            if item["call_id"] not in waiting:
                raise refuse("no call", "input", id=item["call_id"])
            waiting.remove(item["call_id"])
        elif item["type"] == "message" and item["role"] == "user" and waiting:
            break
    if waiting:
        raise refuse("no output", "input", id=waiting[0])


# Reading.


def system_of(items: Sequence[Doc]) -> Iterator[str]:
    for item in items:
        if item["type"] == "message" and item["role"] in ("system", "developer"):
            yield text_of(item["content"])


def turns(items: Sequence[Doc]) -> list[Turn]:
    """Items as turns: what an assistant did in a row is one turn, and so are the outputs of one round of calls."""
    found: list[Turn] = []
    for at, item in enumerate(items):
        one = _turn(item, at)
        if one is None:
            continue
        last = found[-1] if found else None
        if last is not None and last.role == one.role and (one.role == "assistant" or (last.results and one.results)):
            found[-1] = replace(
                last,
                text=last.text + one.text,
                calls=last.calls + one.calls,
                results=last.results + one.results,
                thinking=last.thinking + one.thinking,
            )
        else:
            found.append(one)
    return found


def _turn(item: Doc, at: int) -> Turn | None:
    if item["type"] == "reasoning":
        return Turn("assistant", thinking="".join(part["text"] for part in item["summary"]))
    if item["type"] == "function_call":
        return Turn("assistant", calls=(Call(item["name"], json.loads(item["arguments"] or "{}"), item["call_id"]),))
    if item["type"] == "function_call_output":
        given = item["output"]
        parts = [] if isinstance(given, str) else given
        media = tuple(media_of(part, f"input[{at}].output[{index}]") for index, part in enumerate(parts) if part["type"] != "input_text")
        return Turn("user", results=(Result(text_of(given), item["call_id"], media=media),))
    if item["role"] == "assistant":
        return Turn("assistant", text_of(item["content"]))
    if item["role"] != "user":
        return None
    parts = [] if isinstance(item["content"], str) else item["content"]
    media = tuple(media_of(part, f"input[{at}].content[{index}]") for index, part in enumerate(parts) if part["type"] != "input_text")
    return Turn("user", text_of(item["content"]), media)


def text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(
        part.get("text") or part.get("refusal") or "" for part in content if part["type"] in ("input_text", "output_text", "refusal")
    )


def media_of(part: Doc, path: str) -> Media:
    """A part's file. Raises Refusal where its bytes are not what they should be. Files by id or address count as their names."""
    if part["type"] == "input_image":
        url = part.get("image_url")
        if url is None and part.get("file_id") is None:
            raise refuse("missing", f"{path}.image_url")
        return image(url, f"{path}.image_url") if url is not None else Media("", part["file_id"].encode())
    named = part.get("file_url") or part.get("file_id")
    if named is not None:
        if part.get("file_url") and not re.match(r"https?://\w", named):
            raise refuse("image url", f"{path}.file_url", url=named)
        return Media("", named.encode())
    return pdf(part.get("file_data") or "", f"{path}.file_data")
