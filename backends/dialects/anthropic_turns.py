"""Chat messages as Anthropic's system prompt and turns: tool results where they must be, thinking first, no empty block. Pure.

Sources: `MessageParam` and `ToolResultBlockParam` of the official SDK; wire traps 1, 5, 6, 7, 15, 16, 18, 19, 40.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from backends import wire
from backends.dialects.anthropic_content import Parts, marked, text_block
from backends.dialects.anthropic_report import Block, Report
from backends.dialects.types import Facts

_PREFIX = "pmid_"
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_THINKING = {"thinking": ("thinking", "signature"), "redacted_thinking": ("data",)}
NO_RESULT = "The call was not carried out: its result is missing from the conversation."
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Function(msgspec.Struct):
    """A call's name and arguments: JSON text, or an object as some clients send it."""

    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCall(msgspec.Struct):
    """One tool call of an assistant message."""

    function: Function
    id: str | None = None


class Message(msgspec.Struct):
    """One chat message, as far as Anthropic can be told of it. `is_error` marks a tool's failure."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking_blocks: list[dict[str, Any]] | None = None
    extra_content: dict[str, Any] | None = None
    refusal: str | None = None
    cache_control: dict[str, Any] | None = None
    is_error: bool | None = None
    audio: dict[str, Any] | None = None
    function_call: dict[str, Any] | None = None


def wire_id(id: str) -> str:
    """A tool call's id in the characters that Anthropic takes (`^[a-zA-Z0-9_-]+$`). Different ids stay different; `plain_id` undoes it."""
    if id and _ALLOWED.issuperset(id) and not id.startswith(_PREFIX):
        return id
    return _PREFIX + base64.urlsafe_b64encode(id.encode("utf-8", "surrogatepass")).rstrip(b"=").decode()


def plain_id(id: str) -> str:
    """What `wire_id` was made from; ids of Anthropic's own are returned as they are."""
    if not id.startswith(_PREFIX):
        return id
    text = id[len(_PREFIX) :]
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8", "surrogatepass")
    except ValueError:
        return id


def arguments(text: str | dict[str, Any] | None, where: str, report: Report) -> Any:
    """A call's arguments as an object. Text that is no JSON object, as small models write it, is kept inside one, with a note."""
    if not text:
        return {}
    if isinstance(text, dict):
        return text
    if not text.strip():
        return {}
    try:
        _object.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        report.tell(where, "emulated", "is not a JSON object; sent as one with the text under 'invalid_arguments'")
        return {"invalid_arguments": text}
    return msgspec.Raw(text.encode())


