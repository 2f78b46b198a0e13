"""The server that does nothing does what it says, and lives no longer than who started it."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import nullserver
from benchmarks.bench.client import Client
from benchmarks.bench.nullserver import DEFAULT_CHUNKS, Refused, Reply, Running, Script, _Options, parse, running
from benchmarks.bench.nullserver import Body as NullBody
from benchmarks.bench.words import Api, Ask, Target, Timed

MESSAGES = [{"role": "user", "content": "three words here"}]


def body(**more: Any) -> dict[str, Any]:
    return {"model": "null", "messages": MESSAGES, "stream": True, **more}


async def answered(server: Running, document: Any, *, api: Api = "chat", stream: bool = True) -> Timed:
    made = Client(Target(server.url, "null", api=api, stream=stream), timeout=60)
    try:
        timed = Timed(0, 0.0)
        await made.send(Ask(0, json.dumps(document).encode(), 0, 0), timed)
        return timed
    finally:
        await made.close()


def test_answers_are_those_of_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # it is found wherever it is started

    async def main() -> None:
        async with running(Script(chunks=3)) as server:
            timed = await answered(server, body(stream_options={"include_usage": True}))
            assert timed.good and (timed.prompt_tokens, timed.completion_tokens, timed.cached_tokens, timed.finish) == (3, 3, 0, "length")
            assert len(timed.stamps) == 3 and timed.counts == [0, 0, 0]
            told = await answered(server, body(stream_options={"include_usage": True, "continuous_usage_stats": True}))
            assert told.counts == [1, 2, 3]
            bare = await answered(server, body())
            assert bare.good and bare.completion_tokens is None and len(bare.stamps) == 3
            prompt = {"model": "null", "prompt": ["a b", "c"], "stream": True, "stream_options": {"include_usage": True}}
            text = await answered(server, prompt, api="completions")
            assert text.good and text.prompt_tokens == 3 and len(text.stamps) == 3
            whole = await answered(server, body(stream=False), stream=False)
            assert whole.good and whole.counts == [3] and len(whole.stamps) == 1

    asyncio.run(main())


def test_answers_are_as_long_as_asked_for() -> None:
    async def main() -> None:
        async with running() as server:
            for more, count in (({"max_tokens": 7}, 7), ({"max_completion_tokens": 2}, 2), ({}, DEFAULT_CHUNKS)):
                assert len((await answered(server, body(**more))).stamps) == count

    asyncio.run(main())


def test_paced_answers_take_their_times() -> None:
    async def main() -> None:
        async with running(Script(chunks=4, ttft=0.03, itl=0.02)) as server:
            timed = await answered(server, body())
            assert timed.good and len(timed.stamps) == 4
            # The server counts from when it has read the request, after `sent`: no earlier than its schedule, whatever the machine does.
            assert all(stamp - timed.sent >= 0.03 + 0.02 * at - 0.002 for at, stamp in enumerate(timed.stamps[:3]))
            whole = await answered(server, body(stream=False), stream=False)
            assert whole.good and whole.done - whole.sent >= 0.03 + 3 * 0.02 - 0.002

    asyncio.run(main())


def test_every_nth_fails() -> None:
    async def main() -> None:
        async with running(Script(chunks=1, fail=3)) as server:
            found = [(await answered(server, body())).status for _ in range(6)]
            assert found == [200, 200, 503, 200, 200, 503]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("document", "api", "text"),
    [
        ({"model": "null"}, "chat", "a chat has messages"),
        ({"model": "null", "messages": MESSAGES}, "completions", "a completion has a prompt"),
        ({"messages": MESSAGES}, "chat", "model"),
        ({"model": "null", "messages": [{"content": "x"}]}, "chat", "role"),
        ({"model": "null", "messages": MESSAGES, "stream": "yes"}, "chat", "stream"),
        ([], "chat", "Expected `object`"),
    ],
)
def test_what_is_no_request_is_refused_with_a_sentence(document: Any, api: str, text: str) -> None:
    path = "/v1/chat/completions" if api == "chat" else "/v1/completions"
    with pytest.raises(Refused, match=text) as refused:
        parse("POST", path, {"host": "x", "content-type": "application/json"}, json.dumps(document).encode())
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/chat/completions", {}, 404),
        ("POST", "/v2", {}, 404),
        ("POST", "/v1/completions", {"content-type": "application/json"}, 400),
        ("POST", "/v1/completions", {"host": "x", "content-type": "text/plain"}, 400),
    ],
)
def test_a_strict_head(method: str, path: str, headers: dict[str, str], status: int) -> None:
    with pytest.raises(Refused) as refused:
        parse(method, path, headers, b'{"model": "m", "prompt": "x"}')
    assert refused.value.status == status


def test_one_chunk_is_one_frame() -> None:
    reply = Reply(NullBody("m", messages=[], max_tokens=2, stream_options=_Options(True, True)), Script())
    first, second = reply.chunks()
    size, rest = first.split(b"\r\n", 1)
    assert int(size, 16) == len(rest) - 2 and rest.endswith(b"\n\n\r\n")
    assert json.loads(second.split(b"data: ")[1])["usage"]["completion_tokens"] == 2


async def _raw(server: Running, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    try:
        return await reader.readuntil(b"}]}" if b"GET" in data else b"}}")
    finally:
        writer.close()
        await writer.wait_closed()


def test_models_and_bad_requests_over_the_wire() -> None:
    async def main() -> None:
        async with running() as server:
            assert b'"id":"null"' in await _raw(server, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"no HTTP/1.1 request" in await _raw(server, b"HELLO\r\n\r\n")
            assert b"there is no POST /x" in await _raw(server, b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
            assert (await answered(server, {"model": 5})).status == 400

    asyncio.run(main())


def test_it_ends_with_its_standard_input() -> None:
    async def main() -> None:
        command = [sys.executable, "-m", "benchmarks.bench.nullserver", "--port=0", "--stall=1:2"]
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        assert process.stdin is not None and process.stdout is not None
        assert json.loads(await process.stdout.readline())["port"] > 0
        process.stdin.close()
        assert await process.wait() == 0
        await process.communicate()

    asyncio.run(main())


def test_a_server_that_does_not_start_is_said() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="the null server ended with status 2"):
            async with running(Script(chunks="many")):  # type: ignore[arg-type]
                raise AssertionError("it started")

    asyncio.run(main())


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert nullserver.main([f"--port={port}"]) == 1
    assert capsys.readouterr().err == f"nullserver: cannot serve on 127.0.0.1:{port} (Address already in use); choose another --port\n"
