"""Secrets stay out, lines stay lines, and nobody waits for a terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
from collections.abc import Iterator
from typing import TextIO

import pytest

from gateway import logs

SECRETS = [
    ("Authorization: Bearer abc.def-123", "abc.def"),
    ("authorization: Basic dXNlcjpwYXNz", "dXNl"),
    ("{'authorization': 'Bearer tok'}", "tok"),
    ('{"Authorization": "Digest x y z"}', "x y"),
    ("failed with bearer s3cr3t, retrying", "s3cr3t"),
    ("x-api-key: 12345-abc", "12345"),
    ('{"api_key": "pa ss,word"}', "pa ss"),
    ('{\\"api_key\\":\\"escaped\\"}', "escaped"),
    ("OPENAI_API_KEY=abcd", "abcd"),
    ("client_secret = hunter2", "hunter2"),
    ("password: hunter2", "hunter2"),
    ("aws_secret_access_key=AbC/+=", "AbC"),
    ("GET /v1/models?key=hunter2&x=1", "hunter2"),
    ("GET /b?x=1&X-Amz-Signature=feed&y=2", "feed"),
    ("https://user:hunter2@example.com/v1", "hunter2"),
    ("the key sk-proj-abcdefghijkl is wrong", "abcdef"),
    ("hf_abcdefghijklmnop", "abcdef"),
    ("AKIAIOSFODNN7EXAMPLE", "IOSF"),
    ("token eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "eyJz"),
    ("cookie: session=abc; other=def", "abc"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "MIIE"),
    ("-----BEGIN PRIVATE KEY-----\nMIIE and cut off", "MIIE"),
]
HARMLESS = [
    "max_tokens=5 output_tokens: 7 prompt_tokens=3", "unexpected token: }", "the key is wrong", "127.0.0.1:8484", "model gpt-4o",
    "http://127.0.0.1:8484/v1?limit=5", "a task-force", "monkey: banana", "chatcmpl-abc123",
]  # fmt: skip


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_are_taken_out(text: str, secret: str) -> None:
    shown = logs.redact(text)
    assert secret not in shown and logs.HIDDEN in shown
    assert logs.redact(shown) == shown, "twice is as good as once"


@pytest.mark.parametrize("text", HARMLESS)
def test_the_rest_stays(text: str) -> None:
    assert logs.redact(text) == text


def test_long_hostile_text_is_redacted_in_linear_time() -> None:
    # Ten times the text must not be a hundred times the work: counted in characters looked at, this never ends when quadratic.
    for piece in ("a-", "://", "api_", "?key", "bearer ", "eyJ", "authorization", '"api_key":"', "-----BEGIN "):
        logs.redact(piece * (200_000 // len(piece)))


def test_a_key_of_our_own_is_hidden_wherever_it_stands() -> None:
    assert logs.redact("engine said my-own-random-key-1") == "engine said my-own-random-key-1"
    logs.hide("my-own-random-key-1")
    logs.hide("short")
    assert logs.redact("engine said my-own-random-key-1") == "engine said [redacted]"
    assert logs.redact("short") == "short"


def test_fields_under_a_secrets_name_go_whole() -> None:
    value = {
        "api_key": "x", "key": "", "nested": {"Authorization": "y", "max_tokens": 4}, "list": [{"password": "z"}, "sk-abcdefgh"],
        "keys": [{"name": "ci", "hash": "sha256:feed"}], "deep": {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}, "other": object,
    }  # fmt: skip
    shown = logs.redact_value(value)
    text = json.dumps(shown)
    assert all(secret not in text for secret in ('"x"', '"y"', '"z"', "abcdefgh", "feed"))
    line = logs.redact_value(["serve", "--api-key", "abc", "--port", 5, "--token", "def"])
    assert line == ["serve", "--api-key", logs.HIDDEN, "--port", 5, "--token", logs.HIDDEN]
    assert shown["nested"]["max_tokens"] == 4 and shown["key"] == "" and shown["keys"][0]["name"] == "ci"
    assert shown["deep"]["a"]["b"]["c"]["d"]["e"] == "…"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    out = io.StringIO()
    yield out
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, logs.Writer):
            logging.getLogger().removeHandler(handler)
            handler.close()


LOG = logging.getLogger("pointsman.test")


def test_json_lines_are_whole_and_one_each(stream: io.StringIO) -> None:
    writer = logs.setup("debug", "json", stream=stream)
    logs.event(LOG, logging.INFO, "hello", id="a\nb", level="clash", none=None, body="secret words", input=7, route="ü\u2028\x1b[31m")
    logs.event(LOG, logging.INFO, "big", **{f"f{i}": "x" * 5000 for i in range(30)})
    LOG.info("old style %s and %d", "api_key=abc", 3)
    alone = logging.Logger("alone")
    alone.addHandler(writer)
    alone.info("%d does not fit", "x")
    writer.flush()
    first, big, old, bad = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (first["message"], first["level"], first["logger"], first["field_level"]) == ("hello", "info", "test", "clash")
    assert (first["id"], first["body"], first["input"], first["route"]) == ("a\nb", "[body]", 7, "ü\u2028\x1b[31m")
    assert first["time"].endswith("Z") and "none" not in first
    assert big["cut"] is True and "f0" not in big
    assert old["message"] == "old style api_key=[redacted] and 3" and "do not fit" in bad["message"]
    assert stream.getvalue().isascii()


def test_text_lines_cannot_be_forged(stream: io.StringIO) -> None:
    writer = logs.setup("info", "text", stream=stream)
    logs.event(LOG, logging.WARNING, "fake\n12:00:00.000 INFO x", who="a b", empty="", route="x\r\ny", n=1, flag=True, d={"k": "v\n"})
    LOG.debug("not shown")
    writer.flush()
    (line,) = stream.getvalue().splitlines()
    assert "WARN  test" in line and "fake\\n12:00" in line and 'who="a b"' in line and "flag=true" in line and "empty" not in line
    assert "\x1b" not in line and "\r" not in line


def test_tracebacks_are_indented_redacted_and_cut(stream: io.StringIO) -> None:
    writer = logs.setup("info", "text", stream=stream)

    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError("api_key=abc\nforged line")

    for kind in ("text", "json"):
        writer = logs.setup("info", kind, stream=stream)  # type: ignore[arg-type]
        try:
            deep(90)
        except ValueError:
            logs.event(LOG, logging.ERROR, "boom", exc_info=True)
        writer.flush()
    *text, jsonl = stream.getvalue().splitlines()
    assert all(line.startswith("    | ") for line in text[1:]) and "forged line" in text[-1]
    assert "abc" not in stream.getvalue() and len(stream.getvalue()) < 4 * logs.TRACEBACK
    assert "forged line" in json.loads(jsonl)["traceback"]


def test_colours_only_where_asked_for(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for variable in ("", "1"):
        if variable:
            monkeypatch.setenv("NO_COLOR", variable)
        writer = logs.setup(stream=terminal)
        LOG.warning("x")
        writer.flush()
    colored, plain = terminal.getvalue().splitlines()
    assert "\x1b[33m" in colored and "\x1b" not in plain


def test_bodies_only_where_asked_for(stream: io.StringIO) -> None:
    writer = logs.setup("info", "json", stream=stream, bodies=True)
    logs.event(LOG, logging.INFO, "x", body="words", messages=[{"role": "user", "content": "hi"}])
    writer.flush()
    line = json.loads(stream.getvalue())
    assert line["body"] == "words" and line["messages"][0]["content"] == "hi"


def test_uvicorn_speaks_through_us(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())
    writer = logs.setup("info", "json", stream=stream)
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    logging.getLogger("uvicorn.access").info("GET /?key=abc")
    logging.getLogger("httpx").info("HTTP Request: GET https://x/?sig=abc")
    writer.flush()
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["logger"] == "uvicorn"


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="log level 'loud'"):
        logs.setup("loud")
    with pytest.raises(ValueError, match="log format 'xml'"):
        logs.setup("info", "xml")  # type: ignore[arg-type]


def test_setting_up_again_replaces(stream: io.StringIO) -> None:
    logs.setup("info", "json", stream=stream)
    writer = logs.setup("warning", "json", stream=stream)
    LOG.warning("once")
    writer.flush()
    assert len(stream.getvalue().splitlines()) == 1
    assert sum(isinstance(h, logs.Writer) for h in logging.getLogger().handlers) == 1


def test_a_reader_that_stands_still_stops_nobody() -> None:
    """A real pipe that nobody reads: logging goes on, lines are dropped and counted, and the loss is told when it is read again."""
    read, write = os.pipe()
    with open(write, "w", buffering=1) as out:
        writer = logs.Writer(out, logs.JsonFormatter(), capacity=50)
        log = logging.Logger("pipe")
        log.addHandler(writer)
        for _ in range(400):
            log.warning("x" * 4000)
        assert writer.dropped >= 100
        got: list[bytes] = []

        def drain() -> None:
            with open(read, "rb") as source:
                got.extend(source)

        reader = threading.Thread(target=drain)
        reader.start()
        writer.flush()
        log.warning("after")
        writer.close()
    reader.join()
    assert any(b"log lines were lost" in line for line in got) and b"after" in b"".join(got)


def test_a_reader_that_left_stops_nobody() -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    out: TextIO = Broken()
    writer = logs.Writer(out, logs.JsonFormatter())
    log = logging.Logger("broken")
    log.addHandler(writer)
    log.warning("lost")
    writer.flush()
    log.warning("lost too")
    writer.close()
    assert writer.dropped == 2
    log.warning("after the end")
    writer.flush()
    writer.close()


class Gate(io.StringIO):
    """A stream that stands still until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.opened = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        self.opened.wait()
        return super().write(text)


