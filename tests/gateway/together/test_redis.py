"""Gateways joined over a real Redis: it comes late, goes, comes back, falls silent; nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import ConfigError, parse
from gateway.together import redis as over_redis
from gateway.together.redis import RedisLine, channel, place, problem
from tests.gateway.together.gateways import Child, Gate
from tests.gateway.together.test_workers import until
from tests.ports import free_port

needs_server = pytest.mark.skipif(
    shutil.which("redis-server") is None or find_spec("redis") is None, reason="needs redis-server and redis-py (pip install redis)"
)


hosts = itertools.count(1)


class Server:
    """A redis-server of our own on a free port, without any file; `password` where it wants one."""

    def __init__(self, folder: Path, password: str = "") -> None:
        self.port = free_port()
        self.folder, self.password = folder, password
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}/3"

    def start(self) -> Server:
        words = f"redis-server --port {self.port} --bind 127.0.0.1 --appendonly no --dir {self.folder} --save".split()
        argv = [*words, "", *(["--requirepass", self.password] if self.password else [])]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        while b"eady to accept connections" not in (line := self.process.stdout.readline()):
            assert line, "redis-server did not start"
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@contextlib.contextmanager
def server(folder: Path, password: str = "") -> Iterator[Server]:
    made = Server(folder, password)
    try:
        yield made
    finally:
        made.stop()


@contextlib.asynccontextmanager
async def line(url: str) -> AsyncIterator[RedisLine]:
    made = RedisLine(url, next(hosts))
    try:
        yield made
    finally:
        await made.close()


async def become(look: Callable[[], bool]) -> None:
    """Waits until something that gives no signal is so."""
    async with asyncio.timeout(30):
        for _ in range(10_000):
            if look():
                return
            await asyncio.sleep(0.005)


async def heard(line: RedisLine, wanted: bytes) -> None:
    """Waits until this packet has come."""
    await become(lambda: wanted in [p for _, p in line.receive(0.0).packets])


@needs_server
def test_two_hosts_act_as_one(tmp_path: Path) -> None:
    with server(tmp_path) as redis:
        redis.start()
        a, b = Child(None, redis=redis.url), Child(None, redis=redis.url)
        try:
            until(lambda: a("peers"), 1)
            until(lambda: b("peers"), 1)
            a("ask", "x", 6400, 0, 100)
            until(lambda: len(a("where")), 1)
            (replica,) = a("where").values()
            until(lambda: b("foreign"), [[a("name"), replica, False]])
            until(lambda: b("hits", 0, 100)[replica], 100)
            redis.stop()
            b("ask", "alone", 6400, 500, 100)  # served on
            until(lambda: len(b("where")), 1)
            a("answer", "x")
            a("end", "x")
            redis.start()
            until(lambda: b("foreign"), [])
            until(lambda: [g for g, _, _ in a("foreign")], [b("name")])
            assert b("check")["bookings"] == 1 and b("check")["missed"] > 0
            assert a.end() == 0  # says farewell
            until(lambda: b("peers"), 0)
        finally:
            for child in (a, b):
                child.end(kill=child.process.poll() is None)


@needs_server
def test_what_is_sent_comes_in_order_and_to_this_database_only(tmp_path: Path) -> None:
    async def main(url: str) -> None:
        async with line(url) as a, line(url) as b, line(url[:-1] + "4") as other:
            for one in (a, b, other):
                await one.connected.wait()
                assert one.receive(0.0).deaf and not one.receive(0.0).deaf
            for k in range(200):
                a.send(b"%d" % k)
            got: list[bytes] = []
            async with asyncio.timeout(30):
                while len(got) < 200:
                    got += [p for _, p in b.receive(0.0).packets]
                    await asyncio.sleep(0.005)
            assert got == [b"%d" % k for k in range(200)] and other.receive(0.0).packets == []

    with server(tmp_path) as redis:
        asyncio.run(main(redis.start().url))


@needs_server
def test_one_warning_while_it_is_away_and_a_word_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_redis, "STEADY_SECONDS", 0.0)

    async def main(redis: Server) -> None:
        async with line(redis.url) as a:
            await become(lambda: a.attempts >= 3)
            a.send(b"lost")
            assert a.dropped == 1
            redis.start()
            async with asyncio.timeout(60):
                await a.connected.wait()
            a.send(b"heard")
            await become(lambda: a.echoes == 1)
            redis.stop()
            await become(lambda: not a.connected.is_set())

    caplog.set_level(logging.INFO, "pointsman.together")
    with server(tmp_path, "s3cr3t-w0rd") as redis:
        asyncio.run(main(redis))
    said = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert [level for level, _ in said] == ["WARNING", "INFO", "WARNING"]
    assert f"127.0.0.1:{redis.port}/3" in said[0][1] and not any("s3cr3t" in text for _, text in said)


@needs_server
def test_a_wrong_password_is_one_warning_without_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main(url: str) -> None:
        async with line(url.replace("s3cr3t", "wr0ng")) as a:
            await become(lambda: a.attempts >= 3)
            assert not a.connected.is_set()

    with server(tmp_path, "s3cr3t") as redis:
        asyncio.run(main(redis.start().url))
    (record,) = [r for r in caplog.records if r.name == "pointsman.together"]
    assert "Authentication" in record.getMessage() and "wr0ng" not in caplog.text


@pytest.mark.skipif(find_spec("redis") is None, reason="needs redis-py (pip install redis)")
def test_a_server_that_takes_connections_and_says_nothing_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_redis, "CALL_SECONDS", 0.05)
    monkeypatch.setattr(over_redis, "AGAIN_SECONDS", 0.01)

    async def main() -> None:
        held: list[asyncio.StreamWriter] = []
        mute = await asyncio.start_server(lambda r, w: held.append(w), "127.0.0.1", 0)
        port = mute.sockets[0].getsockname()[1]
        async with line(f"redis://127.0.0.1:{port}") as a:
            gate = Gate([a])
            async with asyncio.timeout(30):
                while a.attempts < 3:
                    gate.tick(asyncio.get_running_loop().time())
                    await asyncio.sleep(0.005)
        mute.close()
        for writer in held:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await mute.wait_closed()

    asyncio.run(main())


@needs_server
def test_a_line_on_which_not_even_we_are_heard_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_redis, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(over_redis, "AGAIN_SECONDS", 0.01)

    async def main(url: str) -> None:
        async with line(url) as a:
            await become(lambda: a.attempts >= 3)

    with server(tmp_path) as redis:
        asyncio.run(main(redis.start().url))


@needs_server
def test_foreign_publications_are_counted_and_left_out(tmp_path: Path) -> None:
    async def main(redis: Server) -> None:
        async with line(redis.url) as a:
            await a.connected.wait()
            client = _client(redis.url)
            for data in (b"hello", msgspec.msgpack.encode([b"one"]), msgspec.msgpack.encode([1 << 40, [b"one"]])):
                await client.publish(channel(redis.url), data)
            await client.aclose()
            await heard(a, b"one")
            assert a.bad == 2

    with server(tmp_path) as redis:
        asyncio.run(main(redis.start()))


def _client(url: str) -> Any:
    from redis.asyncio import from_url

    return from_url(url)


def quiet(act: Callable[[RedisLine], None]) -> None:
    """Does something to a line whose task has not begun."""

    async def main() -> None:
        made = RedisLine("redis://127.0.0.1:1", 1)
        made._task.cancel()
        act(made)
        await asyncio.gather(made._task, return_exceptions=True)

    asyncio.run(main())


def test_what_waits_is_bounded_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_redis, "OUT_BYTES", 100)
    monkeypatch.setattr(over_redis, "IN_PACKETS", 5)

    def act(made: RedisLine) -> None:
        made.connected.set()
        for _ in range(7):
            made.send(b"x" * 30)
        assert (len(made._out), made._size, made.dropped) == (1, 30, 6)
        made._take(msgspec.msgpack.encode([2, [b"a"] * 4]))
        made._take(msgspec.msgpack.encode([2, [b"b"] * 4]))
        received = made.receive(0.0)
        assert received.deaf and received.packets == []
        made._take("text")
        made._take(b"x" * (over_redis.MOST_MESSAGE + 1))
        assert made.bad == 2

    quiet(act)


def test_an_error_of_ours_is_logged_and_the_gateway_runs_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(name: str) -> Any:
        raise KeyError(name)

    monkeypatch.setattr(over_redis, "import_module", broken)

    async def main() -> None:
        made = RedisLine("redis://127.0.0.1:1", 1)
        await asyncio.wait([made._task])
        await asyncio.sleep(0)
        made.send(b"x")
        assert made.receive(0.0).packets == []
        await made.close()

    asyncio.run(main())
    assert "KeyError" in caplog.text


# Configuration


@pytest.mark.parametrize(
    ("url", "where", "name"),
    [
        ("redis://h", "h:6379", "pointsman/1/0"), ("rediss://u:p@h:1/", "h:1/", "pointsman/1/0"),
        ("redis://:p@h:1/7", "h:1/7", "pointsman/1/7"), ("unix:///run/redis.sock", "/run/redis.sock", "pointsman/1/0"),
    ],
)  # fmt: skip
def test_urls_say_where_and_which_channel(url: str, where: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_redis, "find_spec", lambda name: True)
    assert (place(url), channel(url), problem(url)) == (where, name, "")


@pytest.mark.parametrize(
    "url", ["http://h", "redis://", "h:6379", "redis://h:99999", "redis://h:0", "redis://h/x", "unix://", "redis://[1"]
)
def test_urls_that_lead_nowhere_are_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(f"server: {{redis: '{url.replace('://', '://user:s3cr3t@', 1)}'}}", {})
    assert "$.server.redis" in str(refused.value) and "s3cr3t" not in str(refused.value) and "redis" in str(refused.value)


def test_without_redis_py_the_configuration_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_redis, "find_spec", lambda name: None)
    assert "pip install 'pointsman[redis]'" in problem("redis://h")
