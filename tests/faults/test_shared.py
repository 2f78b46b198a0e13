"""Identical calls answered once, over real sockets and on both ways in."""

from __future__ import annotations

import pytest

from tests.fakes.engine import Engine
from tests.fakes.request import Request
from tests.fakes.script import Gate, Script, script
from tests.faults.minds import Counter
from tests.faults.test_matrix import WHOLE, told
from tests.harness import both_ways, chat, config_for, running


@both_ways
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("leaves", [True, False], ids=["the first leaves", "all stay"])
def test_five_clients_one_answer(leaves: bool, stream: bool, asgi: bool) -> None:
    gate = Gate()

    def responder(request: Request) -> Script:
        return script(gate, Counter()(request).steps)

    with Engine(responder=responder) as engine, running(config_for([engine], route={"coalesce": True}), asgi) as gateway:
        clients = [gateway.dial() for _ in range(5)]
        for at, client in enumerate(clients):
            client.post(chat("count", temperature=0, stream=stream))
            gateway.until(lambda wanted=at + 1: gateway.gateway.snapshot().inflight_total == wanted, "one call more")  # type: ignore[misc]
        if leaves:
            clients.pop(0).reset()
        gate.open()
        assert [told(client.reader.read()) for client in clients] == [(WHOLE, True)] * len(clients)
        for client in clients:
            client.sock.close()
        assert len(engine.posts()) == 1 and not engine.left
        gateway.settled()
        assert told(gateway.ask(chat("count", temperature=0, stream=stream))) == (WHOLE, True)
        assert len(engine.posts()) == 2