class Turns:
    """Builds the conversation message by message. `system` and `turns` are the result; `names` are the tools that were called in it."""

    __slots__ = ("called", "facts", "names", "open", "parts", "report", "system", "turns")

    def __init__(self, facts: Facts, report: Report) -> None:
        self.facts, self.report = facts, report
        self.parts = Parts(facts, report)
        self.system: list[Block] = []
        self.turns: list[Block] = []
        self.called: set[str] = set()  # ids as sent, of the whole conversation: they must be unique
        self.open: list[tuple[str, str, str]] = []  # calls without a result yet: (client's id, id as sent, path)
        self.names: list[str] = []

    def add(self, message: Message, where: str) -> None:
        """Takes the next message. Raises `Fault` (bad_request) for what cannot be sent."""
        role = message.role
        if role == "tool":
            self._result(message, where)
            return
        self.close()
        if message.name is not None:
            self.report.tell(f"{where}.name", "dropped", "Anthropic has no names of participants")
        if role in ("system", "developer"):
            self._system(message, where)
        elif role == "assistant":
            self._assistant(message, where)
        elif role == "user":
            self._user(message, where)
        else:
            raise wire.bad(f"'{where}.role' is {role!r}; use system, developer, user, assistant or tool.", param=f"{where}.role")

    def close(self) -> None:
        """Gives every call that is still open a result that says there is none: Anthropic refuses a call without."""
        for _, sent, where in self.open:
            self.report.tell(where, "emulated", "has no tool message; a result that says so was added")
            self._results().append({"type": "tool_result", "tool_use_id": sent, "content": NO_RESULT, "is_error": True})
        self.open.clear()

    def _system(self, message: Message, where: str) -> None:
        blocks = _last_marked(self.parts.blocks(message.content, f"{where}.content"), message)
        if any(b["type"] != "text" for b in blocks):
            raise wire.bad(f"'{where}.content' may hold only text in a system message.", param=f"{where}.content")
        if not self.turns:
            self.system += blocks
        elif self.facts.late_system:
            self._turn("system", blocks, where)
        else:
            self.report.tell(where, "mapped", "moved to the system prompt, which Anthropic has before the conversation")
            self.system += blocks

    def _user(self, message: Message, where: str) -> None:
        blocks = _last_marked(self.parts.blocks(message.content, f"{where}.content"), message)
        last = self.turns[-1] if self.turns else None
        if last is not None and last["role"] == "user" and last["content"][-1]["type"] == "tool_result":
            last["content"] += blocks
        else:
            self._turn("user", blocks, where)

    def _assistant(self, message: Message, where: str) -> None:
        if message.function_call is not None:
            raise wire.bad(f"'{where}.function_call' is no longer taken; use tool_calls.", param=f"{where}.function_call")
        if message.audio is not None:
            self.report.tell(f"{where}.audio", "dropped", "Anthropic takes no audio")
        blocks = [*self._thinking(message, where), *_kept(message.extra_content)]
        blocks += self.parts.blocks(message.content, f"{where}.content")
        refusal = text_block(message.refusal or "")
        if refusal is not None:
            blocks.append(refusal)
        for i, call in enumerate(message.tool_calls or ()):
            blocks.append(self._call(call, f"{where}.tool_calls[{i}]"))
        self._turn("assistant", _last_marked(blocks, message), where)

    def _thinking(self, message: Message, where: str) -> list[Block]:
        """Thinking blocks as they came. Reasoning without a signature cannot be shown to Anthropic."""
        good = []
        for i, block in enumerate(message.thinking_blocks or ()):
            needed = _THINKING.get(block.get("type", ""))
            if needed is None or not all(isinstance(block.get(key), str) for key in needed) or not block[needed[-1]]:
                self.report.tell(f"{where}.thinking_blocks[{i}]", "dropped", "is no thinking block with a signature")
                continue
            good.append({key: block[key] for key in ("type", *needed)})
        if not good and (message.reasoning_content or message.reasoning):
            param = "reasoning_content" if message.reasoning_content else "reasoning"
            self.report.tell(f"{where}.{param}", "dropped", "has no signature of Anthropic's (thinking_blocks)")
        return good

    def _call(self, call: ToolCall, where: str) -> Block:
        id = call.id or ""
        stem = wire_id(id) if id else f"call_{len(self.called)}"
        sent, n = stem, 2
        while sent in self.called:
            sent, n = f"{stem}_{n}", n + 1
        self.called.add(sent)
        self.open.append((id, sent, where))
        self.names.append(call.function.name)
        given = arguments(call.function.arguments, f"{where}.function.arguments", self.report)
        return {"type": "tool_use", "id": sent, "name": call.function.name, "input": given}

    def _result(self, message: Message, where: str) -> None:
        id = message.tool_call_id or ""
        at = next((i for i, call in enumerate(self.open) if call[0] == id), None)
        if at is None:
            what = f"'{where}.tool_call_id' answers no call of the assistant message before it; send the call, or leave the result out."
            raise wire.bad(what, param=f"{where}.tool_call_id")
        block: Block = {"type": "tool_result", "tool_use_id": self.open.pop(at)[1]}
        if isinstance(message.content, str):
            if message.content:
                block["content"] = message.content
        elif content := self.parts.blocks(message.content, f"{where}.content"):
            block["content"] = content
        if message.is_error:
            block["is_error"] = True
        self._results().append(marked(block, {"cache_control": message.cache_control}))

    def _results(self) -> list[Any]:
        """The content of the user turn that holds the results of the calls just made."""
        if self.turns[-1]["role"] != "user":
            self.turns.append({"role": "user", "content": []})
        content: list[Any] = self.turns[-1]["content"]
        return content

    def _turn(self, role: str, blocks: list[Block], where: str) -> None:
        if blocks:
            self.turns.append({"role": role, "content": blocks})
        else:
            self.report.tell(where, "dropped", "has no content, which Anthropic refuses")


def _last_marked(blocks: list[Block], message: Message) -> list[Block]:
    """`blocks` with the message's own cache mark on the last one that may carry it. Mutates and returns them."""
    if message.cache_control is not None:
        for block in reversed(blocks):
            if block["type"] not in _THINKING:
                block.setdefault("cache_control", message.cache_control)
                break
    return blocks


def _kept(extra: dict[str, Any] | None) -> list[Block]:
    """Blocks of Anthropic's own tools (a web search and what it found) that an answer of ours carried in `extra_content`."""
    own = (extra or {}).get("anthropic")
    blocks = own.get("blocks") if isinstance(own, dict) else None
    good = [b for b in blocks if isinstance(b, dict) and isinstance(b.get("type"), str)] if isinstance(blocks, list) else []
    return [{key: value for key, value in b.items() if key != "index"} for b in good]  # a streamed one has its number
