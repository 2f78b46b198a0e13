"""Runs the Dockerfile where no Docker is: each stage is a copy of a root file system, each RUN a chroot with mounts of its own.

    python -m tests.deploy.steps --base FOLDER --work FOLDER [--extras "redis kv"] [--bind PATH ...]

`--base` is a Debian root with Python, which stands for the official image: debootstrap --variant=minbase
--include=python3,python3-venv,python3-pip,ca-certificates trixie FOLDER. `--bind`: folders of this machine that pip needs inside.
Needs root.

What comes out is then served as the image says: its user, its environment, its command, root file system read-only, no capability, `/tmp`
and the volumes alone writable; its own health check must pass, a request and a stream that is under way at SIGTERM must be answered, and it
must end with code 0.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.deploy.dockerfile import Stage, Step, context, stages

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
KEY = "sk-of-the-clean-root"
READY_SECONDS = 120.0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Builder:
    """Stages as folders under `work`. Blocks; raises CalledProcessError when a step fails."""

    def __init__(self, base: Path, work: Path, binds: Sequence[str]) -> None:
        self.base, self.work, self.binds = base, work, binds
        self.files = context(ROOT, (DOCKER / "Dockerfile.dockerignore").read_text())

    def folder(self, stage: Stage) -> Path:
        return self.work / f"stage-{stage.name}"

    def build(self, stage: Stage) -> None:
        """Copies the base and does what the stage says."""
        root = self.folder(stage)
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", str(self.base), str(root)], check=True)
        env = {"PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin", "HOME": "/root"}
        place = "/"
        for step in stage.steps:
            began = time.monotonic()
            if step.name == "WORKDIR":
                place = step.text
                (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif step.name == "ENV":
                env |= dict(word.partition("=")[::2] for word in step.words)
            elif step.name == "COPY":
                self._copy(step, root, place)
            elif step.name == "RUN":
                self._run(step, root, place, env)
            say(f"  {step.line:3} {step.name:<11} {time.monotonic() - began:6.1f} s  {step.text[:80]}")

    def _copy(self, step: Step, root: Path, place: str) -> None:
        *sources, target = step.words
        to = root / os.path.join(place, target).lstrip("/")
        if "from" in step.flags:
            made = self.work / f"stage-{step.flags['from']}" / sources[0].lstrip("/")
            subprocess.run(["cp", "-a", str(made), str(to)], check=True)
            return
        for source in sources:
            names = [name for name in self.files if name == source or name.startswith(source.rstrip("/") + "/")]
            if not names:
                raise FileNotFoundError(f"line {step.line}: COPY {source}: nothing of that reaches the builder")
            for name in names:
                inner = Path(name).name if name == source and target.endswith("/") else os.path.relpath(name, source)
                goal = to if inner == "." else to / inner
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, goal)

    def _run(self, step: Step, root: Path, place: str, env: dict[str, str]) -> None:
        mounts = [f"mount --rbind /dev {root}/dev", f"mount -t proc proc {root}/proc", f"cp -L /etc/resolv.conf {root}/etc/resolv.conf"]
        for bind in self.binds:
            made = "mkdir -p" if Path(bind).is_dir() else "touch"
            mounts.append(f"mkdir -p $(dirname {root}{bind}); {made} {root}{bind}; mount --bind {bind} {root}{bind}")
        inside = f"cd {shlex.quote(place)} && {step.text}"
        script = "; ".join(["set -e", *mounts, f"exec chroot {root} /bin/sh -c {shlex.quote(inside)}"])
        handed = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}  # where this machine's pip looks
        subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script], env={**handed, **env}, check=True)


def command(stage: Stage) -> list[str]:
    """What the container runs."""
    return [*stage.last("ENTRYPOINT").words, *stage.last("CMD").words]


def probe(stage: Stage) -> list[str]:
    """The command of the health check."""
    words: list[str] = json.loads(stage.last("HEALTHCHECK").text.partition("CMD")[2])
    return words


class Container:
    """The last stage, served. `root` is its folder, `work` where its volumes lie."""

    def __init__(self, stage: Stage, root: Path, work: Path) -> None:
        self.stage, self.root, self.port = stage, root, _free()
        self.env = {**stage.pairs("ENV"), "POINTSMAN_KEYS": KEY, "POINTSMAN_HEALTH": f"http://127.0.0.1:{self.port}/health"}
        uid, gid = stage.last("USER").text.split(":")
        mounts = [f"mount --bind {root} {root}", f"mount -t proc proc {root}/proc"]
        mounts += [f"mount --bind /dev/{name} {root}/dev/{name}" for name in ("null", "zero", "urandom", "random")]
        for number, volume in enumerate(stage.last("VOLUME").words):
            kept = work / f"volume-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            subprocess.run(["cp", "-a", f"{root}{volume}", str(kept)], check=True)
            mounts.append(f"mount --bind {kept} {root}{volume}")
        mounts += [f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp", f"mount -t tmpfs -o mode=1777 tmpfs {root}/dev/shm"]
        mounts += [f"mount -o remount,bind,ro {root}"]
        as_user = [
            "setpriv",
            f"--reuid={uid}",
            f"--regid={gid}",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
            "--inh-caps=-all",
        ]
        self.enter = ["env", "-i", *(f"{name}={value}" for name, value in self.env.items())]
        inside = shlex.join(["chroot", str(root), *as_user, *self.enter])
        self.script = "; ".join(["set -e", *mounts, f'exec {inside} "$@"'])
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, words: Sequence[str], errors: int | None = None) -> subprocess.Popen[bytes]:
        """Runs a command in the container's place."""
        return subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", self.script, "sh", *words], stderr=errors)

    def healthy(self) -> bool:
        """What the image's health check says."""
        return self.start(probe(self.stage), subprocess.DEVNULL).wait() == 0

    def serve(self) -> None:
        """Starts the image's command; returns when its health check passes and the model answers. TimeoutError: it never did."""
        self.process = self.start([*command(self.stage), "--port", str(self.port)])
        until = time.monotonic() + READY_SECONDS
        while self.process.poll() is None and time.monotonic() < until:
            if self.healthy() and get(self.port, "/ready")[0] == 200:
                return
            time.sleep(0.5)
        raise TimeoutError(f"not ready after {READY_SECONDS:.0f} s, exit code {self.process.returncode}")

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def _free() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body; status 0: nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {KEY}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def ask(port: int, **more: object) -> http.client.HTTPResponse:
    """A chat completion of the built-in model, as far as its head."""
    model = json.loads(get(port, "/v1/models")[1])["data"][0]["id"]
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    )
    return connection.getresponse()


