"""`pointsman quant evaluate`: how far quantised models are from their source, kept as their labels. The work is `quant.evaluate`; here are
the command line, prompts from the store of responses, and what is said at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quant.evaluate import Evaluation, Measured
    from quant.evaluate_figures import Estimate, Scores
    from quant.evaluate_texts import Chats

_SQLITE = b"SQLite format 3\0"
MAX_STORED = 10_000  # responses that are looked at, the latest


def arguments(commands: Any) -> None:
    """Adds the subcommand to those of `pointsman quant`."""
    parser = commands.add_parser("evaluate", help="measure how far quantised models are from their source", allow_abbrev=False)
    parser.add_argument(
        "models", metavar="MODEL", nargs="+", help="GGUF files, names of `pointsman ls`, hf:OWNER/REPOSITORY[:QUANT], builtin"
    )
    parser.add_argument("--against", metavar="SOURCE", help="the model that they were made from (default: the largest of them)")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help="prompts of your own as well: JSONL, a chat a line; or the gateway's store of responses",
    )
    parser.add_argument("--threads", metavar="N", type=int, help="default: as many as there are cores for this process")
    parser.add_argument("--quick", action="store_true", help="every fourth text, no questions, no speed; no label is kept")
    parser.add_argument("--no-label", action="store_true", help="do not keep what was measured beside the models")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a report as one HTML file")
    parser.add_argument("--json", action="store_true", help="tell what was measured as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; the exit code. Blocks, possibly for hours. Raises `QuantError`."""
    from gateway.cli_progress import Progress, QuantError, as_json, terminable
    from quant.evaluate import EvaluateError, evaluate
    from quant.evaluate_texts import built_in

    if args.html is not None and not args.html.absolute().parent.is_dir():
        raise QuantError(f"The folder {args.html.absolute().parent} does not exist; make it first.")
    try:
        prompts = chats(args.prompts) if args.prompts is not None else None
        models = [located(name) for name in args.models]
        against = located(args.against) if args.against is not None else None
        texts = built_in()[:: 4 if args.quick else 1]
        with terminable(), Progress() as progress:
            found = evaluate(
                models, against, prompts=prompts, threads=args.threads, progress=progress, texts=texts, tasks=not args.quick,
                speed=not args.quick,
            )  # fmt: skip
    except EvaluateError as error:
        raise QuantError(str(error)) from None
    if args.html is not None:
        _report(args.html, found)
    sys.stdout.write(as_json(found) if args.json else text(found))
    if not args.quick and not args.no_label:
        _keep(found)
    return 1 if any(model.failed for model in found.models) else 0


def located(name: str) -> Path:
    """Where a model's file is, fetched first if need be. Blocks; raises `QuantError`."""
    from gateway.cli_progress import QuantError

    if name == "builtin":
        from quant import builtin

        return builtin.path()
    if name.startswith("hf:"):
        from quant.hub import HubError, resolve

        try:
            return resolve(name)
        except HubError as error:
            raise QuantError(str(error)) from None
    from quant.models import ModelError, find

    if Path(name).exists():
        return Path(name)
    try:
        return find(name).path
    except ModelError as error:
        raise QuantError(str(error)) from None


def chats(path: Path) -> Chats:
    """Prompts from a file, JSONL or the store of responses. Raises `EvaluateError`."""
    from quant.evaluate_texts import read_chats

    try:
        with path.open("rb") as file:
            stored = file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        stored = False  # the other reader says what is wrong
    return _stored(path) if stored else read_chats(path)


def _stored(path: Path) -> Chats:
    """The latest responses of a gateway's store (`responses.path` of its configuration), each with the input that was new in it."""
    import sqlite3

    from quant.evaluate_jobs import EvaluateError
    from quant.evaluate_texts import gathered, spread

    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as table:
            rows = table.execute("SELECT items, response FROM responses ORDER BY made DESC LIMIT ?", (MAX_STORED,)).fetchall()
    except sqlite3.Error as error:
        raise EvaluateError(f"{path} is no store of responses that can be read: {error}.") from None
    return gathered((_conversation(*row) for row in spread(rows)), len(rows), path.name)


