"""Turns of Anthropic Messages → chat messages. Pure.

Source of the format: the types of Anthropic's SDK (`MessageParam`, `ContentBlockParam`). What chat cannot say is emulated as text,
and noted: titles of documents, search results, errors of tools. Pictures in tool results go into the user message that follows
the results, because a chat tool message holds only text.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends import wire
from backends.dialects.messages_read import Obj, Report, a_list, a_string, an_object, maybe_string, missing, wrong

IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
Part = dict[str, Any]
Message = dict[str, Any]
_KNOWN = {
    "text": frozenset({"type", "text", "cache_control"}),
    "image": frozenset({"type", "source", "cache_control"}),
    "document": frozenset({"type", "source", "cache_control", "title", "context"}),
    "search_result": frozenset({"type", "source", "title", "content", "cache_control"}),
    "tool_use": frozenset({"type", "id", "name", "input", "cache_control"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"}),
    "tool_reference": frozenset({"type", "tool_name", "cache_control"}),
}


def system(value: object, report: Report, path: str = "system") -> str | list[Part] | None:
    """The content of a system message: a string where that says all, else text parts with their marks. None: there is none."""
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, str):
        return value
    parts: list[Part] = []
    for i, block in enumerate(a_list(value, path)):
        where = f"{path}[{i}]"
        if an_object(block, where).get("type") != "text":
            raise wrong(f"{where}.type", "'text'")
        parts += _text(block, where, report)
    return _simple(parts) or None


def turns(value: object, report: Report) -> list[Message]:
    """All messages, in order. Raises `Fault` for what is no turn or cannot be kept."""
    if value is None:
        raise missing("messages")
    out: list[Message] = []
    for i, item in enumerate(a_list(value, "messages")):
        path = f"messages[{i}]"
        message = an_object(item, path)
        role, content = message.get("role"), message.get("content")
        if content is None:
            raise missing(f"{path}.content")
        if role == "user":
            out += _user(content, f"{path}.content", report)
        elif role == "assistant":
            out.append(_assistant(content, f"{path}.content", report))
        elif role == "system":
            said = system(content, report, f"{path}.content")
            if said is not None:
                out.append({"role": "system", "content": said})
        else:
            raise wrong(f"{path}.role", "'user', 'assistant' or 'system'")
    if not out:
        raise wire.bad("messages: at least one message is required.", param="messages")
    return out


def _user(content: object, path: str, report: Report) -> list[Message]:
    """Tool results first, whatever their place; then what the user says, with the pictures of the results before it."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results: list[Message] = []
    pictures: list[Part] = []
    said: list[Part] = []
    for i, item in enumerate(a_list(content, path)):
        where = f"{path}[{i}]"
        block = an_object(item, where)
        if block.get("type") == "tool_result":
            results.append(_result(block, where, report, pictures))
        else:
            said += part(block, where, report)
    parts = pictures + said
    if parts or not results:
        results.append({"role": "user", "content": _simple(parts)})
    return results


def part(block: Obj, path: str, report: Report) -> list[Part]:
    """The chat parts of one block that a user may say. Empty for an empty text and for what was dropped."""
    kind = block.get("type")
    read = _PARTS.get(kind) if isinstance(kind, str) else None
    if read is None:
        if not isinstance(kind, str):
            raise missing(f"{path}.type") if kind is None else wrong(f"{path}.type", "a string")
        report.cannot(f"{path}.type", f"blocks of type '{kind}' have no counterpart in the chat format.")
        return []
    report.extras(block, _KNOWN[str(kind)], path)
    return read(block, path, report)


def _marked(part: Part, block: Obj) -> list[Part]:
    mark = block.get("cache_control")
    if mark is not None:
        part["cache_control"] = mark
    return [part]


def _text(block: Obj, path: str, report: Report) -> list[Part]:
    said = a_string(block, "text", path)
    return _marked({"type": "text", "text": said}, block) if said else []


def _source(block: Obj, path: str) -> tuple[Obj, str]:
    source = an_object(block.get("source"), f"{path}.source")
    return source, a_string(source, "type", f"{path}.source")


def _image(block: Obj, path: str, report: Report) -> list[Part]:
    source, kind = _source(block, path)
    where = f"{path}.source"
    if kind == "base64":
        media = a_string(source, "media_type", where)
        if media not in IMAGES:
            raise wrong(f"{where}.media_type", "'image/jpeg', 'image/png', 'image/gif' or 'image/webp'")
        url = f"data:{media};base64,{a_string(source, 'data', where)}"
    elif kind == "url":
        url = a_string(source, "url", where)
    else:
        report.cannot(f"{where}.type", f"an image source of type '{kind}' is known only to Anthropic; send the image itself.")
        return []
    return _marked({"type": "image_url", "image_url": {"url": url}}, block)


def _document(block: Obj, path: str, report: Report) -> list[Part]:
    """A PDF as a file part; text as text, below its title."""
    source, kind = _source(block, path)
    where = f"{path}.source"
    title, context = maybe_string(block, "title", path), maybe_string(block, "context", path)
    if kind == "base64" or kind == "url":
        if kind == "url":
            data = a_string(source, "url", where)
        elif a_string(source, "media_type", where) != "application/pdf":
            raise wrong(f"{where}.media_type", "'application/pdf'")
        else:
            data = f"data:application/pdf;base64,{a_string(source, 'data', where)}"
        file = _marked({"type": "file", "file": {"filename": title or "document.pdf", "file_data": data}}, block)
        if context:
            report.note(f"{path}.context", "emulated", "It is sent as text before the document.")
            return [{"type": "text", "text": context}, *file]
        return file
    if kind == "text":
        parts = [{"type": "text", "text": a_string(source, "data", where)}]
    elif kind == "content":
        parts = _inner(source.get("content"), f"{where}.content", report)
    else:
        report.cannot(f"{where}.type", f"a document source of type '{kind}' is known only to Anthropic; send the document itself.")
        return []
    report.note(f"{path}.source", "emulated", "A document that is no PDF is sent as text.")
    return _headed([title, context], parts, block)


