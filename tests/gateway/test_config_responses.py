"""Settings of what is kept of responses, and of where provider state waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigError, parse
from gateway.server import SocketError
from tests.fakes.engine import Engine
from tests.harness import Running, config_for


def server(**settings: Any) -> Any:
    return parse(json.dumps({"server": settings}), {}).server


def test_the_defaults() -> None:
    kept = server().responses
    assert (kept.path, kept.count, kept.bytes, kept.age_seconds, kept.memory_bytes) == (None, 10_000, 1 << 30, 2_592_000, 64 << 20)
    assert server().tool_state == "sidecar"


def test_what_can_be_said(tmp_path: Path) -> None:
    path = str(tmp_path / "kept.db")
    kept = server(responses={"path": path, "count": 5, "bytes": "2MiB", "age_seconds": 60, "memory_bytes": "1KiB"}).responses
    assert (kept.path, kept.count, kept.bytes, kept.age_seconds, kept.memory_bytes) == (path, 5, 2 << 20, 60.0, 1024)
    assert server(tool_state="both").tool_state == "both"


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"responses": {"path": "/no/such/folder/kept.db"}}, "$.server.responses.path"),
        ({"responses": {"path": "/"}}, "$.server.responses.path"),
        ({"responses": {"count": 0}}, "$.server.responses.count"),
        ({"responses": {"bytes": "much"}}, "$.server.responses.bytes"),
        ({"responses": {"age_seconds": 0}}, "$.server.responses.age_seconds"),
        ({"responses": {"days": 1}}, "$.server.responses.days"),
        ({"tool_state": "cookie"}, "$.server.tool_state"),
    ],
)
def test_what_cannot(settings: Any, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        server(**settings)
    assert place in str(caught.value)


def test_a_file_that_is_no_store_keeps_the_gateway_from_starting(tmp_path: Path) -> None:
    """One sentence, not a traceback; and no engine was started for it."""
    path = tmp_path / "kept.db"
    path.write_text("This is no database, but it is long enough to look like one to somebody who does not look.")
    with Engine() as engine:
        gateway = Running(config_for([engine], server={"responses": {"path": str(path)}}), False)
        try:
            with pytest.raises(SocketError, match=r"kept\.db' for stored responses cannot be used"):
                gateway.start()
        finally:
            gateway.stop()