def _conversation(items: bytes, response: bytes) -> object:
    """One stored response as the body of a request that has its answer behind it."""
    try:
        asked, answered = json.loads(items), json.loads(response)
        said = [item for item in answered.get("output", ()) if item.get("type") != "reasoning"]
        return {"input": [*asked, *said], "instructions": answered.get("instructions")}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _report(path: Path, found: Evaluation) -> None:
    from gateway.cli_progress import QuantError
    from quant.output import Output, OutputError
    from quant.report import page

    raw = page(found).encode()
    try:
        with Output(path, len(raw), overwrite=True) as output:
            output.write(raw)
    except OutputError as error:
        raise QuantError(f"The report was not written: {error}") from None


def _keep(found: Evaluation) -> None:
    """Writes the labels; says where one does not lie beside its model."""
    from quant import label
    from quant.evaluate import labelled

    for path, made in labelled(found).items():
        try:
            where = label.write(path, made)
        except label.LabelError as error:
            sys.stderr.write(f"pointsman: {error}\n")
            continue
        if where.parent != Path(path).parent:
            sys.stderr.write(f"pointsman: the label of {path} is in {where}\n")


def text(found: Evaluation) -> str:
    """What was measured, for people. Pure."""
    source = found.source
    on = next((model.scores for model in found.models if model.scores), None)
    read = f"{on.texts} texts, {on.tokens} tokens" if on else "nothing"
    lines = [f"{read} read with {found.engine}" + (f", against {source.name} ({_mib(source.of.bytes)})" if source else "")]
    lines += _table(found)
    if found.own:
        lines.append(f"On {found.own_count} prompts of yours:")
        lines += [f"  {model.name}: {_compared(model.prompts)}" for model in found.models if model.prompts]
    lines += [f"  {model.name} was not measured: {model.failed}" for model in found.models if model.failed]
    lines += [f"note: {note}" for note in found.notes]
    if found.why:
        lines.append(f"Recommended: {found.why}" if found.recommended else f"None is recommended: {found.why}")
    return "\n".join(lines) + "\n"


def _table(found: Evaluation) -> list[str]:
    rows: list[tuple[str, ...]] = [("model", "size", "KLD (95 %)", "same top token", "flips", "perplexity", "right", "tok/s")]
    every = [*([found.source] if found.source else []), *(model for model in found.models if not model.failed)]
    rows += [_row(model, " *" if model.path == found.recommended else "") for model in every]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in rows]  # fmt: skip


def _row(model: Measured, mark: str) -> tuple[str, ...]:
    from quant.label import kld_text, share_text

    on = model.scores
    figures = (
        (_with(on.kld, kld_text), _with(on.same, share_text), share_text(on.flips.value))
        if on is not None and on.kld is not None and on.same is not None and on.flips is not None
        else ("-", "-", "-")
    )
    return (
        model.name + mark, _mib(model.of.bytes), *figures, f"{on.perplexity.value:.4g}" if on else "-",
        f"{round(model.tasks.right.value * model.tasks.asked)}/{model.tasks.asked}" if model.tasks else "-",
        f"{model.speed.writing:.0f}" if model.speed else "-",
    )  # fmt: skip


def _with(estimate: Estimate, shown: Any) -> str:
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return str(shown(estimate.value))
    return f"{shown(estimate.value)} ({shown(estimate.low)} to {shown(estimate.high)})"


def _compared(on: Scores | None) -> str:
    from quant.label import kld_text, share_text

    if on is None or on.kld is None or on.same is None:
        return f"perplexity {on.perplexity.value:.4g}" if on else "nothing"
    return f"KLD {_with(on.kld, kld_text)}, {share_text(on.same.value)} same top token, {on.tokens} tokens"


def _mib(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.2f} MiB"
