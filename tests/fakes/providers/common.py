"""What all scripted providers share: rules with their sources, refusals, faults on demand, seals, and the frame of a responder."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.answers import JSON, dumps, respond
from tests.fakes.engine import Engine
from tests.fakes.request import Request
from tests.fakes.script import Ending, Gate, Script, Step


@dataclass(frozen=True)
class Rule:
    """One thing that a provider refuses. `message` is a format string; `source` says how we know (SDK type, page, issue, trap number)."""

    message: str
    source: str
    status: int = 400
    kind: str = "invalid_request_error"


class Rejected(Exception):
    """A request that broke a rule. `name` is the rule's in its provider's table."""

    def __init__(self, name: str, rule: Rule, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name, self.rule, self.message = name, rule, message

    @property
    def status(self) -> int:
        return self.rule.status


def reject(rules: Mapping[str, Rule], name: str, /, **values: object) -> Rejected:
    """The refusal by a rule of a table, its message filled in. To be raised by the caller."""
    rule = rules[name]
    return Rejected(name, rule, rule.message.format(**values))


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request instead of, or during, its answer.

    status: this error is the whole answer (`headers` go with it, `kind` replaces the provider's word for the status).
    after: so many stream events are sent first; then, with `error`, the provider's own error event, and the stream ends by `ending`.
    A whole (unstreamed) answer is cut in its middle instead. gate: where the answer waits, after `after` events, before it goes on.
    """

    status: int = 0
    message: str = "scripted failure"
    kind: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    details: Any = None
    after: int = 0
    error: bool = False
    ending: Ending = "fin"
    gate: Gate | None = None


@dataclass(frozen=True)
class Reply:
    """A good answer before its framing: one part, or one a stream event."""

    parts: Sequence[bytes]
    content_type: str = JSON
    stream: bool = False
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Provider:
    """The frame: an `Engine` responder. Subclasses give `serve`, `refusal`, `failure` and `error_event`.

    `requests` and `rejected` grow in order of arrival, for asserts. Runs on the engine's loop; `fail` may be called from the test.
    """

    name: str = "provider"
    secret: bytes = b"a fake's own secret"
    requests: list[Request] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    made: int = 0  # answers begun; ids are counted from it
    _faults: deque[Fault] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, *faults: Fault) -> None:
        """Faults for the next requests, in order."""
        with self._lock:
            self._faults.extend(faults)

    def __call__(self, request: Request) -> Script:
        with self._lock:
            self.requests.append(request)
            fault = self._faults.popleft() if self._faults else None
        if fault is not None and fault.status:
            return self.failure(fault)
        try:
            reply = self.serve(request)
        except Rejected as rejected:
            self.rejected.append(rejected)
            return self.refusal(rejected)
        return self.framed(reply, fault)

    def framed(self, reply: Reply, fault: Fault | None) -> Script:
        """The script of a reply, with what goes wrong in it."""
        steps: list[Step] = list(reply.parts)
        framing = "chunked" if reply.stream else "length"
        if fault is None:
            return respond(steps, content_type=reply.content_type, framing=framing, headers=reply.headers)  # type: ignore[arg-type]
        if fault.gate is not None:
            steps.insert(fault.after, fault.gate)
            return respond(steps, content_type=reply.content_type, framing=framing, headers=reply.headers)  # type: ignore[arg-type]
        if not reply.stream:
            whole = respond(steps, content_type=reply.content_type, headers=reply.headers)
            return whole.but(cut=len(whole.raw) - len(reply.parts[0]) // 2 - 1, ending=fault.ending)
        steps = steps[: fault.after] + ([self.error_event(fault)] if fault.error else [])
        whole = respond(steps, content_type=reply.content_type, framing="chunked", headers=reply.headers)
        # An error event is followed by a proper end of the body; a cut is not.
        return whole if fault.error else whole.but(cut=len(whole.raw) - len(b"0\r\n\r\n"), ending=fault.ending)

    def serve(self, request: Request) -> Reply:
        raise NotImplementedError

    def refusal(self, rejected: Rejected) -> Script:
        raise NotImplementedError

    def failure(self, fault: Fault) -> Script:
        raise NotImplementedError

    def error_event(self, fault: Fault) -> bytes:
        raise NotImplementedError

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serves on a free port of the loopback for the time of the block; gives the base URL without a path."""
        with Engine(responder=self) as engine:
            yield root(engine)


def root(engine: Engine) -> str:
    """The URL of an engine without `/v1`."""
    return engine.url.removesuffix("/v1")


# Seals: opaque values that only the fake that made them can verify, as providers sign their thinking.


def seal(secret: bytes, kind: bytes, text: str) -> str:
    """A signature of a text (kind `T`), or one that goes with the text left out (kind `O`)."""
    core = kind + hashlib.sha256(text.encode()).digest()[:15]
    return base64.b64encode(core + hmac.digest(secret, core, "sha256")[:20]).decode()


def opened(secret: bytes, value: str) -> bytes | None:
    """The core of a genuine seal: its kind and the text's digest. None for anything altered or foreign."""
    try:
        raw = base64.b64decode(value, validate=True)
    except ValueError:
        return None
    return raw[:16] if len(raw) == 36 and hmac.compare_digest(hmac.digest(secret, raw[:16], "sha256")[:20], raw[16:]) else None


def sealed(secret: bytes, value: str, text: str) -> bool:
    """Whether `value` is the genuine seal of exactly this text, or of one that was left out (then `text` must be empty)."""
    core = opened(secret, value)
    if core is None:
        return False
    return text == "" if core[:1] == b"O" else core == b"T" + hashlib.sha256(text.encode()).digest()[:15]


def pieces(text: str, size: int = 7) -> list[str]:
    """A text in parts of `size` characters, as stream deltas carry it."""
    return [text[at : at + size] for at in range(0, len(text), size)]


def name_of(number: int, prefix: str, length: int = 22) -> str:
    """A repeatable opaque id: letters and digits that tell nothing of their order."""
    digest = hashlib.sha256(f"{prefix}{number}".encode()).digest()
    return prefix + base64.b32encode(digest).decode().rstrip("=")[:length]


def json_error(status: int, doc: Any, headers: Sequence[tuple[str, str]] = ()) -> Script:
    """An error answer with a JSON body."""
    return respond([dumps(doc)], status=status, headers=headers)
