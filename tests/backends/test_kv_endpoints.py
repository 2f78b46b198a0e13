"""Endpoints of KV events: which can be connected to, and where data-parallel ranks are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backends.kv_socket import Hub, endpoint_problem, rank_endpoint

NOBODY: Any = object()


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("tcp://*:5557", "write the host to connect to in place of"),
        ("tcp://host", "is no endpoint"),
        ("tcp://host:0", "is no endpoint"),
        ("tcp://host:70000", "is no endpoint"),
        ("http://host:1", "is no endpoint"),
        ("ipc://", "is no endpoint"),
        ("inproc://x", "is no endpoint"),
        ("tcp://ho st:1", "is no endpoint"),
    ],
)
def test_endpoints_that_cannot_be_are_refused(endpoint: str, says: str) -> None:
    assert says in endpoint_problem(endpoint)

    async def run() -> None:
        hub = Hub()
        with pytest.raises(ValueError, match="KV-event endpoint"):
            hub.subscribe(endpoint, NOBODY)
        with pytest.raises(ValueError, match="KV-event endpoint"):
            hub.subscribe("tcp://127.0.0.1:9", NOBODY, replay=endpoint)
        hub.close()

    asyncio.run(run())


def test_endpoints_of_ranks() -> None:
    assert not endpoint_problem("tcp://[::1]:5557")
    assert rank_endpoint("tcp://h:5557", 0) == "tcp://h:5557" and rank_endpoint("tcp://h:5557", 3) == "tcp://h:5560"
    assert rank_endpoint("ipc:///d/inproc-kv", 2) == "ipc:///d/inproc-kv_dp2" and rank_endpoint("", 2) == ""
