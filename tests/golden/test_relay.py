"""Every golden stream through the relay's state machine: whole, one byte at a time, and cut in two at every place."""

from __future__ import annotations

import pytest

from gateway.relay import StreamRelay
from tests.fakes.answers import ERROR_EVENTS
from tests.fakes.reader import events
from tests.golden import GOLDEN, Golden

STREAMS = [pytest.param(case, id=case.name) for case in GOLDEN if case.stream]
LIMIT = 1 << 20


def relayed(case: Golden, parts: list[bytes]) -> bytes:
    relay = StreamRelay("b", not case.usage, LIMIT)
    out = b"".join(relay.feed(part) for part in parts) + relay.close()
    assert relay.fault is None
    return out


@pytest.mark.parametrize("case", STREAMS)
def test_every_split_gives_the_same_bytes(case: Golden) -> None:
    data = case.upstream
    assert relayed(case, [data]) == case.client
    assert relayed(case, [bytes([byte]) for byte in data]) == case.client
    assert relayed(case, events(data)) == case.client
    for at in range(1, len(data)):
        assert relayed(case, [data[:at], data[at:]]) == case.client, data[:at]


@pytest.mark.parametrize("case", STREAMS)
def test_a_cut_stream_is_a_prefix_and_a_fault(case: Golden) -> None:
    finish = max(case.upstream.rfind(b'"finish_reason":"'), case.upstream.rfind(b'"finish_reason": "'))
    for size in range(finish):
        relay = StreamRelay("b", not case.usage, LIMIT)
        out = relay.feed(case.upstream[:size]) + relay.close()
        assert relay.fault is not None and relay.fault.origin == "backend" and relay.fault.retry
        assert case.client.startswith(out) and (not out or out.endswith((b"\n\n", b"\r\n\r\n")))
        assert b"[DONE]\n\n" not in out and b"data: [DONE]\r" not in out


@pytest.mark.parametrize("name", list(ERROR_EVENTS))
@pytest.mark.parametrize("case", STREAMS)
def test_an_error_event_anywhere_is_a_fault(case: Golden, name: str) -> None:
    found = events(case.upstream)
    for at in range(len(found) - 1):
        relay = StreamRelay("b", not case.usage, LIMIT)
        out = b"".join(relay.feed(event) for event in [*found[:at], ERROR_EVENTS[name], found[-1]]) + relay.close()
        assert relay.fault is not None, (at, name)
        assert relay.fault.message and "[DONE]" not in out.decode().replace('\\"[DONE]\\"', "")
        assert case.client.startswith(out)
