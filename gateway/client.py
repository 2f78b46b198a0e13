"""A small client of a running gateway, for the commands that talk to one. Blocks; every failure is a ClientError of one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from backends.loopback import is_loopback

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MAX_ERROR = 64 * 1024
_MAX_LINE = 8 * 1024 * 1024


class ClientError(Exception):
    """The gateway could not be reached, refused, or broke off; the text is for the user."""


def plain(text: str) -> str:
    """`text` without control characters: what a model or a server says must not steer the terminal."""
    return _CONTROL.sub("", text)


class Client:
    """One gateway at `url` (with or without `/v1`); `timeout` in seconds. Use as a context manager."""

    def __init__(self, url: str, key: str | None = None, timeout: float = 600.0) -> None:
        self.base = url.rstrip("/").removesuffix("/v1")
        parts = urlsplit(self.base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(f"{plain(url)} is not the URL of a gateway; write http://HOST:PORT")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        # A proxy from the environment is not for this machine's own addresses.
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            trust_env=not is_loopback(parts.hostname),
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """The gateway's models, as /v1/models lists them. Raises ClientError."""
        with self._told():
            answer = self._http.get(f"{self.base}/v1/models")
            if answer.status_code != 200:
                raise ClientError(_refusal(answer.status_code, answer.content))
            try:
                return [entry for entry in answer.json()["data"] if isinstance(entry, dict)]
            except (ValueError, KeyError, TypeError):
                raise ClientError(f"{self.base} answered, but not with a list of models; is it a gateway?") from None

    def chat(self, model: str, messages: list[dict[str, str]]) -> Generator[tuple[str, str], None, None]:
        """Streams one answer as ("text" | "reasoning", piece). Raises ClientError, also when the answer breaks off. Close it to stop."""
        body = {"model": model, "messages": messages, "stream": True}
        with self._told(), self._http.stream("POST", f"{self.base}/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                raise ClientError(_refusal(answer.status_code, _start(answer)))
            finished = False
            for event in _events(answer):
                for choice in event.get("choices") or ():
                    yield from _pieces(choice.get("delta") or {})
                    finished = finished or choice.get("finish_reason") is not None
            if not finished:
                raise ClientError("the answer broke off")

    def explain(self, body: bytes) -> dict[str, Any]:
        """What the gateway says of a request that it does not send. Raises ClientError."""
        with self._told():
            answer = self._http.post(f"{self.base}/v1/explain", content=body, headers={"content-type": "application/json"})
            if answer.status_code != 200:
                raise ClientError(_refusal(answer.status_code, answer.content[:_MAX_ERROR]))
            try:
                told = answer.json()
            except ValueError:
                told = None
            if not isinstance(told, dict) or "route" not in told:
                raise ClientError(f"{self.base} answered, but not with an explanation; is it a gateway of this version?")
            return told

    def admin(self, method: str, path: str, body: object = None) -> bytes:
        """What the control plane at this URL answers; `body` is sent as JSON. Raises ClientError."""
        with self._told():
            headers = {"x-pointsman-client": "command line"}
            answer = self._http.request(method, f"{self.base}{path}", json=body, headers=headers)
            if answer.status_code != 200:
                raise ClientError(_refusal(answer.status_code, answer.content[:_MAX_ERROR]))
            return answer.content

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise ClientError(f"no gateway answers at {self.base} ({plain(str(error))}); start one with `pointsman serve`") from None
        except httpx.TimeoutException:
            raise ClientError(f"{self.base} took too long to answer") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ClientError(f"the connection to {self.base} failed: {plain(str(error)) or type(error).__name__}") from None


def _start(answer: httpx.Response) -> bytes:
    """The first bytes of an error's body, enough for its message."""
    out = b""
    for part in answer.iter_bytes():
        out += part
        if len(out) > _MAX_ERROR:
            break
    return out[:_MAX_ERROR]


def _events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of an SSE stream until [DONE]. Raises ClientError for an error event and for what is not JSON."""
    for line in answer.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data) if len(data) <= _MAX_LINE else None
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise ClientError("the answer holds an event that is not JSON")
        if event.get("error"):
            raise ClientError(_message(event) or "the answer ended with an error")
        yield event


def _pieces(delta: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for field, kind in (("reasoning_content", "reasoning"), ("reasoning", "reasoning"), ("content", "text"), ("refusal", "text")):
        piece = delta.get(field)
        if isinstance(piece, str) and piece:
            yield kind, piece


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return plain(" ".join(message.split())) if isinstance(message, str) else ""


def _refusal(status: int, body: bytes) -> str:
    try:
        message = _message(json.loads(body))
    except ValueError:
        message = ""
    hint = "; give a key with --key or $POINTSMAN_KEY" if status == 401 else ""
    return f"{message or 'the gateway refused the call'} (HTTP {status}){hint}"
