"""What this machine is, what it can run, and what is wrong with it: a list of findings, each with what to do.

`examine` looks (files, a socket, a child process that imports the engine); the judgements are pure functions over what was seen, so that
every finding can be tested without such a machine. Blocks for some seconds at most.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from quant.fit import Candidate, Correct, Option, Wish, every, none, rank, size
from quant.fit_card import Card, Layer, matrices
from quant.hardware import Machine
from quant.mixes import Facts, Shape, choose

State = Literal["good", "note", "bad"]
LITTLE_MEMORY, NO_MEMORY = 2 << 30, 256 << 20
LITTLE_DISK, NO_DISK = 10 << 30, 256 << 20
FEW_FILES = 1024
ENGINE_SECONDS = 60.0
CONTEXT, SLOTS, KIND = 8192, 1, "Q4_K_M"
MAX_FILES = 4096

# Shapes that published families have (Qwen3): billions, layers, width, inner, heads, heads of keys; head 128, vocabulary 151936.
FAMILY = (
    (0.6, 28, 1024, 3072, 16, 8), (1.7, 28, 2048, 6144, 16, 8), (4, 36, 2560, 9728, 32, 8), (8, 36, 4096, 12288, 32, 8),
    (14, 40, 5120, 17408, 40, 8), (32, 64, 5120, 25600, 64, 8),
)  # fmt: skip
VOCAB, HEAD = 151_936, 128


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `state`: "bad" keeps something from working; `do`: what to do about it."""

    name: str
    state: State
    said: str
    do: str = ""


class Runs(msgspec.Struct, frozen=True):
    """How a usual model of `billions` of weights would do here: bytes, seconds, tokens a second."""

    billions: float
    kind: str
    context: int
    fits: bool
    needs: int
    first: float
    decode: float


class Seen(msgspec.Struct, frozen=True):
    """What `examine` saw beside the machine. `engine`: version, or "" and the fault; `folders`: (what for, path, fault, free bytes);
    `port_fault`: "" when it can be listened on; `clock`, `newest`: unix time, and that of the newest file of the program."""

    python: tuple[int, int]
    engine: str
    engine_fault: str
    port: int
    port_fault: str
    folders: tuple[tuple[str, str, str, int], ...]
    files: int
    load: float
    clock: float
    newest: float


class Report(msgspec.Struct, frozen=True):
    """All findings, the worst first, and what the machine can run."""

    machine: Machine
    findings: tuple[Finding, ...]
    runs: tuple[Runs, ...]

    @property
    def broken(self) -> bool:
        return any(finding.state == "bad" for finding in self.findings)


def report(machine: Machine, seen: Seen, correct: Correct = none) -> Report:
    """The judgement over what was seen. `correct`: of predicted speeds, by what was measured on this machine. Pure."""
    order: dict[str, int] = {"bad": 0, "note": 1, "good": 2}
    findings = sorted(judged(machine, seen), key=lambda finding: order[finding.state])
    return Report(machine, tuple(findings), tuple(runs(machine, correct)))


def judged(machine: Machine, seen: Seen) -> Iterator[Finding]:
    """Every finding. Pure."""
    yield _python(seen)
    yield _engine(seen)
    yield from _processor(machine, seen)
    yield from _memory(machine)
    yield _graphics(machine)
    yield _port(seen)
    yield from (_folder(*each) for each in seen.folders)
    yield _files(seen)
    yield _clock(seen)


def _python(seen: Seen) -> Finding:
    version = ".".join(map(str, seen.python))
    if seen.python < (3, 11):
        return Finding("python", "bad", f"Python {version}", "Install Python 3.11 or newer; older ones are not supported.")
    return Finding("python", "good", f"Python {version}")


def _engine(seen: Seen) -> Finding:
    if seen.engine:
        return Finding("engine", "good", f"llama.cpp by xllamacpp {seen.engine}")
    how = "Reinstall it (pip install --force-reinstall xllamacpp)"
    if "libgomp" in seen.engine_fault:  # slim images have none
        how = "Install libgomp1 (apt install libgomp1)"
    do = f"{how}, or serve models of other servers only."
    return Finding("engine", "bad", f"llama.cpp cannot be loaded: {seen.engine_fault}", do)


