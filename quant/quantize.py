"""Quantises a GGUF model: the types of its tensors by llama.cpp's mixes (`mixes`), their blocks by ggml's own code (`ggml`), the file
written whole or not at all (`output`). No more than a few chunks of rows are in memory at a time, whatever the model's size.

The files equal those of llama.cpp's own `llama_model_quantize`, header and all: it is the same code on the same rows, in the same order.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec

from backends.engines.gguf import GgufError
from quant import ggml, imatrix, makers
from quant.makers import MakerError
from quant.mixes import MIXES, Choice, Facts, MixError, Shape, choose, keeps
from quant.output import Output, OutputError
from quant.tensors import Model, Planned, Tensor, TensorError, Weights, edited, header, load, padding

SOURCES = ("F32", "F16", "BF16", "Q8_0")  # what is quantised; anything coarser would add its error to the new one
QUANTISATION_VERSION = 2  # ggml.h, GGML_QNT_VERSION: the layout of the blocks
MAX_THREADS = 256
CHUNK_WEIGHTS = 1 << 20  # of one job: 4 MiB as 32-bit floats
MAKERS = ("auto", "own", "llama-cpp-python", "llama-quantize")
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")

Progress = Callable[[str, int, int], None]  # tensor, steps done, steps in all; a step is a byte read, or a tensor where another tool works


class QuantizeError(ValueError):
    """Why a model was not quantised. `str()` is one sentence: what, where, what to do."""


class Report(msgspec.Struct, frozen=True):
    """What was made. Sizes in bytes, of whole files; `bits`: of the tensors, per weight. `kinds`: tensors by type. `fallbacks`: tensors
    whose rows could not take the type that the kind would have given them. `notes`: what else a user should know, one sentence each."""

    source: str
    target: str
    kind: str
    maker: str
    source_bytes: int
    target_bytes: int
    weights: int
    source_bits: float
    bits: float
    kinds: Mapping[str, int]
    fallbacks: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()


class _Plan(msgspec.Struct, frozen=True):
    """What is to be done: each tensor and what it becomes, in the order in which they are written."""

    model: Model
    kind: str
    steps: tuple[tuple[Tensor, Choice], ...]
    importance: Mapping[str, Sequence[float]]
    notes: tuple[str, ...]

    @property
    def planned(self) -> list[Planned]:
        return [Planned(tensor.name, tensor.dims, choice.kind) for tensor, choice in self.steps]

    @property
    def head(self) -> bytes:
        numbers = {"general.quantization_version": QUANTISATION_VERSION, "general.file_type": MIXES[self.kind].file_type}
        return header(edited(self.model.pairs, numbers, _SPLIT_KEYS), self.planned, self.model.alignment)

    @property
    def size(self) -> int:
        """Bytes of the file that will be written."""
        each = (planned.size for planned in self.planned)
        return len(self.head) + sum(size + len(padding(size, self.model.alignment)) for size in each)


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    kind: str,
    *,
    importance: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    maker: str = "auto",
) -> Report:
    """Writes the GGUF model `source`, quantised as `kind` ("Q4_K_M"), to `target`. Blocks, for minutes with large models.

    `importance`: an importance matrix of llama-imatrix. `threads`: at most so many work (default: as many as this process has cores).
    `progress` is called from this thread. `maker`: one of `MAKERS`; "auto" takes our own code, or another tool where xllamacpp's library
    does not export what that needs. Raises `QuantizeError`; then `target` is as it was before.
    """
    try:
        plan = _plan(Path(source), kind.upper(), importance)
        _apart(Path(source), Path(target))
        return _make(plan, Path(target), importance, _threads(threads), progress or _silent, overwrite, maker)
    except (GgufError, TensorError, MixError, OutputError, MakerError, imatrix.ImatrixError, ggml.GgmlError) as error:
        raise QuantizeError(str(error)) from None


def preview(source: str | os.PathLike[str], kind: str, *, importance: str | os.PathLike[str] | None = None) -> Report:
    """What `quantize` would make, without making it. Blocks on reading headers; raises `QuantizeError`."""
    try:
        plan = _plan(Path(source), kind.upper(), importance)
    except (GgufError, TensorError, MixError, imatrix.ImatrixError) as error:
        raise QuantizeError(str(error)) from None
    return _report(plan, "", "", plan.size, [choice.kind for _, choice in plan.steps])


def facts(model: Model) -> Facts:
    """What of a model decides about its mix. Pure."""
    values, arch = model.meta.values, model.meta.architecture

    def first(key: str, default: int = 0) -> int:
        value = values.get(f"{arch}.{key}", default)
        value = (value[0] if value else default) if isinstance(value, list) else value
        return int(value) if isinstance(value, (int, float)) else default

    heads = first("attention.head_count")
    return Facts(arch, first("block_count"), heads, first("attention.head_count_kv", heads), first("expert_count"))


def _silent(name: str, done: int, total: int) -> None:
    pass


def _threads(asked: int | None) -> int:
    if asked is not None and not 1 <= asked <= MAX_THREADS:
        raise QuantizeError(f"{asked} threads cannot work; ask for 1 to {MAX_THREADS}.")
    affinity = getattr(os, "sched_getaffinity", None)
    return asked or min(MAX_THREADS, len(affinity(0)) if affinity else os.cpu_count() or 1)


def _apart(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        raise QuantizeError(f"{target} is the model itself; write to another file.")


def _plan(source: Path, kind: str, importance: str | os.PathLike[str] | None) -> _Plan:
    if kind not in MIXES:
        raise QuantizeError(f"{kind!r} is not a kind that can be made; choose one of {', '.join(MIXES)}.")
    model = load(source)
    _usable(model)
    values = imatrix.read(importance) if importance is not None else {}
    shapes = [Shape(tensor.name, tensor.dims, tensor.kind) for tensor in model.tensors]
    choices = choose(kind, facts(model), shapes, importance=bool(values))
    by_name = {tensor.name: tensor for tensor in model.tensors}
    steps = tuple((by_name[choice.name], choice) for choice in choices)
    notes = (*_rough(steps), *_weighed(steps, values)) if values else tuple(_rough(steps))
    return _Plan(model, kind, steps, values, notes)


def _usable(model: Model) -> None:
    """Refuses what cannot be quantised, or not well."""
    name, meta = model.path.name, model.meta
    if meta.splits > 1:
        raise QuantizeError(f"{name} is one of {meta.splits} files of a model; join them first (llama-gguf-split --merge).")
    if not model.tensors:
        raise QuantizeError(f"{name} holds no weights.")
    for tensor in model.tensors:
        if tensor.kind not in SOURCES and not keeps(Shape(tensor.name, tensor.dims, tensor.kind), meta.architecture):
            raise QuantizeError(
                f"{name} is quantised already (its tensor {tensor.name[:60]!r} is {tensor.kind}), and quantising it again would add a "
                "second error to the first; start from the same model as F32, BF16, F16 or Q8_0."
            )


def _rough(steps: Sequence[tuple[Tensor, Choice]]) -> Iterator[str]:
    if any(tensor.kind == "Q8_0" != choice.kind for tensor, choice in steps):
        yield "The source is Q8_0: its own small error comes on top; a source of 16 bits is better."


def _weighed(steps: Sequence[tuple[Tensor, Choice]], values: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Whether the importance matrix belongs to this model; what it says nothing about."""
    converted = [tensor for tensor, choice in steps if tensor.kind != choice.kind]
    for tensor in converted:
        found = len(values.get(tensor.name, ()))
        if found and found != tensor.columns * tensor.parts and not _embedding(tensor):
            raise QuantizeError(
                f"The importance matrix is of another model: it has {found} values for {tensor.name!r}, which takes "
                f"{tensor.columns * tensor.parts}."
            )
    without = [tensor.name for tensor in converted if tensor.name not in values and not _embedding(tensor)]
    if without:
        yield f"The importance matrix says nothing about {len(without)} of {len(converted)} tensors ({without[0]}, ...)."


