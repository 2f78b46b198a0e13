"""Captured requests: what a line of such a file says, and Responses as chats. Pure.

Nothing secret is taken over: headers with keys, cookies or signatures are dropped, and so are those that belong to the connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

T = TypeVar("T")
MOST = 1 << 24  # tokens of a prompt or of an answer
MOST_HEADERS = 64


class Line(msgspec.Struct, frozen=True):
    """One request. `at`: seconds from the first; `timed`: its file has times; tokens 0: not known. `blocks`: what stands for each 512
    tokens of its prompt with all before them; `body`: as captured, with `headers`; `number`: its line, from 1."""

    at: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    body: bytes | None = None
    headers: dict[str, str] = {}
    number: int = 0
    timed: bool = True


class BadLine(Exception):
    """What is wrong with a line, as the rest of the sentence `line 7 of x.jsonl ...`."""


class _Captured(msgspec.Struct):
    body: dict[str, Any] | None = None
    at: Annotated[float, msgspec.Meta(ge=-1e16, le=1e16)] | None = None
    headers: dict[str, str] = {}
    input_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST)] = 0
    output_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST)] = 0


_captured = msgspec.json.Decoder(_Captured)
_any = msgspec.json.Decoder()
_SHAPE = 'write {"at": seconds, "body": {"messages": [...]}}'


def decoded(decoder: msgspec.json.Decoder[T], row: bytes) -> T:
    """A line as JSON of a known shape. Raises `BadLine`."""
    try:
        return decoder.decode(row)
    except msgspec.ValidationError as error:
        raise BadLine(f"is bad: {str(error)[:120]}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadLine(f"is no JSON ({str(error)[:80]})") from None


def reader(first: bytes) -> Callable[[bytes], Line | None]:
    """What reads the lines of a file that begins with this one: either all have a time or none."""
    timed = _times(first)

    def parse(row: bytes) -> Line | None:
        value = decoded(_any, row)
        whole = _captured_of(value, row)
        if whole.at is None and timed:
            raise BadLine('has no time; give it "at", in seconds, as those before it have')
        if whole.at is not None and not timed:
            raise BadLine('has a time, but the first line has none; give all lines "at", or none')
        body = chat(whole.body or {})
        if body is None:
            return None
        asked = whole.output_tokens or _most(body)
        return Line(
            whole.at or 0.0, whole.input_tokens, asked, body=msgspec.json.encode(body), headers=kept(whole.headers), timed=timed
        )  # fmt: skip

    return parse


def _times(first: bytes) -> bool:
    try:
        value = _any.decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # the reader says so, with the line
    return isinstance(value, dict) and isinstance(value.get("body"), dict) and value.get("at") is not None


def _captured_of(value: object, row: bytes) -> _Captured:
    if isinstance(value, list):
        value = {"messages": value}
    if not isinstance(value, dict):
        raise BadLine(f"is no request; {_SHAPE}")
    if isinstance(value.get("body"), dict):
        whole = decoded(_captured, row)
    else:
        if "at" in value:
            raise BadLine(f'has "at" beside the request\'s own fields; {_SHAPE}')
        whole = _Captured(value)
    if not any(name in (whole.body or {}) for name in ("messages", "prompt", "input")):
        raise BadLine(f"holds no messages and no prompt; {_SHAPE}")
    return whole


def _most(body: Mapping[str, Any]) -> int:
    """The bound of an answer's tokens that the request itself names; 0 for none."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if type(value) is int and 0 < value <= MOST:
            return value
    return 0


_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_SECRET = ("auth", "cookie", "key", "token", "secret", "credential", "password", "signature")
_OURS = frozenset(
    "host connection content-length content-type content-encoding transfer-encoding accept accept-encoding keep-alive te trailer upgrade "
    "expect proxy-connection forwarded via user-agent x-real-ip cf-connecting-ip true-client-ip".split()
)