def _processor(machine: Machine, seen: Seen) -> Iterator[Finding]:
    if machine.features:
        yield Finding("processor", "good", f"{machine.processor} ({machine.features})")
    else:
        yield Finding(
            "processor", "note", f"{machine.processor} has neither AVX2 nor dot products", "Expect a few tokens a second of small models."
        )
    said = f"{machine.cores} cores for this process, {machine.cores} threads an engine"
    if machine.cores < 2:
        yield Finding("cores", "note", said, "Give the container or the machine more than one core.")
    elif seen.load > machine.cores:
        yield Finding(
            "cores", "note", f"{said}; {seen.load:.1f} threads want to run just now", "Stop what else computes: engines wait for it."
        )
    else:
        yield Finding("cores", "good", said)


def _memory(machine: Machine) -> Iterator[Finding]:
    said = f"{size(machine.available)} free of {size(machine.total)}, {size(machine.budget)} may be used for engines"
    if machine.available < NO_MEMORY:
        yield Finding("memory", "bad", said, "Close other programs, or raise the container's limit: no engine starts with this.")
    elif machine.available < LITTLE_MEMORY:
        yield Finding("memory", "note", said, "Choose models below one billion weights, or close other programs.")
    else:
        yield Finding("memory", "good", said)
    if machine.limit.version:
        said = f"cgroup v{machine.limit.version} allows {size(machine.limit.limit)}, {size(machine.limit.used)} are used"
        yield Finding("limit", "note", said, "What goes beyond it is killed; raise it if models do not fit.")
        if machine.limit.version == 1:
            do = "Set `context` of each backend yourself (pointsman fit tells how much): our engines see only limits of cgroup v2."
            yield Finding("limit", "note", "the limit is one of cgroup v1", do)


def _graphics(machine: Machine) -> Finding:
    if not machine.gpus:
        return Finding("graphics", "good", "no graphics card with its maker's tools; models run on the processor")
    cards = ", ".join(f"{gpu.name} ({size(gpu.free)} of {size(gpu.total)} free)" for gpu in machine.gpus)
    return Finding(
        "graphics", "note", cards, "The bundled llama.cpp computes on the processor; vLLM, SGLang or your own llama-server use the card."
    )


def _port(seen: Seen) -> Finding:
    if not seen.port_fault:
        return Finding("port", "good", f"{seen.port} is free on this machine")
    return Finding(
        "port", "note", f"{seen.port} cannot be listened on: {seen.port_fault}", "Is a gateway running? Otherwise serve with --port."
    )


def _folder(what: str, path: str, fault: str, free: int) -> Finding:
    if fault:
        return Finding(
            what, "bad", f"{path} cannot be written: {fault}", "Make it writable, or name another by its variable (XDG_..., HF_HOME)."
        )
    said = f"{path}: {size(free)} free"
    if free < NO_DISK:
        return Finding(what, "bad", said, "Free some space: nothing more can be kept there.")
    if free < LITTLE_DISK:
        return Finding(what, "note", said, "Larger models will not fit there.")
    return Finding(what, "good", said)


def _files(seen: Seen) -> Finding:
    said = f"{seen.files} files and connections may be open"
    if 0 < seen.files < FEW_FILES:
        return Finding("files", "note", said, "Raise it (ulimit -n 65536) before many clients connect.")
    return Finding("files", "good", said if seen.files else "files and connections are not limited")


def _clock(seen: Seen) -> Finding:
    said = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(max(0.0, seen.clock)))
    if seen.clock < seen.newest - 86_400:
        return Finding("clock", "bad", f"{said}, which is before this program was made", "Set the clock: certificates and signatures fail.")
    return Finding("clock", "good", said)


