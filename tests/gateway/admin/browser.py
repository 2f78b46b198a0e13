"""A real Chromium, driven over its debugging pipe: no driver, no package, no port."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEADLINE = 60.0  # seconds for one step; a browser's first page on a busy machine takes ten
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip


def find() -> str | None:
    """The path of a Chromium on this machine, if there is one."""
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


class Page:
    """One tab. Every method waits for the browser's answer."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._next = 0
        self._buffer = b""
        self._session = ""
        self.problems: list[str] = []  # what the page's console called errors, and exceptions

    def attach(self) -> None:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: object) -> dict[str, Any]:
        """One command; its result. RuntimeError: refused."""
        self._next += 1
        message: dict[str, object] = {"id": self._next, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._next:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], DEADLINE)[0]:
                raise TimeoutError("the browser does not answer")
            self._buffer += os.read(self._read, 1 << 20) or self._gone()
        raw, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    @staticmethod
    def _gone() -> bytes:
        raise RuntimeError("the browser has ended")

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"])[:600])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def open(self, url: str, width: int = 1280, height: int = 1600, dark: bool = False) -> None:
        phone = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.send("Page.navigate", url=url)

    def js(self, code: str) -> Any:
        """The value of an expression (awaited) in the page. RuntimeError: it threw."""
        result = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"])[:1000])
        return result["result"].get("value")

    def until(self, condition: str) -> Any:
        """Waits until a JavaScript condition holds, looking at each change of the page; its value. TimeoutError: it never does."""
        code = f"""new Promise((resolve) => {{
            // While the page is still being read, what it asks for may not be there.
            const value_ = () => {{ try {{ return ({condition}); }} catch {{ return undefined; }} }};
            const look = () => {{ const value = value_(); if (value) {{ observer.disconnect(); resolve(value); }} return value; }};
            const observer = new MutationObserver(look);
            observer.observe(document, {{subtree: true, childList: true, attributes: true, characterData: true}});
            look();
        }})"""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            try:
                return self.js(code)
            except RuntimeError as error:
                # The page was replaced while we looked: look at the new one.
                if not any(word in str(error) for word in ("context", "navigated", "collected")):
                    raise
        raise TimeoutError(condition)

    def picture(self, path: Path) -> None:
        """Saves a PNG of the whole page, as high as it is."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """Starts a Chromium of its own with an empty profile, and ends it."""
    program = find()
    if program is None:
        raise FileNotFoundError("no Chromium on this machine")
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    # The browser reads commands from descriptor 3 and writes to 4; a shell puts them there without running Python after fork.
    script = f'exec 3<&{to_read} 4>&{from_write}; exec "$@"'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(to_read, from_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(from_write)
        page = Page(to_write, from_read)
        try:
            page.attach()
            yield page
        finally:
            os.close(to_write)
            os.close(from_read)
            process.terminate()
            process.wait()
