"""The Gemini models that the fake has, the error answer, and one request to judge. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.fakes.providers.common import Rejected, Rule
from tests.fakes.providers.gemini_proto import Doc, Service

LEARN = " Learn more: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/gemini"


@dataclass(frozen=True)
class Family:
    """What one model takes. `budget`: smallest and largest thinkingBudget, `off` that 0 is one too; `levels`: its thinkingLevels."""

    budget: tuple[int, int] | None = None
    off: bool = False
    levels: tuple[str, ...] = ()
    signed: bool = False  # a call without its thought signature is refused
    ids: bool = False  # calls have ids
    late_finish: bool = False  # the finish reason comes in a chunk of its own
    json_schema: bool = True
    tools_with_json: bool = False
    candidates: int = 8
    output: int = 65536


FAMILIES: dict[str, Family] = {
    "gemini-2.0-flash": Family(json_schema=False, output=8192),
    "gemini-2.5-flash": Family(budget=(1, 24576), off=True),
    "gemini-2.5-pro": Family(budget=(128, 32768)),
    "gemini-3-pro-preview": Family(levels=("LOW", "HIGH"), signed=True, tools_with_json=True, candidates=1),
    "gemini-3.5-flash": Family(
        levels=("MINIMAL", "LOW", "MEDIUM", "HIGH"), signed=True, ids=True, late_finish=True, tools_with_json=True, candidates=1
    ),
}
EMBEDDERS = ("gemini-embedding-001",)


class Refused(Rejected):
    """An error answer of Google's: the sentence, HTTP status, its word for it, and details as protos in JSON."""

    def __init__(self, message: str, code: int = 400, status: str = "INVALID_ARGUMENT", details: Sequence[Doc] = ()) -> None:
        super().__init__(status, Rule(message, "the table in gemini_rules", code, status), message)
        self.details = list(details)


@dataclass(frozen=True)
class Asked:
    """One request to judge. `genuine(signature, part)` says whether a thought signature was made for this part."""

    doc: Doc
    family: Family
    service: Service
    stream: bool
    genuine: Callable[[bytes, Doc], bool]

    @property
    def config(self) -> Doc:
        config: Doc = self.doc.get("generationConfig", {})
        return config

    @property
    def declarations(self) -> list[tuple[str, Doc]]:
        """Function declarations with their paths."""
        tools = enumerate(self.doc.get("tools", ()))
        return [
            (f"tools[{i}].function_declarations[{j}]", one)
            for i, tool in tools
            for j, one in enumerate(tool.get("functionDeclarations", ()))
        ]


def star(asked: Asked, path: str, why: str) -> Refused:
    """A violation in the words of either service."""
    return Refused(
        f"* GenerateContentRequest.{path}: {why}\n"
        if asked.service == "studio"
        else f"Unable to submit request because {path}: {why}.{LEARN}"
    )
