"""A gateway that is told to stop: notice, a port that closes without a reset, what is under way finished; as a proxy before it sees it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import leaving
from gateway.config import Config, ServerConfig
from gateway.leaving import deafen, queued
from gateway.server import Server, SocketError, listen, settings
from tests.fakes.engine import DEADLINE, Engine
from tests.fakes.openai import respond
from tests.fakes.request import Request
from tests.fakes.script import Gate, Script
from tests.gateway.serving import eventually, serving
from tests.harness import Client, Running, both_ways, chat, config_for, encoded, request, running

ENDING: dict[Running, Future[None]] = {}  # gateways that a test has told to stop
LONG = {"drain_notice_seconds": 600}
SHORT = {"drain_notice_seconds": 0.01, "drain_seconds": 20}
MESSAGES = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "two words"}], "stream": True}


@contextmanager
def warned(gateway: Running) -> Iterator[None]:
    """The gateway has been told to stop and gives notice for the time of the block."""
    hurry = gateway.call(asyncio.Event)
    waiting = asyncio.run_coroutine_threadsafe(gateway.gateway.leave(hurry), gateway.loop)
    gateway.until(lambda: gateway.gateway.core.leaving, "the notice")
    try:
        yield
    finally:
        gateway.call(hurry.set)
        waiting.result(DEADLINE)


@contextmanager
def alone(config: Config) -> Iterator[Running]:
    """A gateway that the test stops itself, by `gone`."""
    made = Running(config, False)
    try:
        made.start()
        yield made
    finally:
        if made in ENDING:
            concurrent.futures.wait([ENDING.pop(made)], 2 * DEADLINE)
            del made.gateway
        made.stop()


def gone(gateway: Running, hurry: bool = False) -> Future[None]:
    """Begins what SIGTERM begins; the future is done when the gateway has ended."""

    async def go() -> None:
        quickly = asyncio.Event()
        if hurry:
            quickly.set()
        await gateway.gateway.leave(quickly)
        await gateway.gateway.stop()

    ENDING[gateway] = asyncio.run_coroutine_threadsafe(go(), gateway.loop)
    return ENDING[gateway]


def shut(gateway: Running) -> None:
    """Returns when the port is closed."""
    data = gateway.gateway._data
    assert data is not None
    gateway.until(lambda: data.sock.fileno() < 0, "the port closed")


def gated(gate: Gate, at: int) -> Any:
    """What the fake engine answers by itself, with a gate before the step `at`."""

    def answer(asked: Request) -> Script:
        usual = respond(asked)
        return replace(usual, steps=(*usual.steps[:at], gate, *usual.steps[at:]))

    return answer


@both_ways
def test_in_the_notice_nobody_is_refused_and_every_answer_says_that_it_closes(asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine], server=LONG), asgi) as gateway, ExitStack() as stack:
        first, known, fresh = (stack.enter_context(gateway.dial()) for _ in range(3))
        assert first.ask(chat()).keeps and all(known.ask(chat()).keeps for _ in range(3))  # by now its head is known
        with warned(gateway):
            answer = gateway.get("/ready")
            assert (answer.status, answer.keeps) == (503, False)
            assert gateway.get("/health").doc["draining"] is True
            for client in (first, known, fresh, stack.enter_context(gateway.dial())):
                answer = client.ask(chat())
                assert (answer.status, answer.keeps) == (200, False) and client.reader.at_end()
            for doc in (MESSAGES, {**MESSAGES, "stream": False}):
                answer = gateway.ask(doc, "/v1/messages")
                assert (answer.status, answer.keeps) == (200, False)
            answer = gateway.ask(chat(stream=True))
            assert (answer.status, answer.keeps) == (200, False) and b"[DONE]" in answer.events[-1]


def test_an_answer_that_has_not_begun_when_the_notice_does_says_it_too() -> None:
    gate = Gate()
    with Engine() as engine, running(config_for([engine], server=LONG)) as gateway, gateway.dial() as client:
        engine.on_model("fake", gated(gate, 0))
        client.post(chat())
        assert gate.reached.wait(DEADLINE)
        with warned(gateway):
            gate.open()
            assert not client.reader.read().keeps


@pytest.mark.parametrize(("path", "doc"), [("/v1/chat/completions", chat(stream=True)), ("/v1/messages", MESSAGES)], ids=["hot", "cold"])
def test_a_stream_runs_to_its_end_and_its_connection_serves_once_more(path: str, doc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It began before the notice, so a proxy may think that its connection stays, and send the next call on it."""
    monkeypatch.setattr(leaving, "GRACE_SECONDS", DEADLINE)
    gate = Gate()
    with Engine() as engine, alone(config_for([engine], server=SHORT)) as gateway, gateway.dial() as client:
        engine.on_model("fake", gated(gate, 3))
        client.post(doc, path)
        client.reader.sock.recv(1, socket.MSG_PEEK)  # it has begun
        assert gate.reached.wait(DEADLINE)
        end = gone(gateway)
        shut(gateway)
        gate.open()
        answer = client.reader.read()
        assert answer.status == 200 and (b"[DONE]" in answer.body or b"message_stop" in answer.body) and b"error" not in answer.body
        answer = client.ask(chat())
        assert (answer.status, answer.keeps) == (200, False)
        end.result(DEADLINE)
        assert client.reader.at_end()


