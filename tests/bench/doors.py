"""A small HTTP server with fixed answers, for questions that are asked once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, dict[str, str], bytes]
Door = Callable[[str, str, dict[str, str], bytes], Answer]  # method, path, headers in lower case, body


class _Handler(BaseHTTPRequestHandler):
    door: Door

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        status, headers, data = self.door(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = _answer
    do_POST = _answer

    def version_string(self) -> str:
        return "door"

    def log_message(self, format: str, *args: object) -> None:
        return


@contextmanager
def door(answer: Door) -> Iterator[str]:
    """Serves by `answer` on a free port; the server's origin."""
    handler = type("Handler", (_Handler,), {"door": staticmethod(answer)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def fixed(answers: dict[str, Answer]) -> Door:
    """The same answer at a path, whatever is asked; 404 elsewhere."""
    return lambda method, path, headers, body: answers.get(path, (404, {}, b'{"error":{"message":"no such path"}}'))
