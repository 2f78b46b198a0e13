"""`kv_events` in the configuration: every way to say it, what is wrong with the others, and what the fleet makes of it."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.engines.rows import launch
from backends.engines.spec import EngineSpec
from gateway.config import Config, ConfigError, parse
from gateway.config_kv import KvEvents, publishers, told
from tests.harness import running

URLS = ["http://10.0.0.1:8000/v1", "http://[fd00::1]:8000/v1"]


def parsed(**backend: Any) -> Config:
    server = {"port": 0, "admin": {"port": None}}
    return parse(json.dumps({"server": server, "backends": {"gpu": backend}, "routes": {"r": {"targets": [{"backend": "gpu"}]}}}), {})


def of(**backend: Any) -> tuple[KvEvents, ...]:
    found = parsed(**backend).backends["gpu"]
    return publishers(found.kv_events, found.all_urls)


def test_every_way_to_say_where_a_server_publishes() -> None:
    assert of(urls=URLS) == of(urls=URLS, kv_events=False) == ()
    assert of(url=URLS[0], kv_events="tcp://other:5557") == (KvEvents(endpoint="tcp://other:5557"),)
    assert [one.endpoint for one in of(urls=URLS, kv_events="tcp://{host}:5557")] == ["tcp://10.0.0.1:5557", "tcp://[fd00::1]:5557"]
    whole = {"endpoint": "tcp://{host}:1", "replay": "tcp://{host}:2", "topic": "kv@", "ranks": 4}
    assert of(urls=URLS, kv_events=whole)[0] == KvEvents(endpoint="tcp://10.0.0.1:1", replay="tcp://10.0.0.1:2", topic="kv@", ranks=4)
    assert of(urls=URLS, kv_events=["ipc:///a", {"endpoint": "ipc:///b"}]) == (KvEvents(endpoint="ipc:///a"), KvEvents(endpoint="ipc:///b"))


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        ({"urls": URLS, "kv_events": True}, r"tcp://\{host\}:PORT for the host of its URL"),
        ({"urls": URLS, "kv_events": "tcp://a:1"}, "one publisher for several URLs"),
        ({"urls": URLS, "kv_events": ["tcp://a:1"]}, "names 1 publishers for 2 URLs"),
        ({"url": URLS[0], "kv_events": "tcp://*:5557"}, "where the engine listens"),
        ({"url": URLS[0], "kv_events": {"endpoint": "tcp://a:1", "replay": "b"}}, "holds b, which is no endpoint"),
        ({"url": URLS[0], "kv_events": {"endpoint": "tcp://a:1", "ranks": 0}}, r"kv_events\.ranks"),
        ({"url": URLS[0], "kv_events": {"endpoint": "tcp://a:1", "x": 0}}, "x"),
        ({"engine": "vllm", "model": "m", "kv_events": "tcp://a:1"}, "must be true or false for an engine"),
        ({"engine": "llamacpp", "model": "builtin", "kv_events": True}, "vllm and sglang have KV events"),
        ({"engine": "vllm", "model": "m", "kv_events": True, "args": ["--kv-events-config={}"]}, "the same thing twice"),
    ],
)
def test_what_cannot_be_is_told(backend: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parsed(**backend)
    assert "$.backends.gpu.kv_events" in str(caught.value)


def test_an_engine_of_ours_publishes_where_only_this_user_can_read() -> None:
    for kind in ("vllm", "sglang"):
        spec = parsed(engine=kind, model="m", kv_events=True, args=["-dp", "2"]).backends["gpu"].engine_spec("gpu")
        plan = launch(spec, 4321, "key")
        said = json.loads(plan.argv[plan.argv.index("--kv-events-config") + 1])
        assert (said["endpoint"], said["replay_endpoint"]) == ("ipc://{dir}/inproc-kv", "ipc://{dir}/inproc-kv-replay")
        assert said["publisher"] == "zmq" and said.get("enable_kv_cache_events", kind == "sglang") and plan.folder
        assert told(plan.facts) == KvEvents(endpoint=said["endpoint"], replay=said["replay_endpoint"], ranks=2)
        off = launch(parsed(engine=kind, model="m").backends["gpu"].engine_spec("gpu"), 4321, "key")
        assert "--kv-events-config" not in off.argv and told(off.facts) is None


def test_an_engine_spec_refuses_what_cannot_be() -> None:
    for fields in ({"kind": "llamacpp"}, {"kind": "vllm", "args": ("--kv-events-config", "{}")}):
        with pytest.raises(ValueError, match="kv_events"):
            EngineSpec(name="m", model="m", kv_events=True, **fields)  # type: ignore[arg-type]


def test_the_fleet_knows_the_publisher_of_each_replica() -> None:
    with running(parsed(urls=URLS, kv_events="tcp://{host}:5557")) as gateway:
        fleet = gateway.gateway.fleet
        found = gateway.call(lambda: [fleet.kv_events(replica) for replica in fleet.every()])
    assert [one and one.endpoint for one in found] == ["tcp://10.0.0.1:5557", "tcp://[fd00::1]:5557"]


# It tells its endpoint's folder, listens on the port it is told, and ends when asked.
STAND_IN = """
import http.server, json, os, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *args): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
said = sys.argv[sys.argv.index("--kv-events-config") + 1]
folder = os.path.dirname(json.loads(said)["endpoint"].removeprefix("ipc://"))
assert os.stat(folder).st_mode & 0o777 == 0o700
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


def test_where_an_engine_of_ours_publishes_reaches_the_fleet(tmp_path: Path) -> None:
    """A stand-in for the interpreter that would run vLLM."""
    script = tmp_path / "python"
    (tmp_path / "engine.py").write_text(STAND_IN)
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/engine.py "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    config = parsed(engine="vllm", model=str(tmp_path), kv_events=True, python=str(script))
    with running(config) as gateway:
        fleet = gateway.gateway.fleet
        replica = gateway.call(fleet.every)[0]
        gateway.until(lambda: replica.health == "ready", "a ready engine")
        one = gateway.call(lambda: fleet.kv_events(replica))
        assert one is not None and one.replay is not None
        folder = os.path.dirname(one.endpoint.removeprefix("ipc://"))
        assert os.path.isdir(folder) and one.replay == one.endpoint + "-replay"
    assert not os.path.exists(folder)
