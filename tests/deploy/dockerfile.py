"""A Dockerfile read: its instructions, its stages, and which files of the context its ignore file lets through. Pure but for `context`.

It knows what ours needs (https://docs.docker.com/reference/dockerfile/) and refuses the rest: comments, continued lines, the forms in JSON,
`${NAME}` and `${NAME:-default}`; no heredoc, no ONBUILD.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = frozenset(
    {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
)
_NAME = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class Step:
    """One instruction: `line` is where it begins, `text` all that follows its name."""

    line: int
    name: str
    text: str

    @property
    def flags(self) -> dict[str, str]:
        """`--name=value` before the arguments."""
        return dict(word[2:].partition("=")[::2] for word in self.text.split() if word.startswith("--") and "=" in word)

    @property
    def words(self) -> list[str]:
        """The arguments without flags; of the form in JSON its list."""
        bare = re.sub(r"^(\s*--[\w-]+=\S+)+\s*", "", self.text)
        if bare.startswith("["):
            found: list[str] = json.loads(bare)
            return found
        return shlex.split(bare)


@dataclass
class Stage:
    """What stands between a FROM and the next."""

    base: str
    name: str
    steps: list[Step] = field(default_factory=list)

    def last(self, name: str) -> Step:
        """The instruction of this name that counts. KeyError: there is none."""
        found = [step for step in self.steps if step.name == name]
        if not found:
            raise KeyError(name)
        return found[-1]

    def pairs(self, name: str) -> dict[str, str]:
        """All of ENV or LABEL: `key=value` words."""
        return dict(word.partition("=")[::2] for step in self.steps if step.name == name for word in step.words)


def steps(text: str) -> Iterator[Step]:
    """The instructions in order. ValueError: one that is not known, with its line."""
    begun = 0
    parts: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or parts):
            continue
        begun = begun or number
        parts.append(line.removesuffix("\\"))
        if line.endswith("\\"):
            continue
        name, _, rest = "".join(parts).strip().partition(" ")
        if name.upper() not in KNOWN:
            raise ValueError(f"line {begun}: {name} is no instruction that this reader knows")
        yield Step(begun, name.upper(), rest.strip())
        begun, parts = 0, []


def stages(text: str, given: Mapping[str, str] | None = None) -> list[Stage]:
    """The stages in order, `given` build arguments filled in where ARG names them. ValueError: an instruction before the first FROM."""
    given = given or {}
    outer: dict[str, str] = {}
    known: dict[str, str] = {}
    out: list[Stage] = []
    for step in steps(text):
        if step.name == "FROM":
            base, *rest = fill(step.text, outer).split()
            known = {}
            out.append(Stage(base, rest[1] if len(rest) == 2 else str(len(out))))
        elif step.name == "ARG":
            for word in step.words:
                name, _, default = word.partition("=")
                (known if out else outer)[name] = given.get(name, default)
        elif not out:
            raise ValueError(f"line {step.line}: {step.name} before FROM")
        else:
            if step.name == "ENV":
                known |= dict(word.partition("=")[::2] for word in step.words)
            out[-1].steps.append(Step(step.line, step.name, fill(step.text, known)))
    return out


def fill(text: str, known: Mapping[str, str]) -> str:
    """`text` with `${NAME}` replaced where it is known; the shell's own variables stay."""
    return _NAME.sub(lambda m: known.get(m[1], m[0] if m[2] is None else m[2]), text)


def _pattern(text: str) -> re.Pattern[str]:
    """One line of an ignore file as an expression for a path and all below it."""
    out = ""
    for part in re.split(r"(\*\*/|\*\*|\*|\?)", text.strip("/")):
        out += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return re.compile(f"{out}(?:/.*)?\\Z")


def context(root: Path, ignore: str) -> list[str]:
    """The files under `root` that reach the builder, relative; the last line of the ignore file that fits a path decides. Reads folders."""
    rules = [line.strip() for line in ignore.splitlines() if line.strip() and not line.startswith("#")]
    made = [(rule.startswith("!"), _pattern(rule.lstrip("!"))) for rule in rules]
    tops = {rule[1:].split("/")[0] for rule in rules if rule.startswith("!")}  # all else is refused by our first line
    out = []
    for top in sorted(tops):
        for path in [root / top] if (root / top).is_file() else sorted((root / top).rglob("*")):
            name = path.relative_to(root).as_posix()
            kept = [keep for keep, pattern in made if pattern.match(name)]
            if path.is_file() and (not kept or kept[-1]):
                out.append(name)
    return out