def test_of_many_lines_at_once_as_many_are_taken_as_fit() -> None:
    out = Gate()
    writer = logs.Writer(out, logs.JsonFormatter(), capacity=5)
    writer.put("0\n", 1)
    out.reached.wait()  # the thread has it and stands still
    writer.put("1\n2\n3\n", 3)
    writer.put("4\n5\n6\n7\n", 4)
    assert writer.dropped == 2
    writer.put("8\n", 1)
    assert writer.dropped == 3
    out.opened.set()
    writer.flush()
    assert out.getvalue().split() == ["0", "1", "2", "3", "4", "5", *"(3 log lines were lost: whoever reads them is too slow)".split()]
    writer.close()
    writer.put("9\n", 1)
    assert writer.dropped == 4, "nobody writes any more"


def test_many_threads_lose_nothing_and_each_keeps_its_order() -> None:
    out = io.StringIO()
    writer = logs.Writer(out, logs.JsonFormatter())

    def work(name: str) -> None:
        for i in range(0, 300, 3):
            writer.put(f"{name} {i}\n{name} {i + 1}\n{name} {i + 2}\n", 3)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    written = out.getvalue().splitlines()
    for name in "abcd":
        assert [line for line in written if line[0] == name] == [f"{name} {i}" for i in range(300)]
    assert len(written) == 1200 and writer.dropped == 0


def test_what_was_lost_at_the_very_end_is_told() -> None:
    out = io.StringIO()
    writer = logs.Writer(out, logs.JsonFormatter(), capacity=0)
    writer.put("a\nb\n", 2)
    writer.close()
    assert out.getvalue() == "(2 log lines were lost: whoever reads them is too slow)\n"
