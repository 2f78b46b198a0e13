"""`pointsman chat`: a small terminal chat over the gateway's own API.

Ctrl-C stops the answer under way (and the gateway then stops the engine); at the prompt it leaves, as Ctrl-D does.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import closing, suppress

from gateway.client import Client, ClientError, plain

_HELP = """/clear         forget what was said
/model [NAME]  list the models, or go on with another one
/help          this list
/exit          leave (so do Ctrl-D and, at the prompt, Ctrl-C); Ctrl-C during an answer stops it
"""
_MAX_MESSAGES = 1000  # what one conversation may hold; the oldest are forgotten first


class Chat:
    """One conversation. `run` reads from the terminal, or one message a line where standard input is a file or pipe."""

    def __init__(self, client: Client, model: str | None = None, system: str | None = None) -> None:
        self._client, self._model = client, model or ""
        self._opening: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        self._messages: list[dict[str, str]] = []
        self._terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._failed = False

    def run(self) -> int:
        """Talks until the input ends. Returns the exit code: 1 when the input was not a terminal and an answer failed."""
        names = self._names()
        if not self._model:
            if not names:
                raise ClientError("the gateway serves no models")
            self._model = names[0]
        elif self._model not in names:
            raise ClientError(f"there is no model {plain(self._model)}; there are: {', '.join(names) or 'none'}")
        if self._terminal:
            with suppress(ImportError):  # not every Python has it; input() then edits less well
                importlib.import_module("readline")
            self._say(f"Talking to {self._model}. /help lists the commands.\n")
        for line in self._lines():
            if line.startswith("/"):
                if not self._command(line):
                    break
            elif line:
                self._answer(line)
        return 1 if self._failed and not self._terminal else 0

    def _names(self) -> list[str]:
        return [plain(str(entry["id"])) for entry in self._client.models() if "id" in entry]

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                yield input("\n> " if self._terminal else "").strip()
            except UnicodeDecodeError:
                self._complain("that was not UTF-8 text")
            except (EOFError, KeyboardInterrupt):
                if self._terminal:
                    self._say("\n")
                return

    def _command(self, line: str) -> bool:
        """Does what a line with a slash says. Returns whether to go on."""
        word, _, rest = line.partition(" ")
        if word in ("/exit", "/quit", "/bye"):
            return False
        if word == "/clear":
            self._messages.clear()
            self._say("Forgotten.\n")
        elif word == "/model":
            self._choose(rest.strip())
        elif word == "/help":
            self._say(_HELP)
        else:
            self._complain(f"there is no command {plain(word)}; /help lists them")
        return True

    def _choose(self, name: str) -> None:
        try:
            names = self._names()
        except ClientError as error:
            self._complain(str(error))
            return
        if not name:
            self._say("".join(f"{'*' if known == self._model else ' '} {known}\n" for known in names))
        elif name in names:
            self._model = name
            self._say(f"Going on with {name}.\n")
        else:
            self._complain(f"there is no model {plain(name)}; /model lists them")

    def _answer(self, text: str) -> None:
        """Asks, and shows the answer as it comes. A question that got no answer is not kept."""
        question = {"role": "user", "content": text}
        said: list[str] = []
        try:
            self._stream([*self._opening, *self._messages, question], said)
        except KeyboardInterrupt:
            self._say("\n")
            self._complain("stopped")
        except ClientError as error:
            self._failed = True
            if said:
                self._say("\n")
            self._complain(str(error))
        else:
            self._say("\n")
        if said:
            self._messages += [question, {"role": "assistant", "content": "".join(said)}]
            del self._messages[:-_MAX_MESSAGES]

    def _stream(self, messages: list[dict[str, str]], said: list[str]) -> None:
        thinking = False
        with closing(self._client.chat(self._model, messages)) as pieces:
            for kind, piece in pieces:
                if (kind == "reasoning") != thinking:
                    thinking = kind == "reasoning"
                    self._style("\033[2m" if thinking else "\033[0m\n")
                if kind == "text":
                    said.append(piece)
                if kind == "text" or self._terminal:
                    self._say(plain(piece))
            if thinking:
                self._style("\033[0m")

    def _style(self, code: str) -> None:
        if self._terminal:
            self._say(code)

    def _say(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def _complain(self, text: str) -> None:
        sys.stdout.flush()
        sys.stderr.write(f"pointsman: {text}\n")
