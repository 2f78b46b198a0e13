"""One streaming client on a plain socket: what it reads, and when the stream was over for it."""

from __future__ import annotations

import json
import socket
import threading
import time

SECONDS = 60.0  # the longest wait for anything


def ask(port: int, model: str, text: str, stream: bool, **more: object) -> socket.socket:
    """Connects and sends one chat request; the answer is still to be read."""
    doc = {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}], **more}
    body = json.dumps(doc).encode()
    sock = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    sock.sendall(head % len(body) + body)
    return sock


def status(port: int, model: str, text: str) -> tuple[int, float]:
    """Status of one whole answer, and the seconds it took. 0: no connection."""
    began = time.monotonic()
    try:
        with ask(port, model, text, False, max_tokens=4) as sock:
            first = sock.recv(4096)
    except OSError:
        return 0, time.monotonic() - began
    return int(first[9:12] or 0), time.monotonic() - began


class Reader(threading.Thread):
    """Reads one stream to its end. `begun` is set with its first event; `ended` is when its last byte came."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        self.sock, self.data, self.ended = sock, b"", 0.0
        self.begun = threading.Event()

    def run(self) -> None:
        try:
            while not self.data.endswith(b"\r\n0\r\n\r\n"):
                piece = self.sock.recv(65536)
                if not piece:
                    break
                self.data += piece
                if b"data: " in self.data:
                    self.begun.set()
        except OSError:
            pass
        self.ended = time.monotonic()
        self.begun.set()
        self.sock.close()

    @property
    def well_formed(self) -> bool:
        """Whether it ended as a chunked answer whose last event is an error."""
        return self.data.endswith(b"\r\n0\r\n\r\n") and b'"error"' in self.data and b"[DONE]" not in self.data
