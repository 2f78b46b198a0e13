"""The three clients: where they are installed, how each is told the same load, where it leaves what it saw."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from benchmarks.agreement import parse
from benchmarks.agreement.words import Load, Run, Who
from benchmarks.bench.errors import BenchError
from benchmarks.bench.files import read_result
from benchmarks.bench.texts import option

PACKAGES: dict[str, str] = {"guidellm": "guidellm==0.8.1", "aiperf": "aiperf==0.13.0"}
_ROOT = str(Path(__file__).resolve().parents[2])  # where `benchmarks` is, whatever the working directory
_MODEL = "scripted"  # "null", as the server calls it, is read as nothing by the others' YAML
_SECONDS = 900.0  # for one run of one client, its start included
_INSTALL_SECONDS = 3600.0
_SHOWN = 1500  # characters of what a client wrote before it failed
_PROCESSES = "2"  # that send: the others start one a core or ten, which on a small machine measures their start


class Site(msgspec.Struct, frozen=True):
    """What runs are made with: the environments, the tokenizer's folder, the server, its answers' tokens, where results go."""

    environments: Path
    tokenizer: Path
    url: str  # of the server, without /v1
    tokens: int
    prompt: int
    results: Path


def missing(environments: Path) -> list[str]:
    """The other clients that are not installed there at the version that is pinned."""
    return [name for name in PACKAGES if not _mark(environments, name).is_file()]


async def install(environments: Path, names: Sequence[str], say: Callable[[str], None]) -> None:
    """Makes an environment for each, by pip, which reads its own settings (PIP_INDEX_URL, PIP_CONSTRAINT, ...). Takes
    minutes. BenchError: one could not be made."""
    for name in names:
        folder = environments / name
        say(f"installing {PACKAGES[name]} into {folder}")
        python = str(folder / "bin" / "python")
        await _run([sys.executable, "-m", "venv", "--clear", str(folder)], {}, _INSTALL_SECONDS, f"an environment for {name}")
        await _run([python, "-m", "pip", "install", "--quiet", PACKAGES[name]], {}, _INSTALL_SECONDS, f"the installation of {name}")
        _mark(environments, name).write_text(PACKAGES[name], encoding="utf-8")


def _mark(environments: Path, name: str) -> Path:
    """Written when all is installed; its name has the version, so that another one is installed anew."""
    return environments / name / PACKAGES[name]


async def run(who: Who, site: Site, load: Load, repeat: int) -> Run:
    """One client, one load, once, into a folder of its own. BenchError: it failed, or left something else than it should."""
    name = f"{load.name.replace('=', '-')}-{repeat}-{who}"
    folder = next(one for n in itertools.count(1) if not (one := site.results / (name if n == 1 else f"{name}-{n}")).exists())
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise BenchError(f"{folder} cannot be made ({error.strerror or error}); name another --cache") from None
    runner = {"pointsman": _ours, "guidellm": _guidellm, "aiperf": _aiperf}[who]
    return await runner(site, load, repeat, folder)


async def _ours(site: Site, load: Load, repeat: int, folder: Path) -> Run:
    summary = folder / "run.json"
    code, told = await call(ours_command(site, load, summary), {"PYTHONPATH": _ROOT}, _SECONDS)
    if not summary.is_file():
        raise BenchError(f"pointsman bench ended with status {code}: {told[-_SHOWN:]}")
    return parse.ours(read_result(summary), load, repeat, _last(told) if code else "")


async def _guidellm(site: Site, load: Load, repeat: int, folder: Path) -> Run:
    out = folder / "run.json"
    environment = {"GUIDELLM__MAX_WORKER_PROCESSES": _PROCESSES, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    await _run(guidellm_command(site, load, out), environment, _SECONDS, f"guidellm with {load.name}")
    return parse.guidellm(_read(out), load, repeat)


async def _aiperf(site: Site, load: Load, repeat: int, folder: Path) -> Run:
    await _run(aiperf_command(site, load, folder), {}, _SECONDS, f"aiperf with {load.name}")
    return parse.aiperf(_read(folder / "profile_export_aiperf.json"), _read(folder / "profile_export.jsonl"), load, repeat)


def ours_command(site: Site, load: Load, summary: Path) -> list[str]:
    """`pointsman bench` with this load."""
    return [
        sys.executable, "-m", "benchmarks.bench", site.url, "--profile", option(load.profile), "--arrivals", "constant", "--repeats", "1",
        "--requests", str(load.requests + load.warm), "--warmup", str(load.warm), "--input", str(site.prompt), "--output", str(site.tokens),
        "--out", str(summary), "--json",
    ]  # fmt: skip


def guidellm_command(site: Site, load: Load, out: Path) -> list[str]:
    """guidellm with this load. Its prompts are made by its own process beforehand: no more of them than are sent."""
    total = load.requests + load.warm
    kind = {"sync": "kind=synchronous", "concurrent": f"kind=concurrent,streams={load.profile.value:g}",
            "rate": f"kind=constant,rate={load.profile.value:g}"}[load.profile.name]  # fmt: skip
    return [
        str(site.environments / "guidellm" / "bin" / "guidellm"), "run",
        "--backend", f"kind=openai_http,target={site.url},model={_MODEL},http2=false",
        "--profile", f"{kind},warmup.mode=requests,warmup.value={load.warm}",
        "--constraint", f"kind=max_requests,count={total}",
        "--tokenizer", f"kind=huggingface_auto,model={site.tokenizer}",
        "--data", f"kind=synthetic_text,prompt_tokens={site.prompt},output_tokens={site.tokens}",
        "--data-loader", f"kind=pytorch,samples={total}",
        "--metrics", "kind=generative,sample_size=0",
        "--output", f"kind=json,path={out}",
        "--disable-console",
    ]  # fmt: skip


def aiperf_command(site: Site, load: Load, folder: Path) -> list[str]:
    """aiperf with this load; its warm-up is a phase of its own."""
    pace = ["--request-rate", f"{load.profile.value:g}", "--request-rate-mode", "constant"] if load.profile.name == "rate" else [
        "--concurrency", f"{max(1.0, load.profile.value):g}"]  # fmt: skip
    return [
        str(site.environments / "aiperf" / "bin" / "aiperf"), "profile", "--model", _MODEL, "--url", site.url, "--endpoint-type", "chat",
        "--streaming", "--tokenizer", str(site.tokenizer), *pace,
        "--request-count", str(load.requests), "--warmup-request-count", str(load.warm), "--num-dataset-entries", str(load.requests),
        "--isl", str(site.prompt), "--isl-stddev", "0", "--osl", str(site.tokens), "--osl-stddev", "0", "--use-server-token-count",
        "--workers-max", _PROCESSES, "--random-seed", "1", "--ui", "none", "--no-gpu-telemetry", "--no-server-metrics",
        "--output-artifact-dir", str(folder),
    ]  # fmt: skip


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path} was to be written and cannot be read: {error.strerror or error}") from None


async def _run(command: Sequence[str], environment: Mapping[str, str], seconds: float, what: str) -> None:
    code, told = await call(command, environment, seconds)
    if code:
        raise BenchError(f"{what} failed with status {code}: ...{told[-_SHOWN:]}")


async def call(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> tuple[int, str]:
    """Runs it to its end; its status and what it wrote to standard error (to standard output where it wrote none there). Whatever it has
    started itself is ended with it, also when this is cancelled. BenchError: it cannot be started, or takes too long."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command, env={**os.environ, **environment}, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
    )
    try:
        process = await asyncio.shield(starting)
    except OSError as error:
        raise BenchError(f"{command[0]} cannot be started ({error.strerror or error}); install it again with --install") from None
    except asyncio.CancelledError:  # asyncio would end the process that is just being started, but not what that has started
        with suppress(OSError):
            await _end(await starting)
        raise
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    except TimeoutError:
        raise BenchError(f"{command[0]} took more than {seconds:.0f} s and was ended") from None
    finally:
        await _end(process)
    return process.returncode or 0, (err.strip() or out.strip()).decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends it and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _last(text: str) -> str:
    return text.strip().splitlines()[-1][-_SHOWN:] if text.strip() else "it ended with an error and said nothing"
