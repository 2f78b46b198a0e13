"""Fetches what a conversion needs: a model's folder from the Hugging Face hub, and llama.cpp's converter out of the source distribution of
llama-cpp-python, by pip, pinned to one version and one hash. What is kept is the archive as it came; its hash is checked each time before
anything of it is run. Blocks on the network and the disk.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from quant import hub
from quant.convert_source import ConvertError

NAME, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
MEGABYTES = 77
FILE = f"llama_cpp_python-{VERSION}.tar.gz"
_INSIDE = PurePosixPath(f"llama_cpp_python-{VERSION}/vendor/llama.cpp")
_TAKEN = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/", "LICENSE")
MAX_UNPACKED = 64 << 20  # bytes
FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "README.md", "LICENSE*")  # none that is code
SKIPPED = ("*/*", "consolidated*")  # the same weights in other forms

Progress = Callable[[str, int, int], None]


def model(reference: str, *, offline: bool = False) -> Path:
    """The folder of a model `hf:OWNER/NAME` with its safetensors, fetched when it is not cached; huggingface_hub draws its own progress.
    Blocks, possibly for hours; raises `hub.HubError`."""
    from huggingface_hub import snapshot_download

    ref = hub.parse(reference)
    if ref.quant:
        raise hub.HubError(f"{reference} names a quantisation; what is converted is the model itself: hf:{ref.repo}.")
    only = offline or hub.offline_asked()
    with hub.clear(ref):
        options: dict[str, Any] = {"allow_patterns": list(FILES), "ignore_patterns": list(SKIPPED), "local_files_only": only}
        return Path(snapshot_download(ref.repo, endpoint=hub.endpoint(), **options))


def _place(cache: str) -> Path:
    base = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pointsman"
    return base / FILE


def cached(cache: str = "") -> Path | None:
    """The archive if it was fetched before."""
    place = _place(cache)
    return place if place.is_file() else None


def fetch(cache: str = "") -> Path:
    """Fetches the archive with pip, which verifies its hash, as does `unpacked`. Blocks; raises `ConvertError`."""
    place = _place(cache)
    with tempfile.TemporaryDirectory(prefix="pointsman-") as folder:
        listed = Path(folder) / "wanted.txt"
        listed.write_text(f"{NAME}=={VERSION} --hash=sha256:{SHA256}\n", encoding="ascii")
        options = ["--disable-pip-version-check", "--no-deps", "--require-hashes", "--no-binary", NAME, "-q", "-d", folder]
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(listed)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False)
        except OSError as error:
            raise ConvertError(f"pip cannot be started: {error.strerror}.") from None
        got = Path(folder) / FILE
        if done.returncode or not got.is_file():
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing."]
            raise ConvertError(f"pip could not fetch {NAME} {VERSION}: {said[-1].strip()[:300]}")
        _verified(got)
        _keep(got, place)
    return place


def _keep(got: Path, place: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".{place.name}.{os.getpid()}")
        part.write_bytes(got.read_bytes())
        os.replace(part, place)
    except OSError as error:
        raise ConvertError(f"{place} cannot be written: {error.strerror}.") from None


def _verified(archive: Path) -> None:
    found = hashlib.sha256()
    try:
        with archive.open("rb") as file:
            while data := file.read(1 << 20):
                found.update(data)
    except OSError as error:
        raise ConvertError(f"{archive} cannot be read: {error.strerror}.") from None
    if found.hexdigest() != SHA256:
        raise ConvertError(f"{archive} is not {NAME} {VERSION} as it was published; remove it and fetch it again.")


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """The converter out of the archive, in a folder of its own that goes away afterwards. Blocks; raises `ConvertError`."""
    _verified(archive)
    with tempfile.TemporaryDirectory(prefix="pointsman-") as folder:
        left = MAX_UNPACKED
        try:
            with tarfile.open(archive, "r:gz") as tar:
                for member in tar:
                    name = _inside(member)
                    if name is None:
                        continue
                    left -= member.size
                    file = tar.extractfile(member)
                    if left < 0 or file is None:
                        raise ConvertError(f"{archive} holds a larger converter than expected; remove it and fetch it again.")
                    target = Path(folder) / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(file.read())
        except (OSError, tarfile.TarError) as error:
            raise ConvertError(f"{archive} cannot be unpacked: {error}.") from None
        yield Path(folder)


def _inside(member: tarfile.TarInfo) -> PurePosixPath | None:
    """Where a plain file of the converter goes; None for everything else."""
    path = PurePosixPath(member.name)
    if not member.isreg() or ".." in path.parts or not path.is_relative_to(_INSIDE):
        return None
    name = path.relative_to(_INSIDE)
    return name if str(name).startswith(_TAKEN) else None