def check(box: Container) -> None:
    """What the module's text promises. AssertionError otherwise."""
    box.serve()
    answer = ask(box.port, max_tokens=16)
    text = json.loads(answer.read())["choices"][0]["message"]["content"]
    assert answer.status == 200 and text, answer.status
    say(f"  answered: {text[:60]!r}")
    wrong = "import pathlib, sys\nfor p in sys.argv[1:]:\n try: pathlib.Path(p, 'x').touch(); sys.exit(p)\n except OSError: pass"
    assert box.start(["python", "-c", wrong, "/", "/opt/pointsman", "/etc/pointsman", "/usr/local"]).wait() == 0, "the root can be written"
    stream = ask(box.port, stream=True, max_tokens=400, ignore_eos=True)
    first = stream.read(64)
    code = box.stop()
    whole = first + stream.read()
    assert whole.rstrip().endswith(b"data: [DONE]"), whole[-200:]
    assert code == 0, code
    say(f"  SIGTERM under a stream: {whole.count(b'data:')} events, all of them; exit code {code}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs the Dockerfile without Docker. Needs root.")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--extras", default="redis")
    parser.add_argument("--bind", action="append", default=[])
    args = parser.parse_args()
    made = stages((DOCKER / "Dockerfile").read_text(), {"EXTRAS": args.extras, "VERSION": "0", "REVISION": "0"})
    builder = Builder(args.base.resolve(), args.work.resolve(), args.bind)
    args.work.mkdir(parents=True, exist_ok=True)
    for stage in made:
        say(f"stage {stage.name} (for {stage.base})")
        builder.build(stage)
    last = builder.folder(made[-1])
    say(f"/opt/pointsman: {sum(p.lstat().st_size for p in (last / 'opt/pointsman').rglob('*')) >> 20} MiB")
    compilers = ["chroot", str(last), "sh", "-c", "! command -v cc gcc g++ clang make"]
    assert subprocess.run(compilers, check=False).returncode == 0, "a compiler is in the last stage"
    box = Container(made[-1], last, args.work.resolve())
    try:
        check(box)
    finally:
        if box.process is not None and box.process.poll() is None:
            box.process.kill()


if __name__ == "__main__":
    main()
