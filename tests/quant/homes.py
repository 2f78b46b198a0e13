"""A home folder with models of several programs in it, laid out as these programs do. The models are tiny and real."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest

from tests.backends.engines import tiny

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
HOME_VARIABLES = (
    "XDG_DATA_HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "OLLAMA_MODELS", "LLAMA_CACHE",
    "POINTSMAN_MODELS", "HF_HUB_OFFLINE", "POINTSMAN_ADMIN_URL",
)  # fmt: skip
MEDIA = "application/vnd.ollama.image."


def bare(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, which every program is made to use; our own storage in it."""
    home.mkdir(parents=True, exist_ok=True)
    for name in HOME_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("OLLAMA_MODELS", str(home / ".ollama" / "models"))  # not the machine's own service
    return home / ".local" / "share" / "pointsman" / "models"


def model(path: Path, **changes: object) -> Path:
    """A sound tiny model at `path`; `changes` of its metadata with "__" for dots."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_content(**changes))
    return path


@lru_cache(maxsize=256)
def _content(**changes: object) -> bytes:
    """Made once: the weights take a while."""
    with tempfile.TemporaryDirectory() as folder:
        return tiny.write(Path(folder) / "x.gguf", {key.replace("__", "."): value for key, value in changes.items()}).read_bytes()


def ollama(home: Path, name: str, layers: dict[str, bytes], host: str = "registry.ollama.ai", size: int | None = None) -> Path:
    """Writes blobs and a manifest for `NAMESPACE/MODEL:TAG`; `layers` by kind ("model", "license", ...). The manifest."""
    root = home / ".ollama" / "models"
    rows = []
    for kind, data in layers.items():
        digest = hashlib.sha256(data).hexdigest()
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        (root / "blobs" / f"sha256-{digest}").write_bytes(data)
        rows.append({"mediaType": MEDIA + kind, "digest": f"sha256:{digest}", "size": len(data) if size is None else size})
    space, _, tag = name.partition(":")
    manifest = root / "manifests" / host / space / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": {"mediaType": "x", "digest": "sha256:0", "size": 1}, "layers": rows}))
    return manifest


def cached(home: Path, repo: str, files: dict[str, bytes]) -> Path:
    """Puts files into the Hugging Face cache as huggingface_hub does: blobs, and links to them. The snapshot's folder."""
    folder = home / ".cache" / "huggingface" / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for name, data in files.items():
        blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return snapshot