def _embedding(tensor: Tensor) -> bool:
    """Whether llama-imatrix never sees it multiplied with anything, or with something of another width."""
    return tensor.name in ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")


def _make(
    plan: _Plan, target: Path, importance: str | os.PathLike[str] | None, threads: int, progress: Progress, overwrite: bool, maker: str
) -> Report:
    if maker not in MAKERS:
        raise QuantizeError(f"{maker!r} does not quantise; choose one of {', '.join(MAKERS)}.")
    used = _choose_maker(maker)
    with Output(target, plan.size, overwrite=overwrite) as output:
        if used == "own":
            _write(plan, output, threads, progress)
        else:
            weighed = os.fspath(importance) if importance is not None else ""
            file_type = MIXES[plan.kind].file_type
            asked = makers.Asked(str(plan.model.path), str(output.part), plan.kind, file_type, threads, weighed)
            makers.run(used, asked, progress)
        made = load(output.part)
    kinds = {tensor.name: tensor.kind for tensor in made.tensors}
    return _report(plan, str(target), used, made.meta.bytes, [kinds.get(tensor.name, "") for tensor, _ in plan.steps])


def _choose_maker(maker: str) -> str:
    if maker != "auto":
        return maker
    try:
        ggml.library()
    except ggml.GgmlError:
        other = makers.found()
        if other is None:
            raise
        return other
    return "own"