@pytest.mark.parametrize("doc", [None, chat()], ids=["never used", "used"])
def test_connections_that_nobody_uses_close_after_a_while(doc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "GRACE_SECONDS", 0.01)
    with Engine() as engine, alone(config_for([engine], server=SHORT)) as gateway, ExitStack() as stack:
        clients = [stack.enter_context(gateway.dial()) for _ in range(40)]
        assert doc is None or all(client.ask(doc).keeps for client in clients)
        data = gateway.gateway._data
        assert data is not None
        gateway.until(lambda: len(data.connections) == 40, "all of them")
        gone(gateway).result(DEADLINE)
        assert all(client.reader.at_end() for client in clients)


@pytest.mark.parametrize("hurry", [False, True], ids=["notice", "at once"])
@pytest.mark.parametrize("sent", [10, 60, -5], ids=["request line", "head", "body"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_request_on_its_way_in_when_the_port_closes_is_answered(path: str, sent: int, hurry: bool) -> None:
    with Engine() as engine, alone(config_for([engine], server=SHORT)) as gateway, gateway.dial() as client:
        raw = request("POST", path, encoded({**MESSAGES, "stream": False}))
        client.send(raw[:sent])
        (connection,) = _connections(gateway)
        gateway.until(lambda: bool(connection.buffer or connection.state), "its beginning")
        end = gone(gateway, hurry)
        shut(gateway)
        client.send(raw[sent:])
        answer = client.reader.read()
        assert (answer.status, answer.keeps) == (200, False)
        end.result(DEADLINE)


def _connections(gateway: Running) -> list[Any]:
    data = gateway.gateway._data
    assert data is not None
    gateway.until(lambda: bool(data.connections), "the connection")
    return [*data.connections]


def test_connections_that_the_kernel_has_made_are_served_though_the_port_closes() -> None:
    with Engine() as engine, alone(config_for([engine], server=SHORT)) as gateway, ExitStack() as stack:
        let_go, stuck = threading.Event(), threading.Event()

        def hang() -> None:
            stuck.set()
            let_go.wait(DEADLINE)

        gateway.loop.call_soon_threadsafe(hang)
        assert stuck.wait(DEADLINE)
        end = gone(gateway)
        clients = [stack.enter_context(gateway.dial()) for _ in range(30)]
        for client in clients:
            client.post(chat())
        let_go.set()
        answers = [client.reader.read() for client in clients]
        assert [(a.status, a.keeps) for a in answers] == [(200, False)] * 30
        end.result(DEADLINE)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="socket filters are Linux's")
def test_a_deaf_port_keeps_what_it_has_and_refuses_the_rest_when_it_closes() -> None:
    with socket.socket() as port, socket.socket() as early, socket.socket() as late:
        port.bind(("127.0.0.1", 0))
        port.listen(16)
        early.connect(port.getsockname())
        late.settimeout(DEADLINE)
        assert deafen(port) and queued(port)
        refused = threading.Event()

        def knock() -> None:
            if late.connect_ex(there):
                refused.set()

        there = port.getsockname()
        thread = threading.Thread(target=knock)
        thread.start()
        taken, _ = port.accept()
        with taken:
            assert not queued(port)
            early.sendall(b"hello")
            assert taken.recv(5) == b"hello"
            port.close()
            thread.join(DEADLINE)  # it tries again after a second, and finds nobody
            assert refused.is_set()
            early.sendall(b"again")
            assert taken.recv(5) == b"again"


def test_where_the_system_has_no_filters_nothing_is_lost_but_the_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.close()
        assert not deafen(closed)
    monkeypatch.setattr(sys, "platform", "darwin")
    with socket.socket() as port:
        assert not deafen(port)


def test_a_gateway_that_shares_its_port_hands_it_over() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    server = {**SHORT, "drain_notice_seconds": 0.3, "share_port": True, "port": port}
    with Engine() as engine, alone(config_for([engine], server=server)) as old, running(config_for([engine], server=server)) as new:
        assert old.port == new.port == port
        end = gone(old)
        asked = 0
        while not end.done() or not asked:
            assert old.ask(chat()).status == 200
            asked += 1
        assert old.ask(chat()).status == 200 and len(new.records()) > 0


def test_a_port_is_taken_at_once_and_refuses_until_it_is_served() -> None:
    sock = listen("127.0.0.1", 0, later=True)
    with sock, socket.socket() as client, listen("127.0.0.1", 0) as taken:
        assert client.connect_ex(sock.getsockname()) == errno.ECONNREFUSED
        with pytest.raises(SocketError, match="cannot listen on 127"):
            listen("127.0.0.1", taken.getsockname()[1], later=True)


def test_of_two_that_take_a_port_at_the_same_moment_one_is_told() -> None:
    async def main() -> None:
        first = listen("127.0.0.1", 0, later=True)
        second = listen("127.0.0.1", first.getsockname()[1], later=True)
        servers = [Server(settings(ServerConfig(), None), sock) for sock in (first, second)]
        await servers[0].start()
        with pytest.raises(SocketError, match="cannot listen on port"):
            await servers[1].start()
        for server in servers:
            await server.stop(1.0)

    asyncio.run(main())


def test_stopping_twice_is_stopping_once() -> None:
    with Engine() as engine, alone(config_for([engine], server=SHORT)) as gateway:
        gone(gateway).result(DEADLINE)
        gateway.run(gateway.gateway.stop())


def test_without_notice_idle_connections_close_at_once() -> None:
    with Engine() as engine, alone(config_for([engine])) as gateway, gateway.dial() as client:
        assert client.ask(chat()).keeps
        gone(gateway).result(DEADLINE)
        assert client.reader.at_end()


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_gives_notice_and_a_second_signal_ends_it(tmp_path: Path, workers: int) -> None:
    with Engine() as engine:
        server = {"port": 0, "admin": {"port": 0}, "workers": workers, "log": {"level": "info"}, **LONG}
        routes = {"m": {"targets": [{"backend": "fake", "model": "fake"}]}}
        with serving(tmp_path, {"server": server, "backends": {"fake": {"url": engine.url}}, "routes": routes}) as process:
            port = int(process.base.rsplit(":", 1)[1])

            def ask(path: str) -> tuple[int, bool]:
                with Client(port) as client:
                    answer = client.ask(chat()) if "chat" in path else client.get(path)
                return answer.status, answer.keeps

            assert ask("/ready") == (200, True)
            process.process.send_signal(signal.SIGTERM)
            for _ in range(8 * workers):  # each worker has a part of them
                eventually(lambda: ask("/ready") == (503, False) or None, "not ready")
            assert {ask("/v1/chat/completions") for _ in range(8 * workers)} == {(200, False)}
        with socket.socket() as late:
            assert late.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
        assert "told to stop" in process.log.read_text()


def test_ctrl_c_gives_no_notice(tmp_path: Path) -> None:
    server = {"port": 0, "admin": {"port": 0}, "log": {"level": "error"}, **LONG}
    with Engine() as engine:
        config = {"server": server, "backends": {"fake": {"url": engine.url}}, "routes": {"m": {"targets": [{"backend": "fake"}]}}}
        with serving(tmp_path, config) as process:
            process.process.send_signal(signal.SIGINT)
            assert process.process.wait(DEADLINE) == 0
