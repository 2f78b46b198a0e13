"""A gateway for tests: relays bytes, a thread each way. usage: relay.py PORT UPSTREAM_PORT [MODE]

Or as Pointsman is started: relay.py serve --config FILE --port PORT; the upstream's port is the one in the file's first URL.

MODE `exit`: ends at once with 3. `wrong`: answers everything with a 200 that is not a completion. `child`: the relay is a grandchild.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

WRONG = b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\n{"choices":1}'


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Bytes one way until the end."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for s in (source, sink):
        with suppress(OSError):
            s.shutdown(socket.SHUT_RDWR)


def serve(port: int, upstream: int, wrong: bool) -> None:
    """Accepts for ever."""
    listener = socket.create_server(("127.0.0.1", port), backlog=100)
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if wrong:
            client.recv(65536)
            client.sendall(WRONG)
            client.close()
            continue
        server = socket.create_connection(("127.0.0.1", upstream))
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pair in ((client, server), (server, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()


def as_pointsman(arguments: list[str]) -> None:
    """`serve --config FILE --port PORT`."""
    config = Path(arguments[arguments.index("--config") + 1]).read_text()
    found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", config)
    assert found
    serve(int(arguments[arguments.index("--port") + 1]), int(found[1]), False)


if __name__ == "__main__":
    if "serve" in sys.argv:
        as_pointsman(sys.argv)
    mode = sys.argv[3] if len(sys.argv) > 3 else ""
    if mode == "exit":
        sys.stderr.write("cannot start\n")
        sys.exit(3)
    if mode == "child":
        sys.exit(subprocess.run([sys.executable, __file__, sys.argv[1], sys.argv[2]], check=False).returncode)
    serve(int(sys.argv[1]), int(sys.argv[2]), mode == "wrong")
