"""The "try it" box's way to the data port, with a data port that does what the test says."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.admin.app import create
from gateway.admin.chat import ANSWERS, BODY_BYTES, DataPort
from tests.fakes.certs import make
from tests.gateway.admin import fake

EVENTS = b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\ndata: [DONE]\n\n'
QUESTION = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


class DataApp:
    """A data port: notes what it was asked, answers two events, or waits when told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.hold = False
        self.left = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        message = await receive()
        self.asked.append((scope["path"], {k.decode(): v.decode() for k, v in scope["headers"]}, message["body"]))
        headers = [(b"content-type", b"text/event-stream"), (b"x-request-id", b"r1"), (b"set-cookie", b"no=1")]
        headers.append((b"access-control-allow-origin", b"*"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": EVENTS, "more_body": self.hold})
        if self.hold:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()


@contextmanager
def both(data: DataApp) -> Iterator[httpx.Client]:
    with fake.served(data) as behind, fake.served(create(fake.busy(), data=DataPort(behind))) as url:
        with httpx.Client(base_url=url, trust_env=False) as client:
            yield client


def test_the_question_goes_on_and_the_answer_comes_back() -> None:
    data = DataApp()
    with both(data) as http:
        given = {"x-pointsman-key": "client-key", "cookie": "a=b", "authorization": "Bearer admin"}
        answer = http.post("/api/chat", json=QUESTION, headers=given)
    ((path, headers, _),) = data.asked
    assert path == "/v1/chat/completions" and headers["authorization"] == "Bearer client-key" and "cookie" not in headers
    assert answer.content == EVENTS and answer.headers["x-request-id"] == "r1" and answer.headers["content-type"] == "text/event-stream"
    assert "set-cookie" not in answer.headers and "access-control-allow-origin" not in answer.headers


def test_without_a_key_none_is_sent() -> None:
    data = DataApp()
    with both(data) as http:
        http.post("/api/chat", json=QUESTION)
    assert "authorization" not in data.asked[0][1]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"headers": {"origin": "https://evil.example", "content-type": "application/json"}}, 403),
        ({"headers": {"content-type": "text/plain"}}, 400),
        ({"headers": {"x-pointsman-key": b"cl\xe9", "content-type": "application/json"}}, 400),
        ({"content": b"x" * (BODY_BYTES + 1), "headers": {"content-type": "application/json"}}, 413),
    ],
)
def test_what_must_not_pass(change: dict[str, Any], status: int) -> None:
    data = DataApp()
    with both(data) as http:
        answer = http.post("/api/chat", **({"content": b"{}"} | change))
    assert answer.status_code == status and answer.json()["error"]["message"].endswith(".")
    assert data.asked == []


def test_a_page_that_leaves_ends_the_answer_behind() -> None:
    data = DataApp()
    data.hold = True
    with both(data) as http:
        with http.stream("POST", "/api/chat", json=QUESTION) as answer:
            assert next(answer.iter_raw()).startswith(b"data:")
        assert data.left.wait(30)


def test_only_so_many_at_once_and_each_place_is_given_back() -> None:
    data = DataApp()
    data.hold = True

    async def scenario(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, trust_env=False, limits=httpx.Limits(max_connections=20)) as http:
            open_ones = [await http.send(http.build_request("POST", "/api/chat", json=QUESTION), stream=True) for _ in range(ANSWERS)]
            full = await http.post("/api/chat", json=QUESTION)
            assert full.status_code == 503 and full.headers["retry-after"] == "5"
            for answer in open_ones:
                await answer.aclose()
            data.hold = False
            # A place comes back when the server sees that its page has left; until then it refuses.
            for _ in range(5000):
                if (await http.post("/api/chat", json=QUESTION)).status_code == 200:
                    return
            raise AssertionError("no place came back")

    with fake.served(data) as behind, fake.served(create(fake.busy(), data=DataPort(behind))) as url:
        asyncio.run(scenario(url))


def test_a_data_port_that_is_not_there() -> None:
    with fake.served(DataApp()) as behind:
        pass
    with fake.served(create(fake.busy(), data=DataPort(behind))) as url:
        answer = httpx.post(f"{url}/api/chat", json=QUESTION, trust_env=False)
    assert answer.status_code == 503 and "did not answer" in answer.json()["error"]["message"]


def test_a_certificate_that_is_not_there() -> None:
    with fake.served(create(fake.busy(), data=DataPort("https://127.0.0.1:1", "/nowhere/cert.pem"))) as url:
        assert httpx.get(f"{url}/api/status", trust_env=False).status_code == 200
        for _ in range(2):
            answer = httpx.post(f"{url}/api/chat", json=QUESTION, trust_env=False)
            assert answer.status_code == 503 and "No such file" in answer.json()["error"]["message"]


def test_without_a_data_port_there_is_no_box() -> None:
    with fake.served(create(fake.busy())) as url:
        assert httpx.post(f"{url}/api/chat", json=QUESTION, trust_env=False).status_code == 404


def test_a_data_port_with_its_own_certificate(tmp_path: Path) -> None:
    """Its certificate, and no other, is trusted."""
    ours, other = make(tmp_path), make(_folder(tmp_path / "other"))
    data = DataApp()
    with fake.served(data, tls=(str(ours.chain), str(ours.key))) as behind:
        assert behind.startswith("https")
        for trusted, status in ((ours.chain, 200), (other.chain, 503)):
            with fake.served(create(fake.busy(), data=DataPort(behind, str(trusted)))) as url:
                assert httpx.post(f"{url}/api/chat", json=QUESTION, trust_env=False).status_code == status
    assert len(data.asked) == 1


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_an_answer_that_breaks_off_ends_with_an_error_event() -> None:
    """A raw server that promises more bytes than it sends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 999\r\n\r\ndata: {}\n\n")

        thread = threading.Thread(target=answer)
        thread.start()
        behind = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with fake.served(create(fake.busy(), data=DataPort(behind))) as url:
            got = httpx.post(f"{url}/api/chat", json=QUESTION, trust_env=False).content
        thread.join()
    first, last = got.removesuffix(b"\n\n").split(b"\n\n")
    assert first == b"data: {}" and b"broke off" in last and b"[DONE]" not in got
