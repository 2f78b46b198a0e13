"""Converts a Hugging Face model (safetensors) to GGUF: by our own code for the families that it knows, else by llama.cpp's converter.

Ours needs nothing but the base installation: headers are read here, values converted by ggml's own code (`ggml`), and no more than a few
chunks of rows are in memory at a time, whatever the model's size. The file is written whole or not at all.
"""

from __future__ import annotations

import os
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from backends.engines.gguf import GgufError
from quant import convert_config, convert_llamacpp, convert_meta, convert_names, convert_tokens, ggml
from quant.convert_safetensors import Files, Stored, index
from quant.convert_source import MAX_JSON, ConvertError, Settings, Unsupported, document, text
from quant.output import Output, OutputError
from quant.tensors import Pair, Planned, TensorError, header, load, padding

KINDS = ("F16", "BF16", "F32", "Q8_0")
MAKERS = ("auto", "own", "llama.cpp")
CHUNK_WEIGHTS = 1 << 20  # of one job: 4 MiB as 32-bit floats
MAX_THREADS = 256

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all


class Report(msgspec.Struct, frozen=True):
    """What was made. Sizes in bytes, of the file and of the weights that were read; `bits`: of the tensors, per weight. `kinds`: tensors by
    type. `fallbacks`: tensors whose rows could not take the type asked for. `notes`: what else a user should know, one sentence each."""

    source: str
    target: str
    kind: str
    maker: str
    architecture: str
    name: str
    source_bytes: int
    target_bytes: int
    weights: int
    bits: float
    kinds: Mapping[str, int]
    fallbacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class _Plan(msgspec.Struct, frozen=True):
    """What is to be written: the metadata, and each tensor with its type. `extra`: small tensors that no file holds."""

    pairs: tuple[Pair, ...]
    steps: tuple[tuple[convert_names.Step, str], ...]
    extra: tuple[tuple[Planned, bytes], ...]
    kind: str
    fallbacks: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def planned(self) -> list[Planned]:
        made = (Planned(step.name, tuple(reversed(step.source.shape)), kind) for step, kind in self.steps)
        return [*(planned for planned, _ in self.extra), *made]

    @property
    def head(self) -> bytes:
        return header(self.pairs, self.planned)

    @property
    def size(self) -> int:
        """Bytes of the file that will be written."""
        return len(self.head) + sum(planned.size + len(padding(planned.size)) for planned in self.planned)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    kind: str = "",
    *,
    maker: str = "auto",
    origin: str = "",
    threads: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    tool: convert_llamacpp.Tool | None = None,
) -> Report:
    """Writes the model in the folder `source` as the GGUF file `target`. Blocks, for minutes with large models.

    `kind`: one of `KINDS`, or "" for BF16 where the model is in it, else F16. `maker`: one of `MAKERS`; "auto" takes our own code,
    or llama.cpp's converter (`tool`) where ours does not know it. `origin`: the repository it comes from, "" if unknown. `threads`:
    at most so many work. `progress` is called from this thread. Raises `ConvertError`; then `target` is as it was before.
    """
    folder, wanted, told = Path(source), kind.upper(), progress or _silent
    if wanted not in ("", *KINDS) or maker not in MAKERS:
        raise ConvertError(f"{kind or maker!r} is not known; the types are {', '.join(KINDS)}, and the converters {', '.join(MAKERS)}.")
    if not folder.is_dir():
        raise ConvertError(f"{folder} is no folder; name the folder of a Hugging Face model, or hf:OWNER/NAME.")
    used = tool or convert_llamacpp.Tool()
    try:
        if maker == "llama.cpp":
            return _by_llamacpp(folder, Path(target), wanted, used, told, overwrite)
        try:
            plan, name = _plan(folder, wanted, origin)
        except Unsupported as reason:
            if maker == "own" or any(folder.glob("*.py")) or not convert_llamacpp.ready(used):
                raise  # what brings its own code is given to llama.cpp's converter, which may run it, only when that was asked for
            told(str(reason), 0, 0)
            return _by_llamacpp(folder, Path(target), wanted, used, told, overwrite, (f"Our own converter does not know it: {reason}",))
        return _write(plan, name, folder, Path(target), _threads(threads), told, overwrite)
    except (GgufError, TensorError, OutputError, ggml.GgmlError) as error:
        raise ConvertError(str(error)) from None


