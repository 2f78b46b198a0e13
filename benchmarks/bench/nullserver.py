"""An OpenAI server that computes nothing: what a client measures against it is the client's own, or what the script says.

`python -m benchmarks.bench.nullserver --port 0` prints its port as one line of JSON and serves on 127.0.0.1 until its standard input ends,
as it does when whoever started it ends in any way. An answer has `--chunks` chunks (0: as many as `max_tokens` says, 16 where it says
none), one token each; without times they leave in one write. `--ttft` and `--itl` pace them, in seconds. `--stall AT:SECONDS` stops the
whole process for so long, once, AT seconds after the first request; what it did is printed: {"stall": [begin, end]}, monotonic times.
`--fail N` answers every Nth request with status 503. Prompts are counted by their words, one token each. It is strict: what is no proper
request of a client gets status 400 and a sentence.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httptools
import msgspec

from benchmarks.bench.alarm import Alarm, Handle

MOST_BODY = 64 << 20
DEFAULT_CHUNKS = 16
MODEL = "null"
_MOST_CHUNKS = 100_000
_ROOT = str(Path(__file__).resolve().parents[2])  # where `benchmarks` is, whatever the working directory
_STREAM = b"HTTP/1.1 200 OK\r\nserver: null\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Script(msgspec.Struct, frozen=True):
    """What a server does; see the module. Times are seconds."""

    chunks: int = 0
    ttft: float = 0.0
    itl: float = 0.0
    stall: tuple[float, float] | None = None
    fail: int = 0

    def arguments(self) -> list[str]:
        """The command line that says the same."""
        said = [f"--chunks={self.chunks}", f"--ttft={self.ttft!r}", f"--itl={self.itl!r}", f"--fail={self.fail}"]
        return [*said, f"--stall={self.stall[0]!r}:{self.stall[1]!r}"] if self.stall else said


class _Options(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Message(msgspec.Struct):
    role: str
    content: Any = None


class Body(msgspec.Struct):
    """What is read of a request. Fields that are not here are taken and do nothing."""

    model: str
    messages: list[_Message] | None = None
    prompt: str | list[str] | None = None
    stream: bool = False
    stream_options: _Options | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class Refused(Exception):
    """The request is not one; the text says why. `status`: of the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


_body = msgspec.json.Decoder(Body).decode


def parse(method: str, path: str, headers: dict[str, str], body: bytes) -> Body:
    """A POST as a `Body`. Raises Refused."""
    if method != "POST" or path not in ("/v1/chat/completions", "/v1/completions"):
        raise Refused(404, f"there is no {method} {path[:100]}")
    if "host" not in headers or headers.get("content-type", "").partition(";")[0] != "application/json":
        raise Refused(400, "a request has a host and the content type application/json")
    try:
        found = _body(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"the body is not what it must be: {error}") from None
    if (found.messages if path == "/v1/chat/completions" else found.prompt) in (None, []):
        raise Refused(400, "a chat has messages, a completion has a prompt")
    return found


def words(body: Body) -> int:
    """How many words its prompt has: tokens, to this server."""
    if body.messages is None:
        prompts = body.prompt if isinstance(body.prompt, list) else [body.prompt or ""]
        return sum(len(each.split()) for each in prompts)
    return sum(len(each.content.split()) if isinstance(each.content, str) else 1 for each in body.messages)


def _dump(document: Any) -> bytes:
    return msgspec.json.encode(document)


