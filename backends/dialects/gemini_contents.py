"""Chat messages → Gemini's `systemInstruction` and `contents`. Pure.

Gemini knows two roles, `user` and `model`. It wants the results of a turn's function calls in one `user` content, as many as there
were calls, and matches them by name (wire traps 8, 16, 17). It refuses empty parts, and a function call that does not follow a
user's turn, so neighbouring model turns are joined.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.dialects import gemini_media
from backends.dialects.gemini_chat import Extra, Message, Notes, Part, ToolCall
from backends.dialects.types import Facts
from backends.wire import bad

# Google's own word for a function call whose signature is not known (made by another model, or by hand). Models that think in levels
# refuse such a call without one; it is only wanted on the first call of a turn. Source: Google's "Thought signatures", FAQ.
NO_SIGNATURE = "skip_thought_signature_validator"
_ROLES = {"tool", "function", "user", "assistant", "system", "developer"}
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])

Out = dict[str, Any]


class _Call(msgspec.Struct):
    """A call that waits for its result. `media`: what came with the result and is no text."""

    id: str
    name: str
    path: str
    result: Any = None
    media: list[Out] = []


def contents(messages: list[Message], facts: Facts, notes: Notes) -> tuple[list[Out], list[Out]]:
    """(parts of the system instruction, contents). Raises `Fault` (bad_request) for what cannot be a conversation."""
    made = _Contents(facts, notes)
    for i, message in enumerate(messages):
        made.add(message, f"messages[{i}]")
    made.settle()
    made.end(len(messages) - 1)
    if not made.contents:
        if not made.system:
            raise bad("'messages' has no content: at least one message must say something.", param="messages")
        notes.add("messages", "mapped", "Gemini wants a user's turn: the only instructions were sent as one")
        return [], [{"role": "user", "parts": made.system}]
    return made.system, made.contents


class _Contents:
    """The conversation so far. `waiting` are the calls of the last model turn, until what follows has answered them."""

    def __init__(self, facts: Facts, notes: Notes) -> None:
        self.facts, self.notes = facts, notes
        self.system: list[Out] = []
        self.contents: list[Out] = []
        self.waiting: list[_Call] = []

    def add(self, message: Message, path: str) -> None:
        """Adds one message."""
        role = message.role
        if role not in _ROLES:
            raise bad(f"'{path}.role' is '{role[:64]}'; it must be system, developer, user, assistant or tool.", param=f"{path}.role")
        self._notes(message, path)
        if role in ("tool", "function"):
            self._result(message, path)
            return
        self.settle()
        if role == "user":
            self._push("user", self._parts(message.content, path), path)
        elif role == "assistant":
            self._assistant(message, path)
        else:
            self._instruct(message, path)

    def end(self, last: int) -> None:
        """The last turn must be the user's where the model does not continue its own (wire trap 6)."""
        if not self.facts.prefill and self.contents and self.contents[-1]["role"] == "model":
            self.notes.lost(f"messages[{last}]", "this model does not continue an answer that was begun")
            self.contents.pop()

    def _notes(self, message: Message, path: str) -> None:
        if message.name is not None and message.role in ("user", "assistant", "system", "developer"):
            self.notes.add(f"{path}.name", "dropped", "Gemini's turns carry no names")
        parts = message.content if isinstance(message.content, list) else ()
        if message.cache_control is not None or any(p.cache_control is not None for p in parts):
            self.notes.add(f"{path}.cache_control", "dropped", "Gemini caches by itself, or by google.cached_content")
        if message.reasoning_content or message.reasoning or message.thinking_blocks:
            self.notes.add(f"{path}.reasoning_content", "dropped", "Gemini remembers its thoughts by their signatures, not by their text")
        if message.audio is not None:
            self.notes.add(f"{path}.audio", "dropped", "Gemini does not know another provider's audio by its id")
        if message.function_call is not None:
            raise bad(f"'{path}.function_call' is the old form: use tool_calls.", param=f"{path}.function_call")

    def _push(self, role: str, parts: list[Out], path: str) -> None:
        if not parts:
            self.notes.add(path, "dropped", "Gemini takes no empty message")
        elif role == "model" and self.contents and self.contents[-1]["role"] == "model":
            self.contents[-1]["parts"] += parts
        else:
            self.contents.append({"role": role, "parts": parts})

    def _instruct(self, message: Message, path: str) -> None:
        """System and developer messages go to the top, in order, wherever they stood (wire trap 1)."""
        texts = self._texts(message.content, path)
        if texts and self.contents:
            self.notes.add(path, "mapped", "Gemini has instructions at the start only: it was moved there")
        self.system += [{"text": text} for text in texts]

    def _texts(self, content: str | list[Part] | None, path: str) -> list[str]:
        if not isinstance(content, list):
            return [content] if content else []
        for i, part in enumerate(content):
            if part.type not in ("text", "refusal"):
                where = f"{path}.content[{i}].type"
                raise bad(f"'{where}' must be text: instructions hold nothing else.", param=where)
        return [text for part in content if (text := part.text or part.refusal)]

    def _parts(self, content: str | list[Part] | None, path: str) -> list[Out]:
        if not isinstance(content, list):
            return [{"text": content}] if content else []
        out: list[Out] = []
        for i, item in enumerate(content):
            if item.type in ("text", "refusal"):
                if text := item.text or item.refusal:
                    out.append({"text": text})
            elif (part := gemini_media.part(item, self.facts, self.notes, f"{path}.content[{i}]")) is not None:
                out.append(part)
        return out

    def _assistant(self, message: Message, path: str) -> None:
        parts = self._parts(message.content, path)
        if message.refusal:
            parts.append({"text": message.refusal})
        for i, image in enumerate(message.images or ()):
            if (part := gemini_media.part(image, self.facts, self.notes, f"{path}.images[{i}]")) is not None:
                parts.append(part)
        if signature := _signature(message.extra_content):
            last = next((p for p in reversed(parts) if "text" in p), None)
            if last is None:  # Gemini itself sends it in an empty text when the text has gone before
                parts.append(last := {"text": ""})
            last["thoughtSignature"] = signature
        for i, call in enumerate(message.tool_calls or ()):
            parts.append(self._call(call, f"{path}.tool_calls[{i}]"))
        self._demand_signature(parts)
        self._push("model", parts, path)

    def _demand_signature(self, parts: list[Out]) -> None:
        """The first call of a turn must be signed where the model thinks in levels (wire trap 40)."""
        first = next((p for p in parts if "functionCall" in p), None)
        if first is not None and self.facts.thinking == "level":
            first.setdefault("thoughtSignature", NO_SIGNATURE)

    def _call(self, call: ToolCall, path: str) -> Out:
        function = call.function
        if function is None or not function.name:
            raise bad(f"'{path}.function.name' is missing: Gemini takes calls of functions only.", param=f"{path}.function.name")
        self.waiting.append(_Call(call.id or "", function.name, path))
        out: Out = {"name": function.name, "args": self._arguments(function.arguments, path)}
        if call.id:
            out["id"] = call.id
        signature = _signature(call.extra_content)
        return {"functionCall": out, "thoughtSignature": signature} if signature else {"functionCall": out}

    def _arguments(self, arguments: Any, path: str) -> Any:
        """An object. Small models write what is none: it must not break the history (wire trap 15)."""
        if isinstance(arguments, dict):
            return arguments
        text = arguments if isinstance(arguments, str) else ""
        if not text.strip():
            return {}
        if (known := _as_object(text)) is not None:
            return known
        self.notes.add(f"{path}.function.arguments", "mapped", "it is no JSON object: sent as the text of one argument, 'arguments'")
        return {"arguments": text}

    def _result(self, message: Message, path: str) -> None:
        call = self._asked(message)
        if call is None:
            raise bad(f"'{path}' answers no tool call of the message before it; check tool_call_id.", param=f"{path}.tool_call_id")
        call.media, text = [], message.content
        if isinstance(text, list):
            for i, item in enumerate(text):
                where = f"{path}.content[{i}]"
                if item.type != "text" and (part := gemini_media.part(item, self.facts, self.notes, where)) is not None:
                    call.media.append(part)
            text = "\n".join(item.text for item in text if item.type == "text" and item.text)
        call.result = _response(text or "")

    def _asked(self, message: Message) -> _Call | None:
        """The call that a result is for: by id; some know names only (wire trap 17), or nothing but their order."""
        open_ = [c for c in self.waiting if c.result is None]
        if message.tool_call_id:
            return next((c for c in open_ if c.id == message.tool_call_id), None)
        return next((c for c in open_ if message.name in (None, c.name)), None)

    def settle(self) -> None:
        """Ends the results of the last calls: one content, in the order of the calls, none missing. What a result showed follows
        in a turn of its own, or inside the result where the model takes that."""
        if not self.waiting:
            return
        inside = self.facts.thinking == "level"  # Gemini 3 and later take media within a function's response
        parts, shown = [], []
        for call in self.waiting:
            if call.result is None:
                self.notes.add(call.path, "emulated", "the call was never answered, which Gemini refuses: an error was sent as its result")
                call.result = {"error": "The call was interrupted and has no result."}
            response: Out = {"name": call.name, "response": call.result}
            if call.id:
                response["id"] = call.id
            if inside and call.media:
                response["parts"] = call.media
            elif call.media:
                shown += [{"text": f"Shown by {call.name}:"}, *call.media]
            parts.append({"functionResponse": response})
        self.waiting = []
        self.contents.append({"role": "user", "parts": parts})
        if shown:
            self.contents.append({"role": "user", "parts": shown})


def _response(text: str) -> Any:
    """A function's result, which Gemini wants as an object. One that holds references would be refused (wire trap 10): sent as text."""
    if '"$' not in text and (known := _as_object(text)) is not None:
        return known
    return {"output": text}


def _as_object(text: str) -> dict[str, msgspec.Raw] | None:
    try:
        return _object.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return None


def _signature(extra: Extra | None) -> str | None:
    return extra.google.thought_signature if extra is not None and extra.google is not None else None
