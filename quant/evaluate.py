"""What quantising did to a model: it reads texts in step with its source, token by token (perplexity, KLD, same first choice), answers the
same small questions, and is timed. What comes out is an `Evaluation`: for people, for a label (`label`), for a page (`report`).

Only two models are in memory at a time, the source and one other, in a child process that does one of them and ends (`evaluate_jobs`).
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from backends.engines import gguf
from quant import builtin, evaluate_tasks, label
from quant.evaluate_figures import Scores, TaskScores, of_the_source, scores, task_scores
from quant.evaluate_jobs import Answered, Ask, Compare, EvaluateError, Event, Figures, Rendered, Speed, Step, Text, run
from quant.evaluate_tasks import Task
from quant.evaluate_texts import Chats, built_in, digest
from quant.makers import Progress

GOOD_KLD = 0.03  # nats: below it, a larger quantisation is not worth its memory (the recommendation's rule)
LEAST_BITS = 3.0  # a weight; below it a model is not recommended without an importance matrix
GO_ON = 24  # tokens that the source writes behind each of the user's own chats
MOST = 1024  # tokens of a text
SPEED_TOKENS = 48
CONTEXT = 2048  # tokens that a question may have with its answer
MAX_MODELS = 32
MAX_THREADS = 256

__all__ = ["EvaluateError", "Evaluation", "Measured", "evaluate", "labelled", "recommended"]
Runner = Callable[[Compare | Ask, Callable[[Event], None]], None]


class Measured(msgspec.Struct, frozen=True):
    """One file. `bits`: of its tensors, per weight (0: unknown). `scores`: on our texts; `prompts`: on the user's own. `speed`: of this
    machine at that time. `weighed`: made with an importance matrix. `failed`: why nothing was measured."""

    path: str
    name: str
    kind: str
    of: label.Identity
    bits: float
    weighed: bool = False
    scores: Scores | None = None
    prompts: Scores | None = None
    tasks: TaskScores | None = None
    speed: Speed | None = None
    failed: str = ""


class Evaluation(msgspec.Struct, frozen=True):
    """`models` in the order in which they were given, without the source. `texts`, `own`: hashes of what was read; `own_count`: the
    user's own prompts. `recommended`: the path of a model, with its reason in `why`. `engine`: llama.cpp's package and its version."""

    date: str
    engine: str
    threads: int
    texts: str
    source: Measured | None
    models: tuple[Measured, ...]
    own: str = ""
    own_count: int = 0
    recommended: str = ""
    why: str = ""
    notes: tuple[str, ...] = ()


def evaluate(
    models: Sequence[str | os.PathLike[str]],
    against: str | os.PathLike[str] | None = None,
    *,
    prompts: Chats | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    texts: Sequence[Text] | None = None,
    tasks: bool = True,
    speed: bool = True,
    do: Runner = run,
) -> Evaluation:
    """Measures `models` against the model that they were made from. Blocks, for minutes with large models.

    `against`: that model; without it the largest of several is taken, and one alone is measured without a comparison. `prompts`: the user's
    own, beside our `texts`. `progress` is called from this thread: (what, done, in all). `do` runs a job. A model that cannot be measured
    says so in its `failed`; where none can, or the source cannot, this raises `EvaluateError`.
    """
    work = _Work(_threads(threads), progress or _silent, tuple(texts) if texts is not None else built_in(), tasks, speed, do)
    paths = list(dict.fromkeys(Path(path) for path in models))
    if not 1 <= len(paths) <= MAX_MODELS:
        raise EvaluateError(f"{len(paths)} models cannot be evaluated at once; name 1 to {MAX_MODELS}.")
    metas = {path: _usable(path) for path in (*paths, *([Path(against)] if against is not None else []))}
    source = Path(against) if against is not None else max(paths, key=lambda path: metas[path].bytes) if len(paths) > 1 else None
    work.begin(source, metas, prompts)
    measured = [work.measure(path) for path in paths if path != source] if paths != [source] else []
    if not measured and source is not None:
        raise EvaluateError(f"{source.name} is the source itself; name the models that were made from it.")
    if all(model.failed for model in measured):
        raise EvaluateError(measured[0].failed)
    best, why = recommended(measured)
    return Evaluation(
        date=datetime.now(UTC).isoformat(timespec="seconds"), engine=_engine(), threads=work.threads, texts=digest(work.texts),
        source=work.source(), models=tuple(measured), own=digest(work.own) if work.own else "", own_count=len(work.own),
        recommended=best, why=why, notes=tuple(work.notes),
    )  # fmt: skip


def recommended(models: Sequence[Measured]) -> tuple[str, str]:
    """The path of the one to take and why ("" where nothing can be said): the smallest whose KLD is below `GOOD_KLD`, else the one with the
    least KLD; never one below three bits that was made without an importance matrix. Pure."""
    known = [(model, model.scores.kld.value) for model in models if model.scores is not None and model.scores.kld is not None]
    sound = [(model, kld) for model, kld in known if model.weighed or model.bits >= LEAST_BITS or not model.bits]
    if not sound:
        return "", ("All of them have less than three bits a weight, made without an importance matrix." if known else "")
    good = [(model, kld) for model, kld in sound if kld < GOOD_KLD]
    if good:
        best, kld = min(good, key=lambda each: each[0].of.bytes)
        return best.path, f"{best.kind or best.name} is the smallest with a KLD below {GOOD_KLD} ({label.kld_text(kld)})."
    best, kld = min(sound, key=lambda each: (each[1], each[0].of.bytes))
    return best.path, f"None has a KLD below {GOOD_KLD}; {best.kind or best.name} comes closest ({label.kld_text(kld)})."


def labelled(found: Evaluation) -> dict[str, label.Label]:
    """The label of each model that was measured, by path. Pure: `label.write` puts it beside the model."""
    source = found.source
    made = {}
    for model in found.models:
        if (on := model.scores) is None:
            continue
        own, tasks = model.prompts, model.tasks
        made[model.path] = label.Label(
            version=label.VERSION, of=model.of, name=model.name, kind=model.kind, date=found.date, texts=found.texts, tokens=on.tokens,
            perplexity=on.perplexity, source=source.name if source else "", source_sha256=source.of.sha256 if source else "",
            source_kind=source.kind if source else "", kld=on.kld, same=on.same, flips=on.flips, perplexity_ratio=on.ratio,
            prompts=found.own, prompts_kld=own.kld if own else None, prompts_same=own.same if own else None,
            tasks=tasks.right if tasks else None, source_tasks=tasks.source_right if tasks else None,
            task_flips=tasks.flips if tasks else None, engine=found.engine,
        )  # fmt: skip
    return made


def _silent(what: str, done: int, total: int) -> None:
    pass


def _threads(asked: int | None) -> int:
    if asked is not None and not 1 <= asked <= MAX_THREADS:
        raise EvaluateError(f"{asked} threads cannot work; ask for 1 to {MAX_THREADS}.")
    affinity = getattr(os, "sched_getaffinity", None)
    return asked or min(MAX_THREADS, len(affinity(0)) if affinity else os.cpu_count() or 1)


def _engine() -> str:
    try:
        return f"xllamacpp {importlib.metadata.version('xllamacpp')}"
    except importlib.metadata.PackageNotFoundError:
        return "xllamacpp"


def _usable(path: Path) -> gguf.Meta:
    """A model's header. Raises `EvaluateError` for what native code must not get, and for what writes no text."""
    try:
        meta = gguf.read(path)
        gguf.check(meta)
    except gguf.GgufError as error:
        raise EvaluateError(str(error)) from None
    if meta.pooling not in ("", "none"):
        raise EvaluateError(f"{path.name} makes embeddings (pooling: {meta.pooling}); only models that write text are evaluated.")
    if meta.splits > 1:
        raise EvaluateError(f"{path.name} is one of {meta.splits} files of a model; join them first (llama-gguf-split --merge).")
    if not meta.tensors:
        raise EvaluateError(f"{path.name} holds no weights.")
    return meta


