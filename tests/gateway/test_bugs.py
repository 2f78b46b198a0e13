"""A bug of ours ends a request with a 500 and a line in the log; nothing stays counted, nobody waits for ever."""

from __future__ import annotations

from typing import Any

import pytest

from backends.types import Fault
from tests.backends.played import OK, Played, played, sent
from tests.backends.seen import Seen
from tests.gateway.parts import World


def test_a_bug_on_the_way_in(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    world = World()
    for link in world.links:
        link.send = broken  # type: ignore[method-assign]
    sink, _ = world.ask()
    assert sink.status == 500 and sink.error["code"] == "internal_error" and "bug" not in sink.error["message"]
    world.check_idle(1)
    assert "ZeroDivisionError" in caplog.text


def test_a_bug_where_a_whole_answer_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Seen):
        def on_whole(self, *_: Any) -> None:
            raise ZeroDivisionError("a bug")

    async def work(pool: Played) -> None:
        for _ in range(3):  # by the parser, and around it
            seen, _ = await sent(pool, seen=Broken())
            pool.conn().data_received(OK)
            assert isinstance(seen.fault, Fault) and seen.fault.code == "internal_error"
        assert len(pool.wires) == 1

    played(work)
    assert "ZeroDivisionError" in caplog.text