def usual(billions: float, layers: int, width: int, inner: int, heads: int, shared: int, kind: str = KIND) -> Card:
    """The card of a model of these dimensions as `kind`. Pure."""
    shapes = [Shape("token_embd.weight", (width, VOCAB), "F16")]
    for layer in range(layers):
        for name, rows, columns in (
            ("attn_q", heads * HEAD, width), ("attn_k", shared * HEAD, width), ("attn_v", shared * HEAD, width),
            ("attn_output", width, heads * HEAD), ("ffn_gate", inner, width), ("ffn_up", inner, width), ("ffn_down", width, inner),
        ):  # fmt: skip
            shapes.append(Shape(f"blk.{layer}.{name}.weight", (columns, rows), "F16"))
    dims = {shape.name: shape.dims for shape in shapes}
    chosen = choose(kind, Facts("qwen3", layers, heads, shared), shapes)
    made = matrices((choice.name, dims[choice.name], choice.kind) for choice in chosen)
    return Card(
        name=f"{billions:g}B", architecture="qwen3", quant=kind, width=width, inner=inner, heads=heads, query=heads * HEAD, vocab=VOCAB,
        merges=VOCAB, context=40_960, experts=(0, 0, 0), layers=(Layer(shared * HEAD, shared * HEAD),) * layers, matrices=made, tied=True,
    )  # fmt: skip


def runs(machine: Machine, correct: Correct = none) -> Iterable[Runs]:
    """How models of usual sizes would do on this machine, as Q4_K_M with one slot. Pure."""
    wish = Wish(CONTEXT, SLOTS)
    for dims in FAMILY:
        options = every([Candidate(usual(*dims))], wish, machine, correct)
        one: Option = max(options, key=lambda each: (each.fits, rank(each, wish)))
        yield Runs(dims[0], KIND, CONTEXT, one.fits, one.needs, one.pace.first, one.pace.decode)


# -- looking -----------------------------------------------------------------------------------------------------------------------------


def examine(port: int, folders: Mapping[str, Path], program: Path) -> Seen:
    """Looks at everything but the machine itself. `folders`: where what is kept; `program`: a folder of this program. Blocks."""
    version, fault = engine()
    return Seen(
        python=(sys.version_info[0], sys.version_info[1]), engine=version, engine_fault=fault, port=port, port_fault=port_fault(port),
        folders=tuple((what, str(path), *folder(path)) for what, path in folders.items()), files=_open_files(), load=_load(),
        clock=time.time(), newest=_newest(program),
    )  # fmt: skip


def engine(command: Sequence[str] = (sys.executable,)) -> tuple[str, str]:
    """(version, "") of the engine's package, or ("", why not). In a child process: a library that does not fit the processor kills it."""
    code = "import xllamacpp, importlib.metadata as m; xllamacpp.CommonParams(); print('version', m.version('xllamacpp'))"
    try:
        done = subprocess.run([*command, "-c", code], capture_output=True, timeout=ENGINE_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return "", f"it was not loaded within {ENGINE_SECONDS:.0f} seconds"
    except OSError as error:
        return "", f"{command[0]} cannot be started ({error.strerror})"
    said = done.stdout.decode("utf-8", "replace").split()
    if done.returncode == 0 and said[-2:-1] == ["version"]:
        return said[-1][:40], ""
    if done.returncode < 0:
        return "", f"its library ended with signal {-done.returncode} (it may need another processor)"
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return "", lines[-1][:200] if lines else f"its import ended with code {done.returncode}"


def port_fault(port: int) -> str:
    """Why a loopback port cannot be listened on; "" when it can."""
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def folder(path: Path) -> tuple[str, int]:
    """(why nothing can be written to `path` or where it would be made, free bytes there). Leaves nothing behind."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
        return "", shutil.disk_usage(place).free
    except OSError as error:
        return error.strerror or str(error), 0


def _open_files() -> int:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return 0 if soft == resource.RLIM_INFINITY else soft
    return 0


def _load() -> float:
    with contextlib.suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return 0.0


def _newest(program: Path) -> float:
    """Unix time of the newest of the program's files, 0 where none can be seen."""
    newest = 0.0
    for number, path in enumerate(program.glob("*.py")):
        with contextlib.suppress(OSError):
            newest = max(newest, path.stat().st_mtime)
        if number >= MAX_FILES:
            break
    return newest
