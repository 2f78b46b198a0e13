"""Every golden case of every dialect and surface: requests, whole answers, and streams whole, byte by byte and cut in two everywhere.

A case is a JSON file `dialects/<name>/<case>.json` (keys: `Case`). What is written for a client or a provider must also be read by its
official SDK. A class that does not exist yet skips its cases.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from backends import wire
from backends.dialects.types import Context, Facts, Note
from backends.types import Fault
from tests.golden.readers import READERS

HERE = Path(__file__).parent / "dialects"
DIALECTS = {"anthropic": "Anthropic", "gemini": "Gemini", "bedrock": "Bedrock"}
SURFACES = {"messages": "Messages", "responses": "Responses"}


class RequestCase(msgspec.Struct, forbid_unknown_fields=True, rename={"into": "in"}):
    """`out`, or `refused`: the parameter that the refusal names. No `headers`, no `notes`: there are none. No `path`: any."""

    into: msgspec.Raw
    out: Any = None
    path: str | None = None
    headers: list[tuple[str, str]] = []
    notes: list[tuple[str, str]] = []
    refused: str | None = None


class ReplyCase(msgspec.Struct, forbid_unknown_fields=True, rename={"into": "in"}):
    """`out`, or `fault`: a part of the message of the Fault that it raises."""

    into: msgspec.Raw
    out: Any = None
    fault: str | None = None


class StreamCase(msgspec.Struct, forbid_unknown_fields=True, rename={"into": "in"}):
    """Events without the empty line that ends each. `cut`: the answer is not whole, so nothing may say that it is."""

    into: list[str]
    out: list[str]
    cut: bool = False


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the context is made of; `facts` are those that differ from the defaults."""

    id: str = "req-1"
    unix: int = 1_700_000_000
    model: str = "m"
    stream: bool = False
    facts: Facts = Facts()
    strict: bool = True


class Case(msgspec.Struct, forbid_unknown_fields=True):
    """One file. `traps` are numbers of the list of wire-format traps that the case is about."""

    request: RequestCase
    traps: list[int] = []
    context: Told = Told()
    reply: ReplyCase | None = None
    stream: StreamCase | None = None
    about: str = ""


_case = msgspec.json.Decoder(Case)
_any = msgspec.json.Decoder()


def cases(part: str = "request") -> list[Any]:
    """All cases that have `part`, as pytest parameters (dialect, path)."""
    found = []
    for path in sorted(HERE.glob("*/*.json")):
        if getattr(_case.decode(path.read_bytes()), part) is not None:
            found.append(pytest.param(path.parent.name, path, id=f"{path.parent.name}/{path.stem}"))
    return found


def made(name: str) -> Any:
    """The dialect or surface `name`."""
    module = importlib.import_module(f"backends.dialects.{name}")
    return getattr(module, (DIALECTS | SURFACES)[name])()


def compact(raw: msgspec.Raw) -> bytes:
    """JSON as it is on the wire: a case's file has white space for its readers."""
    return msgspec.json.format(bytes(raw), indent=-1)


