"""Chat messages as Converse's `system` and `messages`. Pure.

What Converse demands beyond its types: turns alternate and a user begins; no blank text; every toolUse is answered by a toolResult in
the very next user turn, before any text; ids are unique and of `[a-zA-Z0-9_.:-]{1,64}`; a document comes with text. Sources: botocore's
service model of bedrock-runtime and the validation messages of the service that wire traps 5, 15, 16, 18, 19 and 40 quote.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from backends.dialects import bedrock_media as media
from backends.dialects.bedrock_job import Block, Job, bad, read
from backends.wire import Doc


class CacheControl(msgspec.Struct):
    type: str = "ephemeral"
    ttl: str | None = None


class Url(msgspec.Struct):
    url: str = ""


class File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class Audio(msgspec.Struct):
    data: str = ""
    format: str = ""


class Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Url | str | None = None
    file: File | None = None
    input_audio: Audio | None = None
    cache_control: CacheControl | None = None


class Function(msgspec.Struct):
    name: str
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    id: str | None = None
    type: str | None = None
    function: Function | None = None


class Message(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking_blocks: list[dict[str, Any]] | None = None
    cache_control: CacheControl | None = None


_messages = msgspec.json.Decoder(list[Message])
_object = msgspec.json.Decoder(dict[str, Any])
_ID = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:-")
_INTERRUPTED = "The call was interrupted; there is no result."
_POINT_FAMILIES = frozenset({"claude", "nova", "nova2", ""})  # who takes cachePoint
_MAX_POINTS = 4


class Turns(msgspec.Struct):
    """What became of the messages. `called` holds the names of all tools called in them; `bare` tells that the last assistant turn
    called tools and has no thinking before."""

    system: list[Block]
    messages: list[Block]
    called: list[str]
    bare: bool


def turns(doc: Doc, job: Job) -> Turns:
    """Translates `messages`. Raises `Fault` (bad_request) for what Bedrock would refuse or what would be lost."""
    messages = read(doc, "messages", _messages)
    if not messages:
        raise bad("'messages' must be a list of at least one message.", "messages")
    return _Builder(job).build(messages)


def point(control: CacheControl | None, where: str, job: Job) -> list[Block]:
    """The cache point that `cache_control` asks for, to be put after what it marks; empty for none."""
    if control is None:
        return []
    if job.family not in _POINT_FAMILIES:
        job.note(where, "dropped", "this model has no prompt cache on Bedrock")
        return []
    if control.ttl == "1h":
        return [{"cachePoint": {"type": "default", "ttl": "1h"}}]
    return [{"cachePoint": {"type": "default"}}]


def cap_points(lists: list[list[Block]], job: Job) -> None:
    """Leaves at most four cache points in all. `lists`: tools, system, and each turn's content, in this order; the earliest of
    the turns go first, since tools and system are what is shared most. Mutates the lists."""
    spots = [(blocks, i) for blocks in lists for i, block in enumerate(blocks) if "cachePoint" in block]
    fixed = sum("cachePoint" in block for blocks in lists[:2] for block in blocks)
    over = len(spots) - _MAX_POINTS
    if over <= 0:
        return
    gone = (spots[fixed:] + spots[:fixed])[:over]
    for blocks, i in sorted(gone, key=lambda spot: -spot[1]):
        del blocks[i]
    job.note("cache_control", "dropped", f"Bedrock takes {_MAX_POINTS} cache points; {over} of the earliest were left out")


class _Builder:
    """Builds the turns in one pass. Owns what is still open: the calls that await their results."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.system: list[Block] = []
        self.messages: list[Block] = []
        self.open: dict[str, str] = {}  # the client's id of a call that awaits its result → the id sent
        self.ids: set[str] = set()
        self.names: set[str] = set()  # of documents
        self.called: list[str] = []
        self.bare = False

    def build(self, messages: list[Message]) -> Turns:
        for i, message in enumerate(messages):
            self._message(message, f"messages[{i}]")
        self._close()
        if not self.messages:
            self._only_system(len(messages) - 1)
        if self.messages[0]["role"] == "assistant":
            self.job.cannot("messages[0].role", "its conversations begin with a user")
            self.messages.insert(0, {"role": "user", "content": [{"text": "Go on."}]})
        self._prefill(len(messages) - 1)
        return Turns(self.system, self.messages, self.called, self.bare)

    def _message(self, message: Message, where: str) -> None:
        role = message.role
        if role == "tool":
            self._result(message, where)
            return
        if message.name is not None:
            self.job.note(f"{where}.name", "dropped", "Converse has no names of participants")
        if role in ("system", "developer"):
            self._system(message, where)
        elif role in ("user", "assistant"):
            self._close()
            self._add(role, self._user(message, where) if role == "user" else self._assistant(message, where))
        else:
            raise bad(f"'{where}.role' is '{role}'; use system, developer, user, assistant or tool.", f"{where}.role")

    def _add(self, role: str, blocks: list[Block]) -> None:
        if not blocks:
            return
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
        else:
            self.messages.append({"role": role, "content": blocks})

    def _system(self, message: Message, where: str) -> None:
        blocks = self._texts(message, where)
        if self.messages and self.job.facts.late_system:
            self._close()
            self._add("system", blocks)
            return
        if self.messages and blocks:
            self.job.note(where, "mapped", "joined to the system text at the top")
        self.system += blocks

    def _only_system(self, last: int) -> None:
        if not self.system:
            raise bad("'messages' holds no text: Bedrock refuses empty messages.", "messages")
        self.job.note(f"messages[{last}].role", "emulated", "sent as a user's: Bedrock wants one turn at least")
        self.messages.append({"role": "user", "content": self.system})
        self.system = []

    def _texts(self, message: Message, where: str) -> list[Block]:
        """The content of a message that may hold text only."""
        for j, part in enumerate(_parts(message)):
            if part.type not in ("text", "refusal"):
                raise bad(f"'{where}.content[{j}]' is '{part.type}'; this message takes text only.", f"{where}.content[{j}]")
        return self._content(message, where)

    def _content(self, message: Message, where: str) -> list[Block]:
        """All parts as blocks, with cache points; blank text is left out."""
        blocks: list[Block] = []
        for j, part in enumerate(_parts(message)):
            spot = f"{where}.content[{j}]"
            block = self._part(part, spot)
            if block is not None:
                blocks += (block, *point(part.cache_control, f"{spot}.cache_control", self.job))
        return blocks + (point(message.cache_control, f"{where}.cache_control", self.job) if blocks else [])

    def _part(self, part: Part, where: str) -> Block | None:
        facts = self.job.facts
        if part.type in ("text", "refusal"):
            text = part.text if part.text is not None else part.refusal
            return {"text": text} if text and not text.isspace() else None
        if part.type == "image_url" and part.image_url is not None and facts.images:
            return media.image(part.image_url if isinstance(part.image_url, str) else part.image_url.url, f"{where}.image_url")
        if part.type == "file" and part.file is not None and facts.documents:
            if part.file.file_data is None:
                raise bad(f"'{where}.file' must carry 'file_data': Bedrock knows no uploaded files.", f"{where}.file")
            return media.document(part.file.file_data, part.file.filename or "", self.names, f"{where}.file.file_data")
        if part.type == "input_audio" and part.input_audio is not None and facts.audio:
            return media.audio(part.input_audio.data, part.input_audio.format, f"{where}.input_audio")
        raise bad(f"'{where}' is of the type '{part.type}', which this model does not take.", where)

    def _user(self, message: Message, where: str) -> list[Block]:
        blocks = self._content(message, where)
        if not blocks:
            self.job.note(where, "dropped", "it has no text, and Bedrock refuses empty messages")
        elif any("document" in block for block in blocks) and not any("text" in block for block in blocks):
            blocks.append({"text": "See the document."})
            self.job.note(where, "emulated", "a sentence was added: Bedrock takes documents only beside text")
        return blocks

    def _assistant(self, message: Message, where: str) -> list[Block]:
        thoughts = self._thoughts(message, where)
        blocks = thoughts + self._texts(message, where)
        if message.refusal and not message.refusal.isspace():
            blocks.append({"text": message.refusal})
        calls = message.tool_calls or []
        for j, call in enumerate(calls):
            blocks.append(self._call(call, f"{where}.tool_calls[{j}]"))
        self.bare = bool(calls) and not thoughts
        return blocks

    def _thoughts(self, message: Message, where: str) -> list[Block]:
        blocks = message.thinking_blocks or []
        if not blocks and (message.reasoning_content or message.reasoning):
            self.job.note(f"{where}.reasoning_content", "dropped", "without a signature Bedrock refuses it")
        out: list[Block] = []
        for j, block in enumerate(blocks):
            made = thought(block) if self.job.family in ("claude", "openai", "") else None
            if made is None:
                self.job.note(f"{where}.thinking_blocks[{j}]", "dropped", "this model does not take it back")
            else:
                out.append(made)
        return out

    def _call(self, call: ToolCall, where: str) -> Block:
        if call.function is None:
            raise bad(f"'{where}' is no function call; Bedrock knows no other.", where)
        name = call.function.name
        if name not in self.called:
            self.called.append(name)
        theirs = call.id or ""
        if theirs in self.open:
            raise bad(f"'{where}.id' is used twice in one message.", f"{where}.id")
        self.open[theirs] = sent = self._id(theirs, where)
        return {"toolUse": {"toolUseId": sent, "name": name, "input": self._arguments(call.function, where)}}

    def _id(self, theirs: str, where: str) -> str:
        """The id to send: the client's own where Bedrock takes it and no earlier turn used it, else one made from it and its place."""
        sent = theirs
        if not theirs or len(theirs) > 64 or not _ID.issuperset(theirs) or theirs in self.ids:
            sent = "call_" + sha256(f"{where} {theirs}".encode()).hexdigest()[:32]
        self.ids.add(sent)
        return sent

    def _arguments(self, function: Function, where: str) -> dict[str, Any]:
        if not function.arguments or function.arguments.isspace():
            return {}
        try:
            return _object.decode(function.arguments)
        except (msgspec.MsgspecError, RecursionError):
            # A small model wrote it earlier; a conversation must not end on that (wire trap 15).
            self.job.note(f"{where}.function.arguments", "emulated", 'no JSON object; sent as {"arguments": …}')
            return {"arguments": function.arguments}

    def _result(self, message: Message, where: str) -> None:
        sent = self.open.pop(message.tool_call_id or "", None)
        if sent is None:
            raise bad(f"'{where}' answers no call of the assistant's message before it; check its 'tool_call_id'.", f"{where}.tool_call_id")
        blocks = self._content(message, where)
        if any("audio" in block for block in blocks):
            raise bad(f"'{where}' holds audio, which no result of a tool may.", where)
        points = [block for block in blocks if "cachePoint" in block]
        inner = [block for block in blocks if "cachePoint" not in block]
        self._add("user", [{"toolResult": {"toolUseId": sent, "content": inner}}, *points])

    def _close(self) -> None:
        """Answers the calls that nobody answered, since Bedrock refuses a call without a result (wire trap 18)."""
        for theirs, sent in self.open.items():
            self._add("user", [{"toolResult": {"toolUseId": sent, "content": [{"text": _INTERRUPTED}], "status": "error"}}])
            self.job.note(f"tool_calls[{theirs}]", "emulated", "it has no result; one was added that says so")
        self.open.clear()

    def _prefill(self, last: int) -> None:
        """What the assistant has begun to say: trailing space is refused, and some models continue nothing (wire trap 6)."""
        turn = self.messages[-1]
        if turn["role"] != "assistant":
            return
        if not self.job.facts.prefill:
            self.job.cannot(f"messages[{last}]", "it does not continue an assistant's message")
            self.messages.pop()
            return
        block = turn["content"][-1]
        if "text" in block:
            block["text"] = block["text"].rstrip()


def _parts(message: Message) -> list[Part]:
    if isinstance(message.content, str):
        return [Part("text", message.content)]
    return message.content or []


def thought(block: dict[str, Any]) -> Block | None:
    """One of Anthropic's thinking blocks as Converse's; None for what Bedrock would refuse: without signature, or not base64."""
    kind, text, signature, data = (block.get(key) for key in ("type", "thinking", "signature", "data"))
    if kind == "thinking" and isinstance(text, str) and isinstance(signature, str) and signature:
        return {"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}}
    if kind == "redacted_thinking" and isinstance(data, str) and media.is_base64(data):
        return {"reasoningContent": {"redactedContent": data}}
    return None