class _Work:
    """One evaluation as it goes: what is read and asked, and what the source said."""

    def __init__(self, threads: int, progress: Progress, texts: tuple[Text, ...], tasks: bool, speed: bool, do: Runner) -> None:
        self.threads, self.texts, self.own = threads, texts, tuple[Text, ...]()
        self.notes: list[str] = []
        self._progress, self._do, self._ask_tasks, self._speed = progress, do, tasks, SPEED_TOKENS if speed else 0
        self._tasks: tuple[Task, ...] = ()
        self._source: Measured | None = None
        self._source_right: tuple[bool, ...] | None = None

    def begin(self, source: Path | None, metas: Mapping[Path, gguf.Meta], prompts: Chats | None) -> None:
        """Identifies every file, and asks the source what the others are asked later."""
        self._metas = metas
        first = source or next(iter(metas))
        if self._ask_tasks:
            self._tasks = evaluate_tasks.of_the_toy() if metas[first].name == builtin.MODEL_NAME else evaluate_tasks.general()
        if prompts is not None:
            self._read_own(first, prompts)
        if source is not None:
            found, self._source_right = self._asked(self._identified(source))
            self._source = found

    def source(self) -> Measured | None:
        return self._source

    def _identified(self, path: Path) -> Measured:
        meta = self._metas[path]

        def hashing(done: int, total: int) -> None:
            self._progress(f"hashing {path.name}", done, total)

        try:
            which = label.identity(path, whole=True, progress=hashing)
        except OSError as error:
            raise EvaluateError(f"The model file {path} cannot be read: {error.strerror}.") from None
        weighed = any(key.startswith("quantize.imatrix.") for key in meta.values)
        bits = 8 * meta.bytes / meta.parameters if meta.parameters else 0.0
        return Measured(str(path), path.name, meta.file_type, which, bits, weighed)

    def _heard(self, what: str, found: list[Event]) -> Callable[[Event], None]:
        def hear(event: Event) -> None:
            if isinstance(event, Step):
                self._progress(what, event.done, event.total)
            else:
                found.append(event)

        return hear

    def _read_own(self, path: Path, prompts: Chats) -> None:
        """The user's own prompts as texts, chats as the source's template writes them."""
        found: list[Event] = []
        meta = self._metas[path]
        if prompts.chats and not meta.chat_template:
            raise EvaluateError(
                f'{path.name} has no chat template, so chats cannot be given to it; give texts ({{"prompt": ...}}) instead.'
            )
        if prompts.chats:
            self._do(Ask(str(path), self.threads, chats=prompts.chats), self._heard(f"writing out prompts for {path.name}", found))
        written = [event for event in found if isinstance(event, Rendered)]
        kept = [Text(f"prompt {at}", event.text, True, GO_ON) for at, event in enumerate(written, 1) if event.text]
        plain = [Text(f"text {at}", text, False, GO_ON) for at, text in enumerate(prompts.texts, 1)]
        self.own = (*kept, *plain)
        lost = prompts.left_out + len(written) - len(kept)
        if not self.own:
            why = next((event.problem for event in written if event.problem), "they hold no text")
            raise EvaluateError(f"None of the prompts can be given to {path.name}: {why}")
        if lost:
            self.notes.append(f"{lost} of the prompts were left out: they hold more than text, or the model's template refuses them.")
        if prompts.found > len(self.own) + lost:
            self.notes.append(f"Of {prompts.found} prompts {len(self.own) + lost} were read, evenly spread.")

    def _asked(self, model: Measured) -> tuple[Measured, tuple[bool, ...] | None]:
        """The model with its answers and its speed, and of each question whether its answer was right."""
        if not self._tasks and not self._speed:
            return model, None
        found: list[Event] = []
        meta = self._metas[Path(model.path)]
        questions = tuple(task.question for task in self._tasks)
        context = min(CONTEXT, meta.context or CONTEXT)
        speed_tokens = min(self._speed, context // 4)
        job = Ask(model.path, self.threads, questions, (), speed_tokens, context, meta.chat_template)
        self._do(job, self._heard(f"asking {model.name}", found))
        right = evaluate_tasks.judged(self._tasks, [event for event in found if isinstance(event, Answered)])
        speed = next((event for event in found if isinstance(event, Speed)), None)
        return msgspec.structs.replace(model, tasks=task_scores(right, self._source_right), speed=speed), right

    def measure(self, path: Path) -> Measured:
        """All figures of one model."""
        model = self._identified(path)
        try:
            model, _ = self._asked(model)
            return self._compared(model)
        except EvaluateError as error:
            return msgspec.structs.replace(model, failed=str(error))

    def _compared(self, model: Measured) -> Measured:
        found: list[Event] = []
        source = self._source
        job = Compare(source.path if source else "", model.path, (*self.texts, *self.own), self.threads, MOST)
        self._do(job, self._heard(f"reading with {model.name}", found))
        read = [event for event in found if isinstance(event, Figures)]
        ours, own = read[: len(self.texts)], read[len(self.texts) :]
        if source is not None and source.scores is None:
            self._source = msgspec.structs.replace(source, scores=of_the_source(ours), prompts=of_the_source(own))
        compared = source is not None
        return msgspec.structs.replace(model, scores=scores(ours, compared), prompts=scores(own, compared))
