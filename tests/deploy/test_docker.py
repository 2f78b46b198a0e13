"""deploy/docker: what the Dockerfile says, what of the repository reaches it, and that the program runs from where it is put.

The steps themselves are run by hand in a clean root: `python -m tests.deploy.steps` says how.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from gateway.cli import _parser
from gateway.config_types import ServerConfig
from tests.deploy.dockerfile import Stage, context, fill, stages, steps
from tests.deploy.steps import command, probe

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
TEXT = (DOCKER / "Dockerfile").read_text()
IGNORE = (DOCKER / "Dockerfile.dockerignore").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_SERVING = {"test", "dev", "recipe", "quant"}  # the last has no wheels, and an image makes no models
BUILD, LAST = stages(TEXT)


def pins(lock: Path) -> dict[str, Version]:
    """What a lock holds. AssertionError: an entry without a hash."""
    out = {}
    for entry in re.split(r"\n(?=\S)", lock.read_text()):
        if not entry.startswith("#"):
            assert "--hash=sha256:" in entry, entry.splitlines()[0]
            name, _, version = entry.split()[0].partition("==")
            out[name] = Version(version)
    return out


# --- the reader
def test_reader() -> None:
    text = (
        "ARG A=x\n# note\nFROM base:${A} AS one\nARG B=2\nRUN echo ${B} \\\n  # inside\n  $HOME ${C:-d}\nFROM one\nCOPY --from=one /a /b\n"
    )
    one, two = stages(text, {"A": "y"})
    assert (one.base, one.name, two.base, two.name) == ("base:y", "one", "one", "1")
    assert one.last("RUN").text == "echo 2   $HOME d" and one.last("RUN").line == 5
    assert two.last("COPY").flags == {"from": "one"} and two.last("COPY").words == ["/a", "/b"]


def test_reader_refuses() -> None:
    with pytest.raises(ValueError, match="line 1: ONBUILD is no instruction"):
        list(steps("ONBUILD RUN x"))
    with pytest.raises(ValueError, match="line 1: RUN before FROM"):
        stages("RUN x")
    with pytest.raises(KeyError):
        Stage("a", "b").last("CMD")
    assert fill("${A} ${B} ${C:-c}", {"A": "1"}) == "1 ${B} c"


# --- what reaches the builder
def test_context_has_what_is_copied_and_no_more() -> None:
    files = context(ROOT, IGNORE)
    tops = {name.split("/")[0] for name in files}
    assert tops == {"LICENSE", "backends", "benchmarks", "deploy", "gateway", "quant", "requirements.lock", "routing"}
    assert [name for name in files if name.startswith("deploy/") and not re.fullmatch(r"deploy/docker/extras/\w+\.lock", name)] == []
    assert [name for name in files if "__pycache__" in name or name.endswith((".pyc", ".env", ".key"))] == []
    for step in BUILD.steps:
        if step.name == "COPY":
            *sources, _ = step.words
            assert all(any(name == s or name.startswith(s + "/") for name in files) for s in sources), step.text


def test_all_packages_are_copied() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    copied = {step.words[0] for step in BUILD.steps if step.name == "COPY"}
    assert packages <= copied and {"LICENSE", "requirements.lock"} <= copied


def test_ignore_file(tmp_path: Path) -> None:
    for name in ("a/b.py", "a/__pycache__/b.pyc", "c/d", "e.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert context(tmp_path, "# all\n**\n!a/**\n!*.lock\n**/__pycache__\n") == ["a/b.py"]
    assert context(tmp_path, "**\n!a/b.py\n!e.lock\n") == ["a/b.py", "e.lock"]


# --- what comes out
def test_last_stage() -> None:
    assert LAST.last("USER").text == "10001:10001" and LAST.last("STOPSIGNAL").text == "SIGTERM"
    env = LAST.pairs("ENV")
    for name, value in env.items():
        if name.endswith("HOME"):
            assert value.startswith(tuple(LAST.last("VOLUME").words)), name
    assert not any(re.search("KEY|TOKEN|SECRET|PASSWORD", name) for name in env)
    words = command(LAST)
    assert words[0] == "pointsman" and _parser().parse_args(words[1:]).host == "0.0.0.0"
    assert LAST.last("EXPOSE").words == [str(ServerConfig().port)]
    labels = LAST.pairs("LABEL")
    assert labels["org.opencontainers.image.licenses"] == PROJECT["license"]
    assert {"title", "description", "version", "revision"} <= {name.rpartition(".")[2] for name in labels}


def test_no_compiler_and_one_base() -> None:
    runs = " ".join(step.text for step in LAST.steps if step.name == "RUN")
    assert not re.search(r"\b(gcc|g\+\+|build-essential|clang|make|pip)\b", runs)
    assert BUILD.base == LAST.base and re.fullmatch(r"python:3\.1[1-3]-slim-\w+", LAST.base)
    installs = [step.text for step in BUILD.steps if "pip" in step.text]
    assert len(installs) == 1 and "--require-hashes" in installs[0] and "--only-binary :all:" in installs[0]


def test_health_check_asks_the_gateway() -> None:
    program, *arguments = probe(LAST)
    assert program == "python"
    env = {**os.environ, "POINTSMAN_HEALTH": "http://127.0.0.1:9/health"}  # discard: nobody listens
    found = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 1 and "refused" in found.stderr


def test_runs_from_its_folder(tmp_path: Path) -> None:
    """The five packages alone, read-only, are the program."""
    for name in context(ROOT, IGNORE):
        if not name.startswith(("deploy", "requirements")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    program = "import gateway.cli, sys; sys.stderr.write(gateway.__file__); sys.exit(gateway.cli.main(['check', '--schema']))"
    done = subprocess.run([sys.executable, "-P", "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr.startswith(str(tmp_path)), done.stderr
    assert not list(tmp_path.rglob("*.pyc"))


# --- extras
@pytest.mark.parametrize("extra", sorted(set(PROJECT["optional-dependencies"]) - NOT_SERVING))
def test_extra_has_a_lock(extra: str) -> None:
    """It pins what the extra names, within its limits, and nothing that the base has pinned."""
    base, own = pins(ROOT / "requirements.lock"), pins(DOCKER / "extras" / f"{extra}.lock")
    assert not set(base) & set(own)
    for text in PROJECT["optional-dependencies"][extra]:
        wanted = Requirement(text)
        assert (own | base)[wanted.name.lower()] in wanted.specifier


def test_extras_fit_together() -> None:
    """Any of them in one image: no two pin another version of the same package."""
    found: dict[str, Version] = {}
    for lock in sorted((DOCKER / "extras").glob("*.lock")):
        for name, version in pins(lock).items():
            assert found.setdefault(name, version) == version, f"{name} in {lock.name}"
    tested = pins(ROOT / "requirements-test.lock")  # what the tests ran with is what is installed
    assert {name for name, version in found.items() if tested.get(name, version) != version} == set()
    named = re.search(r"# Any of ([\w ]+), separated", TEXT)
    assert named is not None and named[1].split() == sorted(lock.stem for lock in (DOCKER / "extras").glob("*.lock"))


# --- by other tools, where they are
def test_hadolint() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    found = str(tool) if tool.exists() else shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([found, "--no-color", str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
