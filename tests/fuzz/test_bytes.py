"""Over a thousand mutated requests as raw bytes, on each way: no 500, no hang, no traceback, and nothing unclean reaches the engine.

Seeded: the same bytes on every run. The engine is strict, so whatever the gateway passes on must be faultless HTTP and JSON.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tests.fakes.engine import Engine
from tests.fakes.reader import Answer, AnswerReader
from tests.harness import Client, Running, both_ways, chat, config_for, encoded, request, running

BATCH, BATCHES = 200, 6
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/tokenize", "/v1/models", "/health", "/metrics")
SPICE = (
    b"\r\n", b"\n", b"\r", b"\0", b"\xff", b" ", b"\t", b":", b";", b"{", b"}", b"[", b'"', b"\\u0000", b"\\ud800", b"-1", b"1e999", b"NaN",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Upgrade: websocket\r\n", b"Expect: x\r\n",
    b"Host: evil\r\n", b"Authorization: Bearer x\r\n", b"0\r\n\r\n", b"HTTP/1.0", b"HTTP/2.0", b"..%2f", b"\xed\xa0\x80", b"null", b"true",
)  # fmt: skip
Mutation = Callable[[random.Random, bytes], bytes]


def flip(dice: random.Random, data: bytes) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]


def insert(dice: random.Random, data: bytes) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.choice(SPICE) * dice.choice((1, 1, 1, 2, 50)) + data[at:]


def delete(dice: random.Random, data: bytes) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + data[at + dice.choice((1, 1, 2, 10, 100)) :]


def repeat(dice: random.Random, data: bytes) -> bytes:
    at = dice.randrange(len(data))
    part = data[at : at + dice.randrange(1, 60)]
    return data[:at] + part * dice.choice((2, 3, 200)) + data[at:]


def swap_line(dice: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    dice.shuffle(lines)
    return b"\r\n".join(lines)


def cut(dice: random.Random, data: bytes) -> bytes:
    return data[: dice.randrange(1, len(data) + 1)]


MUTATIONS: tuple[Mutation, ...] = (flip, insert, insert, delete, repeat, swap_line, cut)


def original(dice: random.Random) -> bytes:
    """A good request to begin with."""
    path = dice.choice(PATHS)
    if path in ("/v1/models", "/health", "/metrics"):
        return request("GET", path)
    doc = chat("fuzz", stream=dice.random() < 0.3) | {"prompt": "x", "input": ["x"], "query": "x", "documents": ["x"]}
    return request(dice.choice(("POST", "POST", "POST", "PUT", "GET")), path, encoded(doc))


def malformed(seed: int, count: int) -> Iterator[bytes]:
    """`count` mutated requests, the same ones for the same seed."""
    dice = random.Random(seed)
    for _ in range(count):
        data = original(dice)
        for _ in range(dice.choice((1, 1, 2, 3, 8))):
            data = dice.choice(MUTATIONS)(dice, data) or b"\r\n"
        yield data


def replies(client: Client) -> list[Answer]:
    """Every answer until the server closes. Raises TimeoutError for a hang, Malformed for an answer that is none."""
    reader = AnswerReader(client.sock)
    found = []
    while reader.buffer or reader._more():
        found.append(reader.read())
    return found


def sane(answer: Answer, sent: bytes) -> None:
    """An answer that may follow rubbish: never our own failure, and nothing of our insides in it."""
    assert answer.status != 500, sent
    assert answer.status < 500 or answer.status in (501, 502, 503, 504, 505), (answer.status, sent)
    assert b"Traceback" not in answer.body and b'File "' not in answer.body, sent
    if answer.status >= 400 and answer.headers.get("content-type", "").startswith("application/json"):
        assert answer.error["message"], sent


def volley(gateway: Running, batch: list[bytes], finish: bool) -> int:
    """Sends a batch, each on its own connection and at once, then reads every answer. Returns how many came.
    Without `finish` the sending sides stay open: then the gateway itself must end every connection, by an answer or a time limit."""
    clients = [gateway.dial() for _ in batch]
    count = 0
    try:
        for client, data in zip(clients, batch, strict=True):
            client.send(data)
            if finish:
                client.finish()
        for client, data in zip(clients, batch, strict=True):
            for answer in replies(client):
                sane(answer, data)
                count += 1
    finally:
        for client in clients:
            client.sock.close()
    return count


@both_ways
def test_mutated_requests(asgi: bool) -> None:
    limits = {"header_seconds": 1, "body_seconds": 1, "keep_alive_seconds": 1}
    with Engine() as engine, running(config_for([engine], server={"limits": limits}, route={"retries": 0}), asgi) as gateway:
        cases = list(malformed(20261121, BATCH * BATCHES))
        assert len(cases) >= 1000
        # On the ASGI way the server's own parser has no time limit for a head, so there the client ends what it has begun.
        count = sum(volley(gateway, cases[at : at + BATCH], asgi) for at in range(0, len(cases), BATCH))
        assert count > 100  # most are refused with an answer; a cut request is owed none
        assert gateway.ask(chat()).status == 200
        gateway.settled()


@both_ways
def test_noise(asgi: bool) -> None:
    """Bytes that never were a request: TLS hellos, binary, one endless line."""
    dice = random.Random(7)
    noise = [dice.randbytes(dice.randrange(1, 2000)) for _ in range(100)]
    noise += [b"A" * 1_000_000, b"GET " + b"/" * 1_000_000, b"\r\n" * 100_000]
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        for at in range(0, len(noise), BATCH):
            volley(gateway, noise[at : at + BATCH], True)
        assert gateway.ask(chat()).status == 200
        assert not engine.violations
