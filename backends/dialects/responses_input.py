"""Input items of Responses as chat messages. Pure; raises `Fault` (bad_request, client) with the item's path.

1. Reasoning, assistant messages and calls that stand next to each other become one assistant message, so that calls made in parallel
   stay together. A further text, or reasoning with substance, begins a new one as long as no call has been made.
2. The output of a call goes right after the message that made it, in the order of the calls, wherever the client put it.
3. Reasoning that nothing follows is dropped: no provider takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from backends import wire
from backends.dialects import responses_state as state
from backends.dialects.responses_tools import INPUT, Notes

Item = dict[str, Any]


class _Group(msgspec.Struct):
    """One message and what belongs right after it."""

    message: Item
    results: dict[str, Item] = {}
    extras: dict[str, state.Extra] = {}


def string(item: Item, key: str, path: str, *, empty: bool = True) -> str:
    """The string that must be under `key` of an item."""
    value = item.get(key)
    if not isinstance(value, str) or not (empty or value):
        wrong = "is missing" if value is None or value == "" else "must be a string"
        raise wire.bad(f"'{path}.{key}' {wrong}.", param=f"{path}.{key}")
    return value


class Conversation:
    """The messages made so far. `add` takes items in order; `messages` is what chat gets."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.groups: list[_Group] = []
        self.turn: _Group | None = None  # the assistant message that may still grow
        self.calls: dict[str, _Group] = {}

    def add(self, item: Any, path: str) -> None:
        """One input item."""
        if not isinstance(item, dict):
            raise wire.bad(f"'{path}' must be an object.", param=path)
        kind = item.get("type") or ("message" if "role" in item else None)
        take = _ITEMS.get(kind) if isinstance(kind, str) else None
        if take is not None:
            take(self, item, path)
        elif kind == "item_reference":
            message = f"'{path}' refers to item '{item.get('id')}', which is not stored here; send the item itself."
            raise wire.bad(message, param=f"{path}.id")
        else:
            self.notes.lost(path, f"items of type '{kind}' belong to tools that OpenAI runs; no other backend takes them.")

    def system(self, text: str) -> None:
        """The instructions, before all items."""
        self.groups.append(_Group({"role": "system", "content": text}))

    def assistant(self) -> _Group:
        """The assistant message that is growing, or a new one."""
        if self.turn is None:
            self.turn = _Group({"role": "assistant", "content": None})
            self.groups.append(self.turn)
        return self.turn

    def fresh(self) -> _Group:
        """As `assistant`, but new when the growing one has text and no calls."""
        if self.turn is not None and self.turn.message["content"] is not None and "tool_calls" not in self.turn.message:
            self.turn = None
        return self.assistant()

    def messages(self) -> list[Item]:
        """All messages. Reads what was added; call it once."""
        out: list[Item] = []
        for group in self.groups:
            message = group.message
            calls = message.get("tool_calls", ())
            if message["content"] is None and not calls:
                self.notes.add("input", "dropped", "reasoning that no text and no call follows cannot be sent.")
                continue
            for call in calls:
                if call["id"] in group.extras:
                    call["extra_content"] = group.extras[call["id"]]
            out.append(message)
            out += [group.results[call["id"]] for call in calls if call["id"] in group.results]
        return out


def _message(talk: Conversation, item: Item, path: str) -> None:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise wire.bad(f"'{path}.role' must be user, assistant, system or developer.", param=f"{path}.role")
    content = contents(item.get("content"), f"{path}.content", talk.notes)
    if role != "assistant":
        talk.turn = None
        talk.groups.append(_Group({"role": role, "content": content}))
    elif content:
        message = talk.fresh().message
        message["content"] = content if message["content"] is None else [*_parts(message["content"]), *_parts(content)]


def _parts(content: Any) -> list[Item]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _function_call(talk: Conversation, item: Item, path: str) -> None:
    _call(talk, item, path, string(item, "arguments", path))


def _custom_call(talk: Conversation, item: Item, path: str) -> None:
    _call(talk, item, path, wire.encode({INPUT: string(item, "input", path)}).decode())


def _call(talk: Conversation, item: Item, path: str, arguments: str) -> None:
    call_id, name = string(item, "call_id", path, empty=False), string(item, "name", path, empty=False)
    group = talk.assistant()
    calls = group.message.setdefault("tool_calls", [])
    if any(call["id"] == call_id for call in calls):
        raise wire.bad(f"'{path}.call_id': two calls of one turn have the id '{call_id}'.", param=f"{path}.call_id")
    calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})
    talk.calls[call_id] = group


