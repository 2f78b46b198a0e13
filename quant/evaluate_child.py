"""`python -m quant.evaluate_child`: holds models and does one job with them (`evaluate_jobs`), in a process of its own."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import msgspec

from quant import ggml
from quant.evaluate_jobs import Answered, Ask, Compare, Event, Failed, Figures, Job, Rendered, Step, Text, jobs
from quant.evaluate_llama import ROWS, Engine, LlamaError, library
from quant.evaluate_rows import Row, Rows
from quant.evaluate_server import Server

FAILED = 3  # exit status


def perform(job: Job) -> Iterator[Event]:
    """What a job yields, as it goes. Raises `LlamaError` or `ggml.GgmlError`."""
    return _compare(job) if isinstance(job, Compare) else _ask(job)


def _compare(job: Compare) -> Iterator[Event]:
    llama = library()
    with ExitStack() as held:
        lanes: list[Engine] = []
        for path in filter(None, (job.source, job.model)):
            lanes.append(Engine(llama, path, job.most, job.threads))
            held.callback(lanes[-1].close)
        most = min(engine.context for engine in lanes)
        read = [(text, _tokens(lanes, text, most)) for text in job.texts]
        rows = Rows(llama, lanes[0].vocab, job.threads)
        total, before = sum(_work(tokens, text, most) for text, tokens in read), 0
        for text, tokens in read:
            reading = _Reading(lanes, rows, tokens)
            for done in reading.through():
                yield Step(before + done, total)
            reading.go_on(min(text.go_on, most - len(tokens)))
            before += _work(tokens, text, most)
            yield Step(before, total)
            yield reading.figures(text.name)


def _tokens(lanes: Sequence[Engine], text: Text, most: int) -> list[int]:
    """A text in tokens, the same ones for both models."""
    first, last = lanes[0], lanes[-1]
    tokens = first.tokens(text.text, text.special)
    if first.vocab != last.vocab or (last is not first and last.tokens(text.text, text.special) != tokens):
        raise LlamaError(
            f"{first.name} and {last.name} make different tokens of a text, so they cannot be compared: they are not the same model."
        )
    return tokens[: max(2, most - text.go_on)]


def _work(tokens: Sequence[int], text: Text, most: int) -> int:
    return len(tokens) + min(text.go_on, most - len(tokens))


class _Reading:
    """One text, read by both models in step."""

    def __init__(self, lanes: Sequence[Engine], rows: Rows, tokens: Sequence[int]) -> None:
        self._lanes, self._rows, self._tokens = lanes, rows, tokens
        self._seen: list[Row] = []

    def _take(self, tokens: Sequence[int], start: int, follows: Sequence[int]) -> None:
        decoded = [engine.decode(tokens, start) for engine in self._lanes]
        try:
            self._seen += self._rows.compare(decoded[0], decoded[-1], follows)
        except LlamaError as error:
            names = " or ".join(engine.name for engine in self._lanes)
            raise LlamaError(f"{names} computes nonsense ({error}); its weights may be damaged: fetch or make it again.") from None

    def through(self) -> Iterator[int]:
        """Reads the text; the number of tokens that are done, now and then."""
        for engine in self._lanes:
            engine.clear()
        for at in range(0, len(self._tokens), ROWS):
            part = self._tokens[at : at + ROWS]
            follows = [*self._tokens[at + 1 : at + 1 + len(part)], 0][: len(part)]  # behind the last one: nothing yet
            self._take(part, at, follows)
            yield at + len(part)

    def go_on(self, most: int) -> None:
        """Lets the source write on, greedily. Without that, what would come behind the text does not count."""
        if most <= 0:
            del self._seen[len(self._tokens) - 1 :]
            return
        for at in range(most - 1):
            token = self._seen[-1].source_top
            if self._lanes[0].ends(token):
                return
            self._take([token], len(self._tokens) + at, [0])

    def figures(self, name: str) -> Figures:
        told, follows = self._seen[: len(self._tokens) - 1], self._tokens[1:]
        flips = sum((row.source_top == token) != (row.top == token) for row, token in zip(told, follows, strict=True))
        return Figures(
            name, tuple(row.kld for row in self._seen), sum(row.source_top == row.top for row in self._seen), len(told),
            math.fsum(row.loss for row in told), math.fsum(row.source_loss for row in told), flips,
            math.fsum((math.exp(-row.loss) - math.exp(-row.source_loss)) ** 2 for row in told),
        )  # fmt: skip


def _ask(job: Ask) -> Iterator[Event]:
    total, done = len(job.chats) + len(job.questions) + bool(job.speed), 0
    server = Server(job.model, job.threads, job.context, job.template)
    for chat in job.chats:
        text, problem = server.written(chat)
        done += 1
        yield Rendered(text, problem)
        yield Step(done, total)
    for question in job.questions:
        said, call = server.answer(question)
        done += 1
        yield Answered(said, call)
        yield Step(done, total)
    if job.speed:
        yield server.speed(job.speed)
        yield Step(total, total)


def _lifeline() -> None:
    """Ends this process when whoever started it is gone."""
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(FAILED)


def _say(channel: int, event: Event) -> None:
    view = memoryview(msgspec.json.encode(event) + b"\n")
    while view:
        view = view[os.write(channel, view) :]


def main() -> int:
    """The exit status. Whatever native code prints goes to standard error."""
    channel = os.dup(1)
    os.dup2(2, 1)
    job = jobs.decode(sys.stdin.buffer.readline())
    threading.Thread(target=_lifeline, daemon=True).start()
    try:
        for event in perform(job):
            _say(channel, event)
    except (LlamaError, ggml.GgmlError) as error:
        _say(channel, Failed(str(error)))
        return FAILED
    return 0


if __name__ == "__main__":
    os._exit(main())  # the server's threads would be asked to end in an order that nobody has tried
