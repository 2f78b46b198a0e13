"""The chart, rendered: `python -m tests.deploy.charts` writes deploy/kubernetes/*.yaml anew, with the Helm that `helm()` finds.

Each of these files names in its head the SHA-512 of what it was made from, so that a chart that has changed since shows without Helm too.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gateway.config import Config, parse
from tests.deploy import install_helm

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART, MANIFESTS, EXAMPLES = DEPLOY / "helm" / "pointsman", DEPLOY / "kubernetes", DEPLOY / "examples"
NAME = "pointsman"  # of the release and of the namespace
# The file in deploy/kubernetes → the values that it is made with, beside the chart's own.
PROFILES: Mapping[str, Path | None] = {
    "pointsman": None, "gpu-vllm": EXAMPLES / "gpu-vllm" / "values.yaml", "edge-llamacpp": EXAMPLES / "edge-llamacpp" / "values.yaml",
}  # fmt: skip
AGAIN = "python -m tests.deploy.install_helm && python -m tests.deploy.charts"
SECONDS = 60
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, ten times as fast, where it was built in

Doc = dict[str, Any]


class RenderError(Exception):
    """What Helm said."""


def helm() -> str | None:
    """The program: $HELM_BIN, on the path, or where `install_helm` puts it; None: there is none."""
    named = os.environ.get("HELM_BIN") or shutil.which("helm")
    own = install_helm.place()
    return named or (str(own) if own.exists() else None)


def call(*arguments: str) -> str:
    """What Helm writes. Blocks. Raises RenderError with its words, RuntimeError when there is no Helm."""
    program = helm()
    if program is None:
        raise RuntimeError(f"there is no helm; install one, or run: {AGAIN}")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise RenderError(done.stderr)
    return done.stdout


def render(*values: Path, more: Sequence[str] = ("--skip-tests",)) -> str:
    """The chart with these files of values, as text."""
    files = [word for path in values for word in ("-f", str(path))]
    return call("template", NAME, str(CHART), "--namespace", NAME, "--kube-version", "1.34.0", *files, *more)


def read(text: str) -> list[Doc]:
    """The objects in a YAML text, without empty ones."""
    return [doc for doc in yaml.load_all(text, Loader=_LOADER) if doc]


@cache
def _shipped(profile: str) -> list[Doc]:
    return read(manifest(profile).read_text(encoding="utf-8"))


def shipped(profile: str) -> list[Doc]:
    """The objects of a file in deploy/kubernetes, to do with as one likes."""
    return copy.deepcopy(_shipped(profile))


def of_kind(docs: Sequence[Doc], *kinds: str) -> list[Doc]:
    return [doc for doc in docs if doc["kind"] in kinds]


def pods(docs: Sequence[Doc]) -> Iterator[tuple[str, Doc]]:
    """(name, template) of each workload's pods, a plain pod too."""
    for doc in docs:
        if doc["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            yield f"{doc['kind']}/{doc['metadata']['name']}", doc["spec"]["template"]
        elif doc["kind"] == "Pod":
            yield f"Pod/{doc['metadata']['name']}", doc


def gateway(docs: Sequence[Doc]) -> Doc:
    """The gateway's Deployment."""
    return next(d for d in of_kind(docs, "Deployment") if d["metadata"]["labels"]["app.kubernetes.io/component"] == "gateway")


def configuration(docs: Sequence[Doc]) -> str:
    """The gateway's configuration as it is mounted."""
    text: str = of_kind(docs, "ConfigMap")[0]["data"]["config.yaml"]
    return text


def variables(docs: Sequence[Doc]) -> dict[str, str]:
    """The gateway's environment, with a text in the place of each secret."""
    env = gateway(docs)["spec"]["template"]["spec"]["containers"][0]["env"]
    secrets = {"POINTSMAN_REDIS": "redis://:secret@redis:6380/0"}
    return {entry["name"]: entry.get("value") or secrets.get(entry["name"], f"secret-of-{entry['name']}") for entry in env}


def configured(docs: Sequence[Doc]) -> Config:
    """What the gateway makes of its configuration there. Raises ConfigError."""
    return parse(configuration(docs), variables(docs))


def digest(profile: str) -> str:
    """Of all that the manifest is made from: the chart's files with their names, and the values."""
    files = sorted(path for path in CHART.rglob("*") if path.is_file())
    values = PROFILES[profile]
    total = hashlib.sha512()
    for path in [*files, *([values] if values is not None else [])]:
        content = path.read_bytes()
        total.update(f"{path.relative_to(DEPLOY).as_posix()} {len(content)}\n".encode() + content)
    return total.hexdigest()[:64]


def head(profile: str) -> str:
    values = PROFILES[profile]
    made = "the chart deploy/helm/pointsman" + (f" and deploy/{values.relative_to(DEPLOY).as_posix()}" if values is not None else "")
    return f"# Made from {made} by `python -m tests.deploy.charts`; change those instead.\n# Sources: sha512:{digest(profile)}\n"


def manifest(profile: str) -> Path:
    return MANIFESTS / f"{profile}.yaml"


def made(profile: str) -> str:
    """What the file in deploy/kubernetes must hold. Needs Helm."""
    values = PROFILES[profile]
    lines = render(*([values] if values is not None else [])).splitlines()
    return head(profile) + "\n".join(line.rstrip() for line in lines) + "\n"


def main() -> int:
    MANIFESTS.mkdir(exist_ok=True)
    for profile in PROFILES:
        try:
            manifest(profile).write_text(made(profile), encoding="utf-8")
        except (RenderError, RuntimeError) as error:
            sys.stderr.write(f"charts: {profile}: {error}\n")
            return 1
        sys.stdout.write(f"{manifest(profile).relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