def _output(talk: Conversation, item: Item, path: str) -> None:
    call_id = string(item, "call_id", path, empty=False)
    group = talk.calls.get(call_id)
    if group is None:
        raise wire.bad(f"'{path}.call_id': no call before it has the id '{call_id}'.", param=f"{path}.call_id")
    if call_id in group.results:
        raise wire.bad(f"'{path}.call_id': the call '{call_id}' has an output already.", param=f"{path}.call_id")
    talk.turn = None
    content = contents(item.get("output"), f"{path}.output", talk.notes)
    group.results[call_id] = {"role": "tool", "tool_call_id": call_id, "content": content}


def _reasoning(talk: Conversation, item: Item, path: str) -> None:
    kept = None
    sealed = item.get("encrypted_content")
    if isinstance(sealed, str) and sealed:
        kept = state.decode(sealed)
        if kept is None:
            talk.notes.add(f"{path}.encrypted_content", "dropped", "it was not made here, and only its maker can read it.")
    kept = kept or state.State()
    text = _shown(item) or kept.r or ""
    group = talk.fresh() if text or kept.b else talk.assistant()
    message = group.message
    if text:
        before = message.get("reasoning_content")
        message["reasoning_content"] = f"{before}\n\n{text}" if before else text
    if kept.b:
        message.setdefault("thinking_blocks", []).extend(kept.b)
    if kept.x:
        message["extra_content"] = kept.x
    group.extras.update(kept.c)


def _shown(item: Item) -> str:
    """The text that a reasoning item shows: its content, or else its summary."""
    for key in ("content", "summary"):
        found = item.get(key)
        texts = [p["text"] for p in found if isinstance(p, dict) and isinstance(p.get("text"), str)] if isinstance(found, list) else []
        if any(texts):
            return "\n\n".join(texts)
    return ""


_ITEMS: dict[str, Callable[[Conversation, Item, str], None]] = {
    "message": _message,
    "function_call": _function_call,
    "custom_tool_call": _custom_call,
    "function_call_output": _output,
    "custom_tool_call_output": _output,
    "reasoning": _reasoning,
}


def contents(value: Any, path: str, notes: Notes) -> str | list[Item]:
    """The content of a message or an output. One plain text becomes a string: some chat templates take nothing else."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wire.bad(f"'{path}' must be a string or a list of parts.", param=path)
    parts = [_part(part, f"{path}[{i}]", notes) for i, part in enumerate(value)]
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        text: str = parts[0]["text"]
        return text
    return parts


def _part(part: Any, path: str, notes: Notes) -> Item:
    kind = part.get("type") if isinstance(part, dict) else None
    make = _PARTS.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise wire.bad(f"'{path}' is a part of type '{kind}', which no chat model takes.", param=path)
    made = make(part, path)
    if isinstance(part.get("cache_control"), dict):
        made["cache_control"] = part["cache_control"]
    elif isinstance(part.get("prompt_cache_breakpoint"), dict):
        made["cache_control"] = {"type": "ephemeral"}
        notes.add(f"{path}.prompt_cache_breakpoint", "mapped", "sent as cache_control.")
    return made


def _text(part: Item, path: str) -> Item:
    return {"type": "text", "text": string(part, "text", path)}


def _refusal(part: Item, path: str) -> Item:
    return {"type": "refusal", "refusal": string(part, "refusal", path)}


def _image(part: Item, path: str) -> Item:
    if part.get("file_id"):
        raise wire.bad(f"'{path}.file_id': images kept at OpenAI cannot be read here; send 'image_url' instead.", param=f"{path}.file_id")
    image = {"url": string(part, "image_url", path, empty=False)}
    if isinstance(part.get("detail"), str):
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image}


def _file(part: Item, path: str) -> Item:
    """A URL goes where the data would: that is how the hub has it."""
    key = next((key for key in ("file_url", "file_id") if part.get(key)), "file_data")
    file = {"file_data" if key == "file_url" else key: string(part, key, path, empty=False)}
    if isinstance(part.get("filename"), str):
        file["filename"] = part["filename"]
    return {"type": "file", "file": file}


def _audio(part: Item, path: str) -> Item:
    audio = part.get("input_audio")
    if not isinstance(audio, dict):
        raise wire.bad(f"'{path}.input_audio' is missing.", param=f"{path}.input_audio")
    where = f"{path}.input_audio"
    return {"type": "input_audio", "input_audio": {"data": string(audio, "data", where), "format": string(audio, "format", where)}}


_PARTS: dict[str, Callable[[Item, str], Item]] = {
    "input_text": _text,
    "output_text": _text,
    "text": _text,
    "refusal": _refusal,
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
}
