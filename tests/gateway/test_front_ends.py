"""Where a message ends on a client's connection, and where the connection itself does."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from backends.outbox import Outbox
from backends.types import Fault
from gateway.config import Limits
from gateway.front import CLOSING, IDLE, Front
from tests.fakes.engine import Engine
from tests.faults.check import failed
from tests.faults.test_requests import BODY, HEAD, LENGTH, drain
from tests.gateway.parts import World
from tests.gateway.test_front_known import front, taught
from tests.gateway.test_front_states import OFFER, Pipe
from tests.harness import chat, config_for, request, running

ASK = HEAD + LENGTH + b"\r\n" + BODY


def test_the_beginning_of_a_second_request_is_not_lost_in_silence() -> None:
    """It came together with the first one: that one is answered, and the connection says that it closes."""
    for size in (1, 20, len(HEAD + LENGTH), len(ASK) - 1):
        with Engine() as engine, running(config_for([engine])) as gateway, gateway.dial() as client:
            client.send(ASK + ASK[:size])
            answer = client.reader.read()
            assert answer.status == 200 and not answer.keeps
            client.send(ASK[size:])
            assert drain(client) == b"" and len(engine.posts()) == 1


def test_an_offer_behind_a_request_does_not_refuse_that_one() -> None:
    with Engine() as engine, running(config_for([engine])) as gateway, gateway.dial() as client:
        client.send(ASK + HEAD + OFFER + LENGTH + b"\r\n" + BODY)
        assert client.reader.read().status == 200


def test_the_head_of_another_way_may_come_in_two_pieces_behind_a_request() -> None:
    with Engine() as engine, running(config_for([engine])) as gateway, gateway.dial() as client:
        client.send(request("GET", "/health") + ASK[:30])
        assert client.reader.read().status == 200
        client.send(ASK[30:])
        assert client.reader.read().status == 200
        assert client.ask(chat()).status == 200 and len(engine.posts()) == 2


def test_a_head_that_never_ends_behind_a_request_is_refused() -> None:
    server = {"limits": {"header_bytes": 4096}}
    with Engine() as engine, running(config_for([engine], server=server)) as gateway, gateway.dial() as client:
        client.send(request("GET", "/health") + HEAD + b"x: ")
        assert client.reader.read().status == 200
        client.send(b"y" * 5000)
        failed(client.reader.read(), 431, origin="client")


def test_an_offer_teaches_the_head_and_nothing_of_the_body() -> None:
    with Engine() as engine, running(config_for([engine])) as gateway, gateway.dial() as client:
        for _ in range(2):
            client.send(HEAD + OFFER + LENGTH + b"\r\n" + BODY)
            assert client.reader.read().status == 200
        known = front(gateway).known
        assert known is not None and known.after == b"\r\n\r\n"


def test_a_length_of_thousands_of_digits_is_a_length() -> None:
    with Engine() as engine, running(config_for([engine])) as gateway, gateway.dial() as client:
        taught(gateway, client)
        client.send(request("POST", "/v1/chat/completions", BODY, {"content-length": "0" * 5000 + str(len(BODY))}))
        assert client.reader.read().status == 200


def test_a_trailer_says_nothing_of_who_calls() -> None:
    keys = {"keys": [{"name": "one", "key": "sk-one"}]}
    with Engine() as engine, running(config_for([engine], more=keys)) as gateway, gateway.dial() as client:
        chunks = b"%x\r\n%b\r\n0\r\nAuthorization: Bearer sk-one\r\n\r\n" % (len(BODY), BODY)
        client.send(HEAD + b"Transfer-Encoding: chunked\r\nAuthorization: Bearer sk-none\r\n\r\n" + chunks)
        failed(client.reader.read(), 401, origin="client")
        assert not engine.posts()


def test_options_of_a_stream_that_are_none_are_the_clients_fault() -> None:
    with Engine() as engine, running(config_for([engine])) as gateway:
        wrong: list[Any] = [{"include_usage": "yes"}, {"include_usage": 1}, [], "x"]
        for options in wrong:
            failed(gateway.ask(chat(stream=True, stream_options=options)), 400, origin="client")
        assert not engine.posts() and gateway.ask(chat()).status == 200


class Played:
    """A connection whose transport a test plays, in a world with the given limits."""

    def __init__(self, **limits: Any) -> None:
        self.world = World(1, limits=Limits(**limits))
        self.config = uvicorn.Config(app=None, lifespan="off", log_config=None)  # type: ignore[arg-type]
        self.config.app_core = self.world.core  # type: ignore[attr-defined]
        self.state = ServerState()

    def dial(self) -> tuple[Front, Pipe]:
        one, pipe = Front(self.config, self.state, {}), Pipe()
        one.connection_made(cast(Any, pipe))
        return one, pipe


def test_a_client_that_never_takes_the_last_bytes_is_let_go() -> None:
    async def work() -> None:
        played = Played(client_stall_seconds=10.0, keep_alive_seconds=5.0)
        one, pipe = played.dial()
        now = one.since
        assert one.state == IDLE
        pipe.left = 1000
        one.tick(now + 6)  # idle for long: closed, but its transport waits until all is written
        assert pipe.closed and not pipe.aborted
        one.tick(now + 7)
        assert one.state == CLOSING
        pipe.left = 900
        one.tick(now + 17)  # it has read something
        one.tick(now + 27)
        assert not pipe.aborted
        one.tick(now + 28)
        assert pipe.aborted
        one.connection_lost(None)

    asyncio.run(work())


def test_a_connection_beyond_the_limit_does_not_stay() -> None:
    async def work() -> None:
        played = Played(connections=1)
        one, _ = played.dial()
        refused, pipe = played.dial()
        assert json.loads(pipe.out.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections" and pipe.eof
        assert cast(Any, refused) not in played.state.connections  # so that no tick would ever end it
        loop = asyncio.get_running_loop()
        (timer,) = [t for t in loop._scheduled]  # type: ignore[attr-defined]
        timer._run()
        assert pipe.aborted
        timer.cancel()
        refused.connection_lost(None)
        one.connection_lost(None)

    asyncio.run(work())


def test_a_fault_without_a_time_says_none() -> None:
    async def work() -> None:
        one, pipe = Played().dial()
        one._reply(Fault("bad_request", "no", origin="client"))
        assert b"retry-after" not in pipe.out and b"connection: close\r\n" in pipe.out
        one.connection_lost(None)

    asyncio.run(work())


# What is written at the end of a turn of the loop


def lent() -> tuple[Front, Pipe]:
    """A connection whose loop turns only when it is told to."""
    world, wire = World(1), Pipe()
    world.core.clients.outbox = Outbox(asyncio.get_running_loop())
    config = uvicorn.Config(app=cast(Any, None), proxy_headers=False, lifespan="off", log_config=None, access_log=False)
    config.app_core = world.core  # type: ignore[attr-defined]
    client = Front(config, ServerState(), {}, asyncio.get_running_loop())
    client.connection_made(cast(Any, wire))
    return client, wire


def test_what_came_before_a_break_reaches_the_client() -> None:
    async def play() -> None:
        client, wire = lent()
        client.begin(200, b"", b"data: one\n\n")
        client.send(b"data: two\n\n")
        assert not wire.out
        client.break_off()
        assert wire.aborted and wire.out.endswith(b"\r\n\r\nb\r\ndata: one\n\n\r\nb\r\ndata: two\n\n\r\n")

    asyncio.run(play())


def test_an_answer_is_written_before_its_connection_closes() -> None:
    async def play() -> None:
        for close in ("answer", "shutdown", "refusal"):
            client, wire = lent()
            client.keep = close != "answer"
            client.respond(200, b"", b"{}")
            if close == "shutdown":
                client.core.idle = 0.0
                client.shutdown()
            elif close == "refusal":
                client.data_received(b"nonsense\r\n\r\n")
            assert (wire.closed or wire.eof) and wire.out.startswith(b"HTTP/1.1 200 OK\r\n"), close
            assert wire.out.count(b"HTTP/1.1 ") == (2 if close == "refusal" else 1)

    asyncio.run(play())