def _search(block: Obj, path: str, report: Report) -> list[Part]:
    parts = _inner(block.get("content"), f"{path}.content", report)
    report.note(f"{path}.type", "emulated", "A search result is sent as text: title, source, content.")
    return _headed([a_string(block, "title", path), a_string(block, "source", path)], parts, block)


def _reference(block: Obj, path: str, report: Report) -> list[Part]:
    report.note(f"{path}.type", "emulated", "A tool reference is sent as text; the tools themselves are all sent.")
    return _marked({"type": "text", "text": f"Tool available: {a_string(block, 'tool_name', path)}"}, block)


def _headed(lines: list[str], parts: list[Part], block: Obj) -> list[Part]:
    """Parts with lines of text before them, in the first part where that is text."""
    head = "".join(f"{line}\n" for line in lines if line)
    if head and parts and parts[0]["type"] == "text":
        parts[0] = {**parts[0], "text": head + parts[0]["text"]}
    elif head:
        parts = [{"type": "text", "text": head.rstrip("\n")}, *parts]
    if parts:
        _marked(parts[-1], block)
    return parts


_PARTS = {
    "text": _text, "image": _image, "document": _document, "search_result": _search, "tool_reference": _reference,
}  # fmt: skip


def _inner(content: object, path: str, report: Report) -> list[Part]:
    """Content within a block: a string or blocks; None is nothing."""
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    out: list[Part] = []
    for i, item in enumerate(a_list(content, path)):
        out += part(an_object(item, f"{path}[{i}]"), f"{path}[{i}]", report)
    return out


def _result(block: Obj, path: str, report: Report, pictures: list[Part]) -> Message:
    """A tool message. What is not text goes to `pictures`, named after its call."""
    report.extras(block, _KNOWN["tool_result"], path)
    call = a_string(block, "tool_use_id", path)
    texts: list[Part] = []
    before = len(pictures)
    for said in _inner(block.get("content"), f"{path}.content", report):
        if said["type"] == "text":
            texts.append(said)
            continue
        report.note(f"{path}.content", "emulated", "Images and files of a tool's result are sent in the user message after it.")
        pictures += [{"type": "text", "text": f"From the result of tool call {call}:"}, said]
    if len(pictures) > before and not texts:
        texts = [{"type": "text", "text": "The result is in the next message."}]
    if block.get("is_error"):
        report.note(f"{path}.is_error", "emulated", "Chat has no mark for a failed tool; its text says so.")
        texts = _as_error(texts)
    message: Message = {"role": "tool", "tool_call_id": call, "content": _simple(texts)}
    if block.get("cache_control") is not None:
        message["cache_control"] = block["cache_control"]
    return message


def _as_error(texts: list[Part]) -> list[Part]:
    """A failed tool's text, which must say so itself."""
    if not texts:
        return [{"type": "text", "text": "Error"}]
    first = texts[0]["text"]
    if "error" in first[:64].lower():
        return texts
    return [{**texts[0], "text": f"Error: {first}"}, *texts[1:]]


def _assistant(content: object, path: str, report: Report) -> Message:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts: list[Part] = []
    calls: list[Part] = []
    thinking: list[Obj] = []
    for i, item in enumerate(a_list(content, path)):
        where = f"{path}[{i}]"
        block = an_object(item, where)
        kind = block.get("type")
        if kind == "tool_use":
            calls.append(_call(block, where, report))
        elif kind == "thinking" or kind == "redacted_thinking":
            a_string(block, "thinking" if kind == "thinking" else "data", where)
            thinking.append(block)
        elif kind == "text":
            report.extras(block, _KNOWN["text"], where)
            texts += _text(block, where, report)
        else:
            report.cannot(f"{where}.type", f"blocks of type '{kind}' in an assistant's turn have no counterpart in the chat format.")
    message: Message = {"role": "assistant", "content": _simple(texts) if texts or not calls else None}
    _think(message, thinking)
    if calls:
        message["tool_calls"] = calls
    return message


def _think(message: Message, blocks: list[Obj]) -> None:
    """Signed blocks go back whole. An empty signature is what this surface gives to reasoning that came without: such a block
    is no block of Anthropic's, and only its text goes back, as `reasoning_content`."""
    kept = [b for b in blocks if b["type"] == "redacted_thinking" or b.get("signature")]
    text = "".join(b["thinking"] for b in blocks if b["type"] == "thinking")
    if kept:
        message["thinking_blocks"] = kept
    if text:
        message["reasoning_content"] = text


def _call(block: Obj, path: str, report: Report) -> Part:
    report.extras(block, _KNOWN["tool_use"], path)
    given = block.get("input")
    if given is None:
        given = {}
    arguments = msgspec.json.encode(an_object(given, f"{path}.input")).decode()
    function = {"name": a_string(block, "name", path), "arguments": arguments}
    return _marked({"id": a_string(block, "id", path), "type": "function", "function": function}, block)[0]


def _simple(parts: list[Part]) -> str | list[Part]:
    """A string where one plain text part says the same: every server takes that."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        text: str = parts[0]["text"]
        return text
    return parts
