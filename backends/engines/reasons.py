"""Why an engine ended, in one clear sentence for people. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from backends.engines.spec import EngineSpec

# What to look for in the log, newest line first; the sentence may use the match's first group.
_KNOWN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.I), sentence)
    for pattern, sentence in (
        (
            r"failed to allocate|cannot allocate memory|bad_alloc|out of memory|OutOfMemoryError|ggml_aligned_malloc",
            "there is not enough memory for it: {0}",
        ),
        (r"error loading model: (.+)", "the model cannot be loaded: {0}"),
        (r"unknown model architecture: (.+)", "this llama.cpp does not know the model's architecture {0}"),
        (r"No module named '?([\w.]+)", "the Python module {0} is not installed in its environment"),
        (r"address already in use|EADDRINUSE|couldn't bind", "its port was taken"),
        (r"(GGML_ASSERT.+|terminate called.+|.*what\(\):.+)", "{0}"),
        (r"^(?:error|fatal)[: ]+(.+)$", "{0}"),
        (r"^(?:\S*\.)?(\w*(?:Error|Exception): .+)$", "{0}"),
    )
)
_PREFIX = re.compile(r"^(?:\d+\.\d+\.\d+\.\d+ [A-Z] )?")
_PORT = re.compile(r"address already in use|EADDRINUSE|couldn't bind|failed to bind", re.I)


def port_taken(lines: Sequence[str], port: int | None = None) -> bool:
    """Whether the log says that the engine could not have its port; with `port`, only a line that names it counts."""
    number = re.compile(rf"(?<!\d){port}(?!\d)") if port is not None else None
    return any(_PORT.search(line) and (number is None or number.search(line)) for line in lines)


def detail(lines: Sequence[str]) -> str:
    """The part of the log that matters, as a clause; "" when nothing stands out."""
    for pattern, sentence in _KNOWN:
        for line in reversed(lines):
            text = _PREFIX.sub("", line)
            if match := pattern.search(text):
                return sentence.format((match.group(1) if match.groups() else text).strip()[:300])
    return ""


def _status(code: int | None) -> str:
    if code is None:
        return "its wrapper process was killed"
    if code >= 0:
        return f"it exited with code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    hint = " (the system may be out of memory)" if name == "SIGKILL" else ""
    return f"it was ended by {name}{hint}"


def _sentence(subject: str, rest: str) -> str:
    return f"{subject}: {rest.rstrip('. ')}."


def explain(spec: EngineSpec, code: int | None, why: str, said: str, lines: Sequence[str]) -> str:
    """One sentence. `code` is the exit status (negative: a signal; None: unknown), `why` what the wrapper knows (memory),
    `said` what the engine itself reported, `lines` the end of its log."""
    subject = f"The engine {spec.name!r} failed"
    found = detail(lines)
    if why.startswith("memory"):
        return _sentence(subject, why.partition(": ")[2] + "; give it more with `memory`, or fewer slots or less context")
    if said:
        return _sentence(subject, said.rstrip(".") + (f" ({found})" if found and found not in said else ""))
    last = next((line for line in reversed(lines) if line.strip()), "")
    if code == -signal.SIGKILL:
        last = ""  # it had no time for last words
    told = found or (f"its last words were {_PREFIX.sub('', last).strip()[:300]!r}" if last else "")
    return _sentence(subject, _status(code) + (f"; {told}" if told else ""))
