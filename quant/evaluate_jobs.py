"""What is asked of the child process that holds models (`evaluate_child`), what it says, and how it is run.

Native code may end its process, so it never runs in ours. The job goes in as one line of JSON, and standard input stays open: when it
closes, whoever asked is gone, and the child ends at once. Each line that comes out is one `Event`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, TypeAlias

import msgspec

from quant.makers import ROOT

MAX_LINE = 64 << 20  # bytes of one event; a text's figures take some 20 bytes a token
_TAIL = 4096  # bytes of what native code printed that are looked at
_ENV = {"GGML_NO_BACKTRACE": "1", "OMP_WAIT_POLICY": "passive", "PYTHONSAFEPATH": "1"}


class EvaluateError(RuntimeError):
    """Why a model is not evaluated. `str()` is one sentence: what, where, what to do."""


class Text(msgspec.Struct, frozen=True):
    """Something to read. `special`: control tokens in it count as such (a chat as its template writes it). `go_on`: the most tokens that
    the source then adds by itself, on which both are compared as well."""

    name: str
    text: str
    special: bool = False
    go_on: int = 0


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """Both models read every text, together. `source` "": only `model` reads. `most`: tokens of a text; what is longer is cut."""

    source: str
    model: str
    texts: tuple[Text, ...]
    threads: int
    most: int = 1024


class Question(msgspec.Struct, frozen=True):
    """A conversation to answer greedily, with at most `tokens` tokens. `prompt`: what a model without a chat template gets instead."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    tokens: int = 48
    prompt: str = ""


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Through llama.cpp's server: `questions` answered, `chats` (OpenAI bodies) written out by the model's template, and how fast it writes
    `speed` tokens (0: not asked)."""

    model: str
    threads: int
    questions: tuple[Question, ...] = ()
    chats: tuple[Mapping[str, Any], ...] = ()
    speed: int = 0
    context: int = 2048
    template: bool = True


class Step(msgspec.Struct, frozen=True, tag="step"):
    """How far it is: tokens or questions."""

    done: int
    total: int


class Figures(msgspec.Struct, frozen=True, tag="figures"):
    """Of one text. `kld`: nats, of every position. `same`: positions where both have the same likeliest token. The rest is of the `tokens`
    positions whose next token the text gives: `loss` and `source_loss` sums in nats, `flips` where just one of both would have said that
    token, `moved` the sum of squares of how much its probability changed."""

    name: str
    kld: tuple[float, ...]
    same: int
    tokens: int
    loss: float
    source_loss: float
    flips: int
    moved: float


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """The answer to the next question: its text, or the name and arguments of its tool call."""

    text: str
    call: tuple[str, Any] | None = None


class Rendered(msgspec.Struct, frozen=True, tag="rendered"):
    """The next chat as its template writes it. `problem`: why it cannot."""

    text: str
    problem: str = ""


class Speed(msgspec.Struct, frozen=True, tag="speed"):
    """Tokens a second, one request alone: written, and read."""

    writing: float
    reading: float


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The last event of a job that does not work."""

    why: str


Job: TypeAlias = Compare | Ask
Event: TypeAlias = Step | Figures | Answered | Rendered | Speed | Failed
jobs = msgspec.json.Decoder(Job)
events = msgspec.json.Decoder(Event)


def run(job: Job, heard: Callable[[Event], None], command: Sequence[str] = ()) -> None:
    """Has a child do `job` and passes on what it says, from this thread. Blocks until it is done; ends the child whatever happens here.

    Raises `EvaluateError`. `command`: another program in the child's place.
    """
    path = os.pathsep.join(part for part in (ROOT, os.environ.get("PYTHONPATH", "")) if part)
    arguments = command or [sys.executable, "-m", "quant.evaluate_child"]
    with tempfile.TemporaryFile() as printed:
        try:
            child = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=printed, env={**os.environ, **_ENV, "PYTHONPATH": path}
            )
        except OSError as error:
            raise EvaluateError(f"A process for the model cannot be started: {error.strerror}.") from None
        assert child.stdin is not None and child.stdout is not None
        try:
            _tell(child.stdin, job)
            why = _follow(child.stdout, heard)
            child.wait()
        finally:
            _end(child)
        if why or child.returncode:
            raise EvaluateError(why or f"The process that held {os.path.basename(job.model)} {_ending(child.returncode, printed)}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """It is gone afterwards, and so are its pipes."""
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # part of the job was never read


def _tell(pipe: IO[bytes], job: Job) -> None:
    try:
        pipe.write(msgspec.json.encode(job) + b"\n")
        pipe.flush()
    except BrokenPipeError:
        pass  # it has ended already: its status says why


def _follow(pipe: IO[bytes], heard: Callable[[Event], None]) -> str:
    """Reads until the child closes its output; why it failed, if it said so."""
    why = ""
    while line := pipe.readline(MAX_LINE):
        try:
            event = events.decode(line)
        except msgspec.DecodeError:
            return "The process that holds the model says what cannot be understood; is its version the same?"
        if isinstance(event, Failed):
            why = event.why
        else:
            heard(event)
    return why


def _ending(code: int, printed: IO[bytes]) -> str:
    """How it ended, with the last thing that native code printed."""
    printed.seek(0, os.SEEK_END)
    printed.seek(max(0, printed.tell() - _TAIL))
    lines = [line.strip() for line in printed.read().decode("utf-8", "replace").splitlines() if line.strip()]
    how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    return f"{how}: {lines[-1][:300]}" if lines else f"{how}; it may be out of memory, or the file may be damaged."