def _report(plan: _Plan, target: str, maker: str, size: int, kinds: Sequence[str]) -> Report:
    model = plan.model
    stored = sum(ggml.size(kind, tensor.columns, tensor.rows) for (tensor, _), kind in zip(plan.steps, kinds, strict=True))
    fallbacks = tuple(choice for (_, choice), kind in zip(plan.steps, kinds, strict=True) if choice.wanted and choice.kind == kind)
    return Report(
        source=str(model.path), target=target, kind=plan.kind, maker=maker, source_bytes=model.meta.bytes, target_bytes=size,
        weights=model.weights, source_bits=model.tensor_bytes * 8 / model.weights, bits=stored * 8 / model.weights,
        kinds=dict(Counter(kinds).most_common()), fallbacks=fallbacks, notes=plan.notes,
    )  # fmt: skip


class _Job(msgspec.Struct, frozen=True):
    """Some rows of one tensor. `importance`: of their matrix, or None."""

    tensor: Tensor
    kind: str
    first: int
    rows: int
    importance: Sequence[float] | None

    @property
    def steps(self) -> int:
        """Bytes of the source that it reads."""
        return ggml.size(self.tensor.kind, self.tensor.columns, self.rows)


def _jobs(tensor: Tensor, kind: str, values: Sequence[float]) -> Iterator[_Job]:
    """All rows of a tensor in order; those of one job belong to one expert."""
    step = max(1, CHUNK_WEIGHTS // tensor.columns)
    each = tensor.rows // tensor.parts
    weighed = len(values) == tensor.columns * tensor.parts
    for part in range(tensor.parts):
        importance = values[part * tensor.columns : (part + 1) * tensor.columns] if weighed else None
        for first in range(0, each, step):
            yield _Job(tensor, kind, part * each + first, min(step, each - first), importance)


def _convert(library: ggml.Library, weights: Weights, job: _Job) -> bytes:
    """The rows of a job as they will be written. Runs in any thread."""
    raw, tensor = weights.read(job.tensor, job.first, job.rows), job.tensor
    try:
        if not library.valid(tensor.kind, raw, job.rows, tensor.columns):
            raise ggml.GgmlError("it holds values that are no numbers.")
        if tensor.kind == job.kind:
            return raw
        floats = library.dequantise(tensor.kind, raw, job.rows, tensor.columns)
        return library.quantise(job.kind, floats, job.rows, tensor.columns, job.importance)
    except ggml.GgmlError as error:
        raise QuantizeError(f"{weights.name} has the tensor {tensor.name!r}, which cannot be quantised: {error}") from None


def _write(plan: _Plan, output: Output, threads: int, progress: Progress) -> None:
    """Everything, in order. What is being converted at a time is bounded by the number of threads."""
    total, done = plan.model.tensor_bytes, 0
    output.write(plan.head)
    library = ggml.library()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="quantise")
    with closing(Weights(plan.model)) as weights:
        try:
            for tensor, choice in plan.steps:
                jobs = _jobs(tensor, choice.kind, plan.importance.get(tensor.name, ()))
                size = 0
                for job, data in _in_order(pool, 2 * threads, jobs, lambda job: _convert(library, weights, job)):
                    output.write(data)
                    size, done = size + len(data), done + job.steps
                    progress(tensor.name, done, total)
                output.write(padding(size, plan.model.alignment))
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(pool: ThreadPoolExecutor, ahead: int, jobs: Iterator[_Job], work: Callable[[_Job], bytes]) -> Iterator[tuple[_Job, bytes]]:
    """What `work` makes of each job, in their order, with at most `ahead` of them begun and not yet taken."""
    begun: deque[tuple[_Job, Future[bytes]]] = deque()
    for job in jobs:
        begun.append((job, pool.submit(work, job)))
        if len(begun) >= ahead:
            taken, future = begun.popleft()
            yield taken, future.result()
    while begun:
        taken, future = begun.popleft()
        yield taken, future.result()