class Reply:
    """One answer's bytes: `head`, then `chunk(at)` for each of `count`, then `tail`; or all of them in `whole`."""

    def __init__(self, body: Body, script: Script) -> None:
        asked = body.max_tokens or body.max_completion_tokens or DEFAULT_CHUNKS
        self.count = min(script.chunks or asked, _MOST_CHUNKS)
        self.chat = body.messages is not None
        self.prompt = words(body)
        self.options = body.stream_options or _Options()
        kind = "chat.completion" if self.chat else "text_completion"
        self._base = {"id": "null-1", "object": kind, "created": 1_700_000_000, "model": body.model}

    def usage(self, made: int) -> dict[str, Any]:
        """What was counted when `made` tokens were."""
        return {"prompt_tokens": self.prompt, "completion_tokens": made, "total_tokens": self.prompt + made,
                "prompt_tokens_details": {"cached_tokens": 0}}  # fmt: skip

    def _framed(self, choices: list[Any], usage: dict[str, Any] | None = None) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        told = {"usage": usage} if usage is not None else {}
        data = b"data: " + _dump({**self._base, "object": kind, "choices": choices, **told}) + b"\n\n"
        return b"%x\r\n%b\r\n" % (len(data), data)

    def _choice(self, text: str | None, finish: str | None) -> list[Any]:
        said: dict[str, Any] = {"delta": {"content": text} if text is not None else {}} if self.chat else {"text": text or ""}
        return [{"index": 0, **said, "finish_reason": finish}]

    def chunks(self) -> list[bytes]:
        """Each token's chunk, framed."""
        choice = self._choice("word ", None)
        if self.options.continuous_usage_stats:
            return [self._framed(choice, self.usage(at + 1)) for at in range(self.count)]
        return [self._framed(choice)] * self.count

    def tail(self) -> bytes:
        """The finish, the usage where it was asked for, and the ends."""
        usage = self._framed([], self.usage(self.count)) if self.options.include_usage else b""
        return self._framed(self._choice(None, "length")) + usage + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"

    def whole(self) -> bytes:
        """The answer in one."""
        text = "word " * self.count
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return plain(200, {**self._base, "choices": [{"index": 0, **said, "finish_reason": "length"}], "usage": self.usage(self.count)})


def plain(status: int, document: Any) -> bytes:
    """A JSON answer's bytes."""
    body = _dump(document)
    head = b"HTTP/1.1 %d Null\r\nserver: null\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


class Served(asyncio.Protocol):
    """One connection of the server."""

    def __init__(self, null: Null) -> None:
        self._null = null
        self._transport: Any = None
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._busy = False
        self._timer: Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """A client left: nothing more is written."""
        self._parser = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Reads; what is no HTTP ends the connection with a sentence."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._transport.write(plain(400, {"error": {"message": f"no HTTP/1.1 request: {error}"}}))
            self._transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url, self._headers = b"", {}
        self._body.clear()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if len(self._body) + len(data) <= MOST_BODY:
            self._body += data

    def on_message_complete(self) -> None:
        """A request is whole: the answer."""
        if self._busy:
            self._transport.abort()  # a client that sends before it was answered is a broken one
            return
        self._answer(self._parser.get_method().decode(), self._url.decode("latin-1"))

    def _answer(self, method: str, path: str) -> None:
        if method == "GET" and path in ("/v1/models", "/health"):
            self._transport.write(plain(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "null"}]}))
            return
        try:
            body = parse(method, path, self._headers, bytes(self._body))
        except Refused as refused:
            self._transport.write(plain(refused.status, {"error": {"message": str(refused), "type": "invalid_request_error"}}))
            return
        if self._null.failing():
            self._transport.write(plain(503, {"error": {"message": "as the script says", "type": "overloaded"}}))
            return
        self._send(body)

    def _send(self, body: Body) -> None:
        script, reply = self._null.script, Reply(body, self._null.script)
        if not (script.ttft or script.itl):
            self._transport.write(_STREAM + b"".join(reply.chunks()) + reply.tail() if body.stream else reply.whole())
            return
        self._busy = True
        parts = reply.chunks() if body.stream else []
        last = reply.tail() if body.stream else reply.whole()
        self._pace(parts, 0, last, script.ttft if parts else script.ttft + script.itl * (reply.count - 1), time.monotonic())

    def _pace(self, parts: list[bytes], at: int, last: bytes, wait: float, begun: float) -> None:
        """Writes part `at` when it is due, by the time that the request came, so that lateness does not add up."""
        self._timer = self._null.alarm.at(begun + wait, partial(self._part, parts, at, last, wait, begun))

    def _part(self, parts: list[bytes], at: int, last: bytes, wait: float, begun: float) -> None:
        if parts and at == 0:
            self._transport.write(_STREAM)
        if at + 1 < len(parts):
            self._transport.write(parts[at])
            self._pace(parts, at + 1, last, wait + self._null.script.itl, begun)
            return
        self._busy = False
        self._transport.write(b"".join(parts[at:]) + last)


