"""The strict client of the rolling benchmark: it takes what is whole, and says what is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from benchmarks.rolling.load import Load, Plan
from benchmarks.rolling.wire import Broken, Client

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
Answer = Callable[[bytes], tuple[bytes, bool]]  # a request's body -> what is sent, and whether the connection stays


def sized(doc: object, status: int = 200, more: str = "") -> bytes:
    body = json.dumps(doc).encode()
    return f"HTTP/1.1 {status} X\r\n{more}content-length: {len(body)}\r\n\r\n".encode() + body


def said(tokens: int) -> dict[str, object]:
    return {"choices": [{"message": {"content": "word " * tokens}, "finish_reason": "stop"}]}


def chunks(*events: bytes) -> bytes:
    return SSE + b"".join(b"%x\r\n%b\r\n" % (len(e) + 8, b"data: " + e + b"\n\n") for e in events) + b"0\r\n\r\n"


def delta(text: str, finish: str | None = None) -> bytes:
    return json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}]}).encode()


WHOLE = chunks(delta("word0 "), delta("word1 "), delta("", "stop"), b'{"choices":[]}', b"[DONE]")


async def against(answer: Answer, work: Callable[[int], object]) -> int:
    """Runs `work(port)` against a server that answers so; how many connections it got."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                data, keeps = answer(await reader.readexactly(length))
                writer.write(data)
                await writer.drain()
                if not keeps:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        await work(server.sockets[0].getsockname()[1])  # type: ignore[misc]
    return connections


def test_connections_are_kept_until_the_server_says_that_they_close() -> None:
    async def work(port: int) -> None:
        client = Client(port)
        for _ in range(3):
            await client.call(2, False)
        await client.call(2, True)
        await client.close()
        await client.close()

    kept = asyncio.run(against(lambda body: (WHOLE if b'"stream": true' in body else sized(said(2)), True), work))
    closed = asyncio.run(
        against(lambda body: (WHOLE if b'"stream": true' in body else sized(said(2), 200, "Connection: close\r\n"), False), work)
    )
    assert (kept, closed) == (1, 4)


@pytest.mark.parametrize(
    ("raw", "stream", "why"),
    [
        (sized({"error": {"message": "no"}}, 503), False, "status 503"),
        (sized(said(1)), False, "another answer"),
        (sized(said(2))[:-5], False, "IncompleteReadError"),
        (b"", False, "IncompleteReadError"),
        (b"HTTP/1.1 200 OK\r\n\r\n", False, "without a length"),
        (b"HTTP/2 200\r\n\r\n", False, "not an answer"),
        (sized([]), False, "TypeError"),
        (WHOLE[:-5], True, "IncompleteReadError"),
        (WHOLE.replace(b"[DONE]", b"{    }"), True, "without its end"),
        (WHOLE.replace(b"word1", b"word2"), True, "other words"),
        (chunks(delta("word0 "), delta("word1 "), b"[DONE]"), True, "other words"),
        (chunks(b'{"error":{"message":"gone"}}', b"[DONE]"), True, "an error in the stream"),
        (SSE + b"3\r\nabcde\r\n", True, "does not end"),
    ],
)
def test_what_is_not_whole_is_broken(raw: bytes, stream: bool, why: str) -> None:
    async def work(port: int) -> None:
        with pytest.raises(Broken, match=why):
            await Client(port).call(2, stream)

    asyncio.run(against(lambda body: (raw, False), work))


def test_nobody_there_is_broken() -> None:
    async def work() -> None:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(Broken, match="Connection"):
            await Client(port).call(1, False)

    asyncio.run(work())


def test_a_load_counts_what_fails_and_goes_on() -> None:
    answered = 0

    def answer(body: bytes) -> tuple[bytes, bool]:
        nonlocal answered
        if b'"stream": true' in body:
            return WHOLE[:-9], False
        answered += 1
        return (sized({}, 500), False) if answered % 10 == 0 else (sized(said(1)), True)

    async def work(port: int) -> None:
        seen = await Load(port, Plan(40, 3, 4000.0, 2)).run()
        assert (len(seen.calls), seen.failed.total(), len(seen.streams), seen.broken.total()) == (40, 4, 3, 3)
        seen = await Load(port, Plan(1, 0, 4000.0, 2), lambda: answered < 50).run()
        assert len(seen.calls) >= 10 and not seen.streams
        assert all(ended > begun for begun, ended in seen.calls) and next(iter(seen.failed)).startswith("status 500")

    asyncio.run(against(answer, work))