def kept(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that are sent again: none that is secret, none of the connection, none of who once sent it. Raises `BadLine`."""
    if len(headers) > MOST_HEADERS:
        raise BadLine(f"has {len(headers)} headers; at most {MOST_HEADERS} are sent")
    found = {}
    for name, value in headers.items():
        low = name.lower()
        if low in _OURS or low.startswith("x-forwarded-") or any(word in low for word in _SECRET):
            continue
        if not _NAME.fullmatch(name) or not (value.isascii() and value.isprintable()) or len(value) > 8192:
            raise BadLine(f"has a header {name[:40]!r} that cannot be sent; leave it out")
        found[name] = value
    return found


# -- Responses and Messages as chats ------------------------------------------------------------------------------------------------------

_CARRIED = ("temperature", "top_p", "parallel_tool_calls", "user", "metadata", "service_tier")


def chat(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """A body for chat or completions: as it is, or with the items of a Responses request as messages, or with `system` of a Messages
    request as one. None: it refers to what is not in it, or holds more than text and calls of functions."""
    if "input" in body and "messages" not in body and "prompt" not in body:
        if body.get("previous_response_id") is not None or body.get("conversation") is not None:
            return None
        given = body["input"]
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        return from_items(items, body) if isinstance(items, list) else None
    if "system" in body and isinstance(body.get("messages"), list):
        text = _text(body["system"])
        if text is None:
            return None
        return {name: value for name, value in body.items() if name != "system"} | {
            "messages": [{"role": "system", "content": text}, *body["messages"]]
        }
    return dict(body)


def from_items(items: Iterable[object], told: Mapping[str, Any]) -> dict[str, Any] | None:
    """The chat that the items of a conversation come to. `told`: the Responses request, or the Response, with `instructions`, `tools` and
    the rest. None: see `chat`."""
    messages: list[dict[str, Any]] = []
    if isinstance(told.get("instructions"), str) and told["instructions"]:
        messages.append({"role": "system", "content": told["instructions"]})
    for item in items:
        if isinstance(item, dict) and item.get("type") == "reasoning":
            continue
        if not isinstance(item, dict) or not _add(messages, item):
            return None
    tools = told.get("tools") or []
    functions = [_function(tool) for tool in tools] if isinstance(tools, list) else [None]
    if None in functions or not any(message["role"] != "system" for message in messages):
        return None
    found: dict[str, Any] = {"messages": messages} | ({"tools": functions} if functions else {})
    found |= {name: told[name] for name in _CARRIED if told.get(name) is not None}
    if type(told.get("max_output_tokens")) is int:
        found["max_tokens"] = told["max_output_tokens"]
    return found


def _add(messages: list[dict[str, Any]], item: Mapping[str, Any]) -> bool:
    """Appends an item; False where it is nothing that a chat has."""
    kind = item.get("type", "message")
    if kind == "function_call":
        call = {"id": str(item.get("call_id")), "type": "function",
                "function": {"name": str(item.get("name")), "arguments": str(item.get("arguments"))}}  # fmt: skip
        if messages and messages[-1]["role"] == "assistant":
            messages[-1].setdefault("tool_calls", []).append(call)
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        return True
    text = _text(item.get("output" if kind == "function_call_output" else "content"))
    if text is None:
        return False
    if kind == "function_call_output":
        messages.append({"role": "tool", "tool_call_id": str(item.get("call_id")), "content": text})
        return True
    role = {"developer": "system"}.get(str(item.get("role")), item.get("role"))
    if kind != "message" or role not in ("system", "user", "assistant"):
        return False
    messages.append({"role": role, "content": text})
    return True


def _text(content: object) -> str | None:
    """Content as plain text; None where it is something else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    found = []
    for part in content:
        text = part.get("text", part.get("refusal")) if isinstance(part, dict) else None
        if not isinstance(text, str):
            return None
        found.append(text)
    return "".join(found)


def _function(tool: object) -> dict[str, Any] | None:
    """A function of a Responses request as chat has it."""
    if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("name"), str):
        return None
    return {"type": "function", "function": {name: tool[name] for name in ("name", "description", "parameters", "strict") if name in tool}}
