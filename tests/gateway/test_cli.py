"""The command `pointsman`, as a process and in this one: what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli_banner import banner, origin
from gateway.cli_models import table
from gateway.config import Config, Flags, from_flags
from tests.fakes.answers import openai_error, reply
from tests.fakes.engine import DEADLINE, Engine
from tests.fakes.request import Request
from tests.fakes.script import Gate, Script, script

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "gateway"]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def run(*arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, text=True, cwd=ROOT, timeout=DEADLINE, env={**os.environ, **(env or {})}
    )


def event(delta: dict[str, str], finish: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


def stream(*parts: bytes | Gate) -> Script:
    return script(HEAD, *parts, ending="fin")


# --- the command line itself


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["check", "--help"], ["models", "--help"], ["chat", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: pointsman")


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, gateway.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\nprint(sorted(sys.modules), file=sys.stderr)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stderr
    for name in ("asyncio", "httpx", "fastapi", "uvicorn", "yaml", "msgspec", "xllamacpp", "huggingface_hub", "gateway.config"):
        assert f"'{name}'" not in found


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "required: COMMAND"),
        (["sirve"], "invalid choice: 'sirve'"),
        (["serve", "--port", "x"], "'x' is not a port"),
        (["serve", "--port", "70000"], "'70000' is not a port"),
        (["serve", "--workers", "0"], "'0' is not a number from 1 to 256"),
        (["serve", "--mod", "x"], "unrecognized arguments"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_exits_2(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_a_wrong_configuration_exits_2_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("server: {prot: 1}", encoding="utf-8")
    for command in ("serve", "check"):
        done = run(command, env={"POINTSMAN_CONFIG": str(tmp_path / "p.yaml")})
        assert done.returncode == 2
        assert done.stderr == f"pointsman: {tmp_path / 'p.yaml'}: $.server.prot: unknown field. Did you mean `port`?\n"


def test_serving_everybody_without_a_key_is_refused() -> None:
    done = run("serve", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "no key is configured, so anyone could use the models; add a key" in done.stderr


# --- check


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(ROOT / "docs/config.example.yaml")]) == 0
    assert capsys.readouterr().out.endswith("config.example.yaml: good (10 backends, 6 routes, 2 keys)\n")
    assert main(["check"]) == 2
    assert "check needs a file" in capsys.readouterr().err
    (tmp_path / "p.yaml").write_text("backends: {a: {url: http://a}}", encoding="utf-8")
    assert main(["check", "--config", str(tmp_path / "p.yaml")]) == 0
    assert "note: $.backends.a: no route names it" in capsys.readouterr().out
    assert main(["check", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Pointsman configuration"


# --- the banner


def test_origins() -> None:
    assert origin("0.0.0.0", 1, False) == "http://127.0.0.1:1"
    assert origin("::", 2, True) == "https://[::1]:2"
    assert origin("::1", 3, False) == "http://[::1]:3"
    assert origin("models.example.org", 4, True) == "https://models.example.org:4"


def test_the_banner_is_ready_to_paste() -> None:
    shown = banner(from_flags(Flags(), {}), 8484, 8485, {"it's": ""})
    command = re.search(r"curl .*?\n\n", shown, re.S)
    assert command is not None
    words = shlex.split(command[0])
    assert words[1] == "http://127.0.0.1:8484/v1/chat/completions"
    assert json.loads(words[-1])["model"] == "it's"
    code = "\n".join(line[2:] for line in shown.split("pip install openai):")[1].split("Or in another")[0].splitlines())
    compile(code, "banner", "exec")
    assert 'api_key="none"' in code and "http://127.0.0.1:8485/" in shown
    assert all(line == line.rstrip() for line in shown.splitlines()) and "\033" not in shown


def test_the_banner_with_keys_on_all_addresses() -> None:
    config = from_flags(Flags(host="0.0.0.0", keys=("sk-secret",)), {})
    shown = banner(config, 80, None, {f"m{number}": "" for number in range(10)})
    assert "sk-secret" not in shown
    assert '"Authorization: Bearer $POINTSMAN_KEY"' in shown and 'os.environ["POINTSMAN_KEY"]' in shown
    assert "m7, and 2 more" in shown and "other machines can connect" in shown and re.search(r"Status +off", shown)
    assert "none yet" in banner(Config(), 80, None, {})


def test_the_banner_says_which_models_cannot_answer() -> None:
    shown = banner(Config(), 80, None, {"gone": "The file is gone.", "here": "", **{f"m{n}": "down" for n in range(9)}})
    assert re.search(r"Models +here\n +Out +gone: The file is gone.\n +m0: down\n", shown)
    assert "m6: down" in shown and "m7" not in shown and "and 2 more; the status page names them" in shown
    assert '"model": "here"' in shown and "gone" not in shown.split("Try it")[1]
    alone = banner(Config(), 80, None, {"gone": "The file is gone."})
    assert "none can answer" in alone and '"model": "gone"' in alone


# --- serve


def test_serve_from_flags_alone() -> None:
    """Ready with a banner that names where; models and chat find it; a reload keeps what the flags said; SIGTERM ends it with 0."""
    with Engine() as engine:
        serve = [*COMMAND, "serve", "--upstream", engine.url, "--port", "0", "--admin-port", "off", "--log-level", "error"]
        env = {**os.environ, "POINTSMAN_KEYS": "sk-test"}
        with subprocess.Popen(serve, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            shown = "".join(iter(process.stdout.readline, "Ctrl-C stops the gateway.\n"))
            found = re.search(r"Endpoint +(http://127\.0\.0\.1:\d+)/v1\n", shown)
            assert found is not None and "1 configured" in shown
            arguments = ["--url", found[1], "--key", "sk-test"]
            assert any("fake-embed" in run("models", *arguments).stdout for _ in range(50))  # once they are discovered
            talk = run("chat", "fake", *arguments, stdin="hello\n")
            assert (talk.returncode, talk.stdout, talk.stderr) == (0, "You said: hello\n", "")
            process.send_signal(signal.SIGHUP)
            assert re.search(r"^fake +ready +4096$", run("models", *arguments).stdout, re.M)
            denied = run("models", "--url", found[1])
            assert denied.returncode == 1 and "(HTTP 401); give a key" in denied.stderr
            process.terminate()
            assert process.wait(DEADLINE) == 0


# --- models


def test_the_table_of_models() -> None:
    rows = [{"id": "a\x1b[2J", "state": "ready", "max_model_len": 4096}, {"id": "long-name", "state": "down", "reason": "out of\nmemory"}]
    assert table(rows) == (
        "MODEL      STATE  CONTEXT\n"
        "a[2J       ready     4096\n"
        "long-name  down         -  out of memory\n"
    )  # fmt: skip
    assert table([]) == "no models are served\n"


def test_models_of_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    with Engine() as engine:
        assert main(["models", "--url", engine.url, "--key", "sk-k"]) == 0
        assert engine.requests[0].path == "/v1/models"
    assert "fake-reasoning  ?         4096" in capsys.readouterr().out


def not_models(request: Request) -> Script:
    return reply({"hello": 1})


def test_models_that_cannot_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with Engine(responder=not_models) as engine:
        assert main(["models", "--url", engine.url]) == 1
        assert "not with a list of models" in capsys.readouterr().err
    assert main(["models", "--url", engine.url]) == 1  # it has stopped
    assert "no gateway answers at http://127.0.0.1" in capsys.readouterr().err
    assert main(["models", "--url", "localhost"]) == 1
    assert "is not the URL of a gateway" in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    done = subprocess.run(
        f"{shlex.join(COMMAND)} check --schema | true", shell=True, capture_output=True, text=True, cwd=ROOT, timeout=DEADLINE
    )
    assert done.stderr == ""


# --- chat


def chat(engine: Engine, stdin: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("chat", "--url", engine.url, *arguments, stdin=stdin)


def test_chat_through_a_pipe_streams_and_remembers() -> None:
    with Engine() as engine:
        said = [event({"reasoning_content": "hm"}), event({"content": "one "}), event({"content": "two"}, "stop")]
        engine.queue(stream(*said, b"data: [DONE]\n\n"))
        done = chat(engine, "first\n\nsecond\n/clear\nthird\n/exit\nnever\n", "fake", "--system", "Be brief.")
        asked = [request.doc["messages"] for request in engine.posts() if request.doc]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("one two\n")
    assert [[message["content"] for message in messages] for messages in asked] == [
        ["Be brief.", "first"], ["Be brief.", "first", "one two", "second"], ["Be brief.", "third"]
    ]  # fmt: skip


def test_chat_commands() -> None:
    with Engine() as engine:
        done = chat(engine, "/model\n/model fake-embed\n/model\n/model no\n/help\n/what\n")
    assert done.stdout.startswith("* fake\n  fake-reasoning\n  fake-embed\nGoing on with fake-embed.\n  fake\n")
    assert "/clear " in done.stdout
    assert done.stderr == "pointsman: there is no model no; /model lists them\npointsman: there is no command /what; /help lists them\n"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (stream(event({"content": "par"})), "the answer broke off"),
        (stream(event({"content": "par"}), b'data: {"error": {"message": "The engine\\n died."}}\n\n'), "The engine died."),
        (stream(b"data: {nonsense\n\n"), "the answer holds an event that is not JSON"),
        (openai_error(503, "Not loaded"), "Not loaded (HTTP 503)\n"),
        (openai_error(401, "Wrong \x1bkey"), "Wrong key (HTTP 401); give a key with --key or $POINTSMAN_KEY\n"),
        (script(b"HTTP/1.1 502 Bad\r\ncontent-length: 2\r\n\r\nno"), "the gateway refused the call (HTTP 502)\n"),
        (script(HEAD[:30], ending="rst"), "failed"),
    ],
)  # fmt: skip
def test_chat_says_in_one_line_what_went_wrong(answer: Script, told: str) -> None:
    with Engine(strict=False) as engine:
        engine.queue(answer)
        done = chat(engine, "hello\n")
    assert done.returncode == 1
    assert told in done.stderr and done.stderr.count("\n") == 1


def test_chat_with_a_model_that_is_not_there() -> None:
    with Engine() as engine:
        done = chat(engine, "", "gone")
    assert (done.returncode, done.stderr) == (1, "pointsman: there is no model gone; there are: fake, fake-reasoning, fake-embed\n")


class Terminal:
    """A process on a terminal of its own, read until what is expected has come."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.main, other = pty.openpty()
        self.process = subprocess.Popen([*COMMAND, *arguments], stdin=other, stdout=other, stderr=other, cwd=ROOT, start_new_session=True)
        os.close(other)
        self.seen = ""

    def expect(self, pattern: str) -> str:
        """What came up to and with `pattern`; blocks for it (the process's end is an OSError here). Raises TimeoutError."""
        while (found := re.search(pattern, self.seen)) is None:
            if not select.select([self.main], [], [], DEADLINE)[0]:
                raise TimeoutError(f"{pattern} never came, only {self.seen!r}")
            self.seen += os.read(self.main, 4096).decode()
        out, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return out

    def send(self, text: str) -> None:
        os.write(self.main, text.encode())


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    it = Terminal(arguments)
    try:
        yield it
    finally:
        it.process.kill()
        it.process.wait(DEADLINE)
        os.close(it.main)


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on() -> None:
    gate = Gate()
    with Engine() as engine:
        engine.queue(stream(event({"reasoning_content": "think"}), event({"content": "begin\x1b[2J"}), gate, event({}, "stop")))
        with terminal("chat", "--url", engine.url) as chatting:
            chatting.expect("Talking to fake")
            chatting.expect("> ")
            chatting.send("hello\n")
            chatting.expect(r"\x1b\[2mthink\x1b\[0m")
            chatting.expect(r"begin\[2J")
            chatting.process.send_signal(signal.SIGINT)
            chatting.expect("stopped")
            engine.wait(lambda seen: len(seen.left) == 1, "the chat leaving its stream")
            chatting.expect("> ")
            chatting.send("again\n")
            chatting.expect("You said: again")
            chatting.expect("> ")
            chatting.send("\x04")  # Ctrl-D; a signal right behind the prompt can be lost in CPython's readline
            assert chatting.process.wait(DEADLINE) == 0
        kept = engine.posts()[1].doc
    assert kept and [message["content"] for message in kept["messages"]] == ["hello", "begin\x1b[2J", "again"]
