"""One client connection: requests of many shapes, cut anywhere, pipelined, again and again, against a model of what must be answered.

The model: requests are answered in order, each with its own text, each by the rules that hold for its head alone; a connection may be
closed after an answer (which then says so), and nothing that came in a body or behind a message is ever taken for a request.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from uvicorn.server import ServerState

from backends.outbox import Outbox
from backends.types import Call, Receiver, Target, Timeouts
from gateway.asgi import reply, run_exchange
from gateway.auth import Door
from gateway.config import KeyConfig
from gateway.front import BUSY, COLD, IDLE, Front
from gateway.serve import Generation
from tests.gateway.parts import JSON, FakeFlight, World

PREFIX = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nx-part: "  # the beginning of a head, left open
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"


class Pipe:
    """A transport that records what the client gets."""

    def __init__(self) -> None:
        self.out = b""
        self.closed = self.aborted = self.eof = False
        self.left = 0  # bytes that the client has not taken yet

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after the close"
        self.out += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        """What was given is given: a test gives whole reads."""

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def get_write_buffer_size(self) -> int:
        return self.left

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


@dataclass
class Wanted:
    """One request as the client means it."""

    text: str
    key: str
    status: int  # of its answer
    size: int  # bytes on the wire


class Answering(RuleBasedStateMachine):
    """A gateway with two keys, of which `two` may call nothing; its only replica answers at once or when told."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World(
            1, keys=(KeyConfig(name="one", hash=hash_of("sk-one")), KeyConfig(name="two", hash=hash_of("sk-two"), routes=()))
        )
        self.world.core.clients.outbox = Outbox(self.loop)
        link = self.world.links[0]
        self.held: list[FakeFlight] = []
        self.at_once = True
        self.asked: list[tuple[str, str]] = []  # tenant, text: what has reached the engine

        def send(call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> FakeFlight:
            flight = FakeFlight("0", call, target, timeouts, receiver)
            self.asked.append((call.tenant, json.loads(bytes(call.doc["text"]))))
            self.held.append(flight)
            if self.at_once:
                self.loop.call_soon(self.answer_one, flight)
            return flight

        link.send = send  # type: ignore[method-assign]
        self.count = 0
        self.dial()

    def answer_one(self, flight: FakeFlight) -> None:
        if not flight.over:
            flight.whole(b'{"text":%b}' % bytes(flight.call.doc["text"]), 200, JSON)
        if flight in self.held:
            self.held.remove(flight)

    def dial(self) -> None:
        config = uvicorn.Config(
            app=self.app, interface="asgi3", proxy_headers=False, lifespan="off", log_config=None, access_log=False, server_header=False
        )
        config.load()
        config.app_core = self.world.core  # type: ignore[attr-defined]
        self.server = ServerState()
        self.wire = Pipe()
        self.front = Front(config, self.server, {}, self.loop)
        self.run(lambda: self.front.connection_made(cast(Any, self.wire)))
        self.sent = b""  # all that the client means to send on this connection
        self.given = 0  # bytes of it that the gateway has got
        self.wanted: list[Wanted] = []
        self.behind_cold = False  # what comes next may be read together with a request that is not ours
        self.odd = False  # something was sent after which the connection ends

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """What is not hot, and what came together with it."""
        if scope["method"] == "POST":
            await run_exchange(self.world.core, "chat", scope, receive, send)
        else:
            await reply(send, 200, json.dumps({"text": scope["path"]}).encode())

    def run(self, work: Any) -> None:
        async def inner() -> None:
            work()
            for _ in range(60):  # turns of the loop: whatever is due happens
                await asyncio.sleep(0)

        self.loop.run_until_complete(inner())

    # --- what the client means
    def body(self, key: str, text: str, pad: int) -> bytes:
        return json.dumps({"model": "m", "text": text, "pad": "x" * pad}).encode()

    @precondition(lambda self: not self.odd)
    @rule(
        key=st.sampled_from(["sk-one", "sk-one", "sk-one", "sk-two", "sk-none"]), pad=st.sampled_from([0, 3, 90, 2000]),
        how=st.sampled_from([*["plain"] * 3, "chunked", "trailers", "offer", "zeros", "other order", "expect", "hidden", "cold"]),
    )  # fmt: skip
    def request(self, key: str, pad: int, how: str) -> None:
        self.count += 1
        if self.behind_cold and how in ("offer", "trailers"):
            how = "plain"  # uvicorn loses the body of the one, and takes trailers for headers
        text = f"number {self.count}"
        if how == "hidden":  # a request within a text is a text
            text += "\r\n\r\n" + PREFIX.decode() + "x\r\ncontent-length: 2\r\n\r\n{}"
        body = self.body(key, text, pad)
        auth = b"authorization: Bearer %b\r\n" % key.encode()
        line = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        if how == "cold":
            raw = b"GET /" + b"%d" % self.count + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
            self.behind_cold = True
            self.want(f"/{self.count}", "", 200, raw)
            return
        if how in ("chunked", "trailers"):
            trailer = b"authorization: Bearer sk-one\r\n" if how == "trailers" else b""
            half = len(body) // 2
            framed = b"%x\r\n%b\r\n%x;a=b\r\n%b\r\n0\r\n%b\r\n" % (half, body[:half], len(body) - half, body[half:], trailer)
            raw = line + auth + b"transfer-encoding: chunked\r\n\r\n" + framed
        elif how == "zeros":
            raw = line + auth + b"content-length: 000%d\r\n\r\n" % len(body) + body
        elif how == "other order":
            raw = line + b"content-length: %d\r\n" % len(body) + auth + b"\r\n" + body
        elif how == "offer":
            raw = line + OFFER + auth + b"content-length: %d\r\n\r\n" % len(body) + body
        elif how == "expect":
            raw = line + auth + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        else:
            raw = line + auth + b"content-length: %d\r\n\r\n" % len(body) + body
        status = {"sk-one": 200, "sk-two": 404, "sk-none": 401}[key]
        self.want(text, {"sk-one": "one", "sk-two": "two"}.get(key, ""), status, raw)

    def want(self, text: str, tenant: str, status: int, raw: bytes) -> None:
        self.wanted.append(Wanted(text, tenant, status, len(raw)))
        self.sent += raw

    @precondition(lambda self: not self.odd)
    @rule(odd=st.sampled_from([PREFIX, b"G", b"rubbish\r\n\r\n", b"\x00"]))
    def something_odd(self, odd: bytes) -> None:
        """The client ends with what is no request, or only the beginning of one."""
        self.sent += PREFIX if self.behind_cold else odd  # uvicorn refuses rubbish before it has answered what came before
        self.odd = True

    # --- what comes through
    @precondition(lambda self: self.given < len(self.sent))
    @rule(share=st.integers(1, 40))
    def give(self, share: int) -> None:
        """The gateway gets a piece: an odd number of bytes, or all."""
        rest = self.sent[self.given :]
        self.hand(rest[: max(1, len(rest) * share // 40)])

    @precondition(lambda self: self.given < len(self.sent))
    @rule()
    def give_one(self) -> None:
        """The gateway gets just one whole request, or what is left of one."""
        bound = 0
        for one in self.wanted:
            bound += one.size
            if bound > self.given:
                break
        self.hand(self.sent[self.given : max(bound, self.given + 1)])

    def hand(self, data: bytes) -> None:
        self.given += len(data)
        if not self.wire.closed:
            self.run(lambda: self.front.data_received(data))
        self.check()

    @rule(at_once=st.booleans())
    def pace(self, at_once: bool) -> None:
        self.at_once = at_once
        for flight in [*self.held]:
            self.run(lambda flight=flight: self.answer_one(flight))
        self.check()

    @rule()
    def reload(self) -> None:
        """Another generation with the same keys: what a connection has learned of them is asked anew."""
        core = self.world.core
        old = core.generation
        keys = (KeyConfig(name="one", hash=hash_of("sk-one")), KeyConfig(name="two", hash=hash_of("sk-two"), routes=()))
        core.swap(Generation(old.number + 1, old.server, Door(keys, ("127.0.0.1",), ()), old.routes))

    @rule()
    def hang_up(self) -> None:
        self.finish()
        self.run(lambda: self.front.connection_lost(None))
        assert not self.world.core.inflight
        self.held.clear()
        self.asked.clear()
        self.dial()

    # --- the model's word
    def check(self) -> None:
        answers = parsed(self.wire.out)
        assert len(answers) <= len(self.wanted) + self.odd
        for (status, closes, body), one in zip(answers, self.wanted, strict=False):
            assert status == one.status, (status, body, one)
            assert status != 200 or json.loads(body)["text"] == one.text
            assert not closes or status != 200 or self.wire.closed
        if len(answers) == len(self.wanted):
            self.behind_cold = False
        reached = [(w.key, w.text) for w in self.wanted if w.status == 200 and w.key]
        assert self.asked == reached[: len(self.asked)], "something reached the engine that nobody asked for"

    def finish(self) -> None:
        """Everything that was sent has been answered, but for what came after an answer that closed the connection."""
        if self.given < len(self.sent):
            self.hand(self.sent[self.given :])
        self.pace(True)
        answers = parsed(self.wire.out)
        closed = any(closes for _, closes, _ in answers) or self.wire.closed or self.wire.eof
        assert closed or len(answers) >= len(self.wanted), (answers, self.wanted, self.front.state)
        if not closed and not self.odd:
            assert self.front.state in (IDLE, COLD)
        assert self.front.state != BUSY or self.wire.closed

    def teardown(self) -> None:
        try:
            self.hang_up()
            self.run(lambda: self.front.connection_lost(None))
        finally:
            self.loop.close()


def hash_of(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def parsed(raw: bytes) -> list[tuple[int, bool, bytes]]:
    """Whole answers: status, whether the connection closes, body. Interim ones are passed over."""
    out = []
    while raw:
        head, mark, raw = raw.partition(b"\r\n\r\n")
        assert mark and head.startswith(b"HTTP/1.1 "), head
        status = int(head[9:12])
        if status < 200:
            continue
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        size = int(fields[b"content-length"])
        assert len(raw) >= size
        out.append((status, fields.get(b"connection") == b"close", raw[:size]))
        raw = raw[size:]
    return out


TestAnswering = Answering.TestCase
TestAnswering.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