def _silent(name: str, done: int, total: int) -> None:
    pass


def _threads(asked: int | None) -> int:
    if asked is not None and not 1 <= asked <= MAX_THREADS:
        raise ConvertError(f"{asked} threads cannot work; ask for 1 to {MAX_THREADS}.")
    affinity = getattr(os, "sched_getaffinity", None)
    return asked or min(MAX_THREADS, len(affinity(0)) if affinity else os.cpu_count() or 1)


def _needed(folder: Path, name: str, limit: int = 16 << 20) -> Settings:
    found = document(folder / name, limit)
    if found is None:
        raise Unsupported(f"{folder} has no {name}.")
    return found


def _optional(folder: Path, name: str) -> Settings:
    return document(folder / name) or Settings({}, name)


def _plan(folder: Path, kind: str, origin: str) -> tuple[_Plan, str]:
    """All decisions, before a byte is written; and the model's name."""
    config = _needed(folder, "config.json")
    named = convert_config.family(config)
    if named not in convert_names.FAMILIES:  # before its settings are looked at, which have other names there
        raise Unsupported(f"The architecture {named[:60]!r} is none of those that are converted here ({convert_names.SAID}).")
    shape = convert_config.shape(config)
    family = convert_names.known(shape)
    tensors = index(folder)
    steps = convert_names.steps(shape, tensors)
    chosen = kind or ("BF16" if steps[0].source.kind == "BF16" else "F16")
    kinds = [_kind(step, chosen) for step in steps]
    told = _optional(folder, "tokenizer_config.json")
    templates = _templates(folder, told)
    tokens = convert_tokens.read(_needed(folder, "tokenizer.json", MAX_JSON), told, shape.vocabulary, chat=bool(templates))
    ids = convert_meta.special(tokens, told, config, _optional(folder, "generation_config.json"))
    name = _name(folder, config, origin)
    card = convert_meta.Card(name, repository=_address(origin), templates=templates, **convert_meta.card(text(folder / "README.md")))
    weights = sum(_weights(step.source) for step in steps)
    pairs = (
        *convert_meta.general(card, family, chosen, weights), *convert_meta.sizes(shape, family),
        *convert_meta.vocabulary(tokens, ids), *convert_meta.templates(templates),
    )  # fmt: skip
    fallbacks = tuple(step.name for step, given in zip(steps, kinds, strict=True) if step.matrix and given != chosen)
    return _Plan(pairs, tuple(zip(steps, kinds, strict=True)), _extra(shape), chosen, fallbacks, (*_notes(shape), *tokens.notes)), name


def _kind(step: convert_names.Step, chosen: str) -> str:
    """The type of one tensor: norms and biases stay 32-bit floats, rows that no block fits become F16 (as with llama.cpp's converter)."""
    if not step.matrix:
        return "F32"
    return chosen if ggml.fits(chosen, step.columns) else "F16"


def _weights(source: Stored) -> int:
    made = 1
    for size in source.shape:
        made *= size
    return made


def _extra(shape: convert_config.Shape) -> tuple[tuple[Planned, bytes], ...]:
    divisors = shape.rope.divisors
    if not divisors:
        return ()
    return ((Planned("rope_freqs.weight", (len(divisors),), "F32"), struct.pack(f"<{len(divisors)}f", *divisors)),)


def _notes(shape: convert_config.Shape) -> Iterator[str]:
    if shape.window and shape.window < shape.context:
        yield (
            f"Its attention slides over the last {shape.window} tokens, which llama.cpp does not do for this architecture: beyond them it "
            "may answer otherwise."
        )


def _templates(folder: Path, told: Settings) -> dict[str, str]:
    """The chat templates by name: those in files of their own before those in tokenizer_config.json."""
    found = told.values.get("chat_template")
    made = {"default": found} if isinstance(found, str) else {}
    for entry in found if isinstance(found, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str):
            made[entry["name"]] = entry["template"]
    apart = text(folder / "chat_template.jinja")
    return made | ({"default": apart} if apart is not None else {})