class Side:
    """One case made ready: a dialect and a surface through the same three calls."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.surface = name, name in SURFACES
        self.case = _case.decode(path.read_bytes())
        told = self.case.context
        self.context = Context(told.id, told.unix, told.model, told.stream, told.facts, told.strict)
        self.doc = wire.parse(compact(self.case.request.into))
        self.one = made(name)

    def request(self) -> tuple[bytes, tuple[Note, ...], tuple[tuple[str, str], ...], str | None]:
        """(body, notes, headers, path)"""
        if self.surface:
            doc, notes = self.one.request(self.doc)
            return wire.encode(doc), notes, (), None
        request = self.one.request(self.doc, self.context)
        return request.body, request.notes, request.headers, request.path

    def reply(self, body: bytes) -> bytes:
        if self.surface:
            out: bytes = self.one.reply(body, self.doc, self.context)
        else:
            out = self.one.reply(body, self.one.request(self.doc, self.context), self.context)
        return out

    def stream(self) -> Any:
        if self.surface:
            return self.one.stream(self.doc, self.context)
        return self.one.stream(self.one.request(self.doc, self.context), self.context)


@pytest.mark.parametrize(("name", "path"), cases())
def test_request(name: str, path: Path) -> None:
    side = Side(name, path)
    case = side.case.request
    before = wire.encode(side.doc)
    if case.refused is not None:
        with pytest.raises(Fault) as refusal:
            side.request()
        fault = refusal.value
        assert (fault.kind, fault.origin, fault.param) == ("bad_request", "client", case.refused), fault
    else:
        body, notes, headers, where = side.request()
        assert _any.decode(body) == case.out
        assert sorted((n.param, n.fate) for n in notes) == sorted(case.notes)
        assert all(n.why for n in notes)
        assert list(headers) == case.headers
        assert case.path is None or where == case.path
        if (reader := READERS.get((name, "request"))) is not None:
            reader(body)
    assert wire.encode(side.doc) == before, "the client's document was changed"


@pytest.mark.parametrize(("name", "path"), cases("reply"))
def test_reply(name: str, path: Path) -> None:
    side = Side(name, path)
    case = side.case.reply
    assert case is not None
    if case.fault is not None:
        with pytest.raises(Fault) as failure:
            side.reply(compact(case.into))
        assert failure.value.origin == "backend" and case.fault in failure.value.message
        return
    out = side.reply(compact(case.into))
    assert _any.decode(out) == case.out
    READERS[name, "reply"](out)


@pytest.mark.parametrize(("name", "path"), cases("stream"))
def test_stream(name: str, path: Path) -> None:
    side = Side(name, path)
    case = side.case.stream
    assert case is not None
    data = "".join(event + "\n\n" for event in case.into).encode()
    expected = [parsed(event.encode()) for event in case.out]
    whole = played(side, [data])
    assert whole == expected
    for other in (data, data.replace(b"\n", b"\r\n")):
        assert played(side, [other[i : i + 1] for i in range(len(other))]) == expected
    for at in range(1, len(data)):
        assert played(side, [data[:at], data[at:]]) == expected, at
    read = READERS[name, "event"]
    client: Any = ChatCompletionStreamState()
    for event_name, content in whole:
        if isinstance(content, dict) and "error" not in content:
            seen = read(msgspec.json.encode(content))
            if name in DIALECTS:
                client.handle_chunk(seen)  # what the official client joins to one answer
        assert event_name is None or not isinstance(content, dict) or content.get("type") == event_name
    if case.cut:
        check_cut(whole)


def check_cut(whole: list[tuple[str | None, Any]]) -> None:
    """Neither an end nor a finish in the events of an answer that was cut."""
    for event_name, content in whole:
        assert content != "[DONE]" and event_name not in ("message_stop", "response.completed")
        for choice in content.get("choices", []) if isinstance(content, dict) else []:
            assert choice["finish_reason"] is None


def played(side: Side, parts: list[bytes]) -> list[tuple[str | None, Any]]:
    """The events that a new stream makes of `parts`. What `feed` gives is whole events."""
    stream = side.stream()
    out = []
    for part in parts:
        piece = stream.feed(part)
        assert not piece or piece.endswith(b"\n\n")
        out.append(piece)
    out.append(stream.close())
    return [parsed(event) for event in b"".join(out).split(b"\n\n") if event]


def parsed(event: bytes) -> tuple[str | None, Any]:
    """(name, content): the content as JSON, or text where it is none; comments as (":", text)."""
    if event.startswith(b":"):
        return ":", event[1:].strip().decode()
    name, data = None, []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"event":
            name = value.strip().decode()
        elif field == b"data":
            data.append(value.strip())
    text = b"\n".join(data)
    return name, _any.decode(text) if text[:1] in b"{[" and text != b"[DONE]" else text.decode()