class Null:
    """The server's state, its loop's own."""

    def __init__(self, script: Script, alarm: Alarm) -> None:
        self.script, self.alarm = script, alarm
        self._requests = 0

    def failing(self) -> bool:
        """Counts a request; whether it is one that fails. The first begins the time to the stall."""
        self._requests += 1
        if self._requests == 1 and self.script.stall is not None:
            asyncio.get_running_loop().call_later(self.script.stall[0], self._stall, self.script.stall[1])
        return bool(self.script.fail) and self._requests % self.script.fail == 0

    def _stall(self, seconds: float) -> None:
        begin = time.monotonic()
        time.sleep(seconds)  # everything stops: what a stall is
        _say({"stall": [begin, time.monotonic()]})


def _say(document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


async def _serve(port: int, script: Script) -> None:
    loop, alarm = asyncio.get_running_loop(), Alarm()
    null = Null(script, alarm)
    over = asyncio.Event()
    server = await loop.create_server(lambda: Served(null), "127.0.0.1", port, backlog=4096)
    threading.Thread(target=_lifeline, args=(loop, over), name="lifeline", daemon=True).start()
    _say({"port": server.sockets[0].getsockname()[1]})
    await over.wait()
    server.close()
    alarm.close()


def _lifeline(loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    """Waits for the end of standard input, whatever it is: whoever started the server is gone, or wants it to end. A thread's work."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    loop.call_soon_threadsafe(over.set)


class Running:
    """A server in a child process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}/v1"

    @property
    def pid(self) -> int:
        """The child's."""
        return self._process.pid

    async def stall(self) -> tuple[float, float]:
        """Waits until the stall is over; its begin and end, monotonic times of this machine."""
        begin, end = json.loads(await _line(self._process))["stall"]
        return begin, end


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"the null server ended with status {await process.wait()}")
    return line


@contextlib.asynccontextmanager
async def running(script: Script | None = None) -> AsyncIterator[Running]:
    """Starts a server in a child process and ends it afterwards. Raises RuntimeError where it does not start."""
    command = [sys.executable, "-m", "benchmarks.bench.nullserver", "--port=0", *(script or Script()).arguments()]
    paths = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        yield Running(process, json.loads(await _line(process))["port"])
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.communicate()


def _stall(text: str) -> tuple[float, float]:
    at, _, seconds = text.partition(":")
    return float(at), float(seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until standard input ends; the exit code."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.bench.nullserver", description=__doc__)
    p.add_argument("--port", type=int, default=0)
    p.add_argument("--chunks", type=int, default=0, metavar="N")
    p.add_argument("--ttft", type=float, default=0.0, metavar="S")
    p.add_argument("--itl", type=float, default=0.0, metavar="S")
    p.add_argument("--stall", type=_stall, default=None, metavar="AT:S")
    p.add_argument("--fail", type=int, default=0, metavar="N")
    a = p.parse_args(argv)
    try:
        asyncio.run(_serve(a.port, Script(a.chunks, a.ttft, a.itl, a.stall, a.fail)))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        sys.stderr.write(f"nullserver: cannot serve on 127.0.0.1:{a.port} ({os.strerror(error.errno or 0)}); choose another --port\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