def _name(folder: Path, config: Settings, origin: str) -> str:
    said = config.values.get("_name_or_path")
    named = origin or (said if isinstance(said, str) and not said.startswith((".", "/")) else "") or folder.resolve().name
    return named.rstrip("/").rpartition("/")[2][:200] or "model"


def _address(origin: str) -> str:
    return f"https://huggingface.co/{origin}" if origin else ""


def _by_llamacpp(
    folder: Path, target: Path, kind: str, tool: convert_llamacpp.Tool, progress: Progress, overwrite: bool, notes: tuple[str, ...] = ()
) -> Report:
    with Output(target, overwrite=overwrite) as output:
        convert_llamacpp.run(tool, folder, output.part, kind, progress)
        return _report(output.part, folder, target, kind, "llama.cpp", (), notes)


def _write(plan: _Plan, name: str, folder: Path, target: Path, threads: int, progress: Progress, overwrite: bool) -> Report:
    with Output(target, plan.size, overwrite=overwrite) as output:
        output.write(plan.head)
        for planned, data in plan.extra:
            output.write(data + padding(planned.size))
        _weigh(plan, output, threads, progress)
        return _report(output.part, folder, target, plan.kind, "own", plan.fallbacks, plan.notes)


def _report(part: Path, folder: Path, target: Path, kind: str, maker: str, fallbacks: tuple[str, ...], notes: tuple[str, ...]) -> Report:
    """What was made, read from the file itself by the reader that serves models."""
    made = load(part)
    read = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return Report(
        source=str(folder), target=str(target), kind=kind or made.meta.file_type, maker=maker, architecture=made.meta.architecture,
        name=made.meta.name, source_bytes=read, target_bytes=made.meta.bytes, weights=made.weights,
        bits=made.tensor_bytes * 8 / max(made.weights, 1), kinds=dict(Counter(tensor.kind for tensor in made.tensors).most_common()),
        fallbacks=fallbacks, notes=notes,
    )  # fmt: skip


class _Job(msgspec.Struct, frozen=True):
    """Some rows of one tensor; whole heads, where rows change places."""

    step: convert_names.Step
    kind: str
    first: int
    rows: int

    @property
    def row(self) -> int:
        """Weights of a row; one of a tensor that is none of rows."""
        return self.step.columns if self.step.matrix else 1


def _jobs(step: convert_names.Step, kind: str) -> Iterator[_Job]:
    row = step.columns if step.matrix else 1
    rows = _weights(step.source) // row
    each = max(1, CHUNK_WEIGHTS // row)
    each = max(step.permuted, each // step.permuted * step.permuted) if step.permuted else each
    for first in range(0, rows, each):
        yield _Job(step, kind, first, min(each, rows - first))


def _done(library: ggml.Library, files: Files, job: _Job) -> bytes:
    """The rows of a job as they will be written. Runs in any thread."""
    source = job.step.source
    width = ggml.size(source.kind, job.row)
    raw = files.read(source, job.first * width, job.rows * width)
    raw = convert_names.rows(raw, job.step.permuted, width) if job.step.permuted else raw
    try:
        if not library.valid(source.kind, raw, job.rows, job.row):
            raise ggml.GgmlError("it holds values that are no numbers.")
        if source.kind == job.kind:
            return raw
        return library.quantise(job.kind, library.dequantise(source.kind, raw, job.rows, job.row), job.rows, job.row)
    except ggml.GgmlError as error:
        more = " BF16 and F32 hold larger values than F16 does." if job.kind == "F16" else ""
        raise ConvertError(f"The tensor {source.name!r} cannot become {job.kind}: {error}{more}") from None


def _weigh(plan: _Plan, output: Output, threads: int, progress: Progress) -> None:
    """All tensors of the files, in order. What is being converted at a time is bounded by the number of threads."""
    total, done = sum(step.source.size for step, _ in plan.steps), 0
    library = ggml.library()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="convert")
    with Files([step.source for step, _ in plan.steps]) as files:
        try:
            for step, kind in plan.steps:
                size = 0
                for job, data in _in_order(pool, 2 * threads, _jobs(step, kind), lambda job: _done(library, files, job)):
                    output.write(data)
                    size, done = size + len(data), done + job.rows * job.row * ggml.size(step.source.kind, 1)
                    progress(step.name, done, total)
                output.write(padding(size))
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
