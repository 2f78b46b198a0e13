"""A small process around one engine, so that no engine outlives the gateway. Standard library only; run by path.

Its standard input is the lifeline. First comes the plan, JSON after its length in four bytes: `argv`, `env` (added to this
environment), `stdin` (text for the engine), `folder` (make a private one, which `{dir}` in an argument names), `files` (name -> text,
written into that folder), `memory` (bytes that the engine's processes may allocate), `nice`, `grace` (seconds between SIGTERM and
SIGKILL), `report` (the engine's standard output is a status channel). Then the pipe stays open; its end, however it comes, means that
the gateway is gone, and the whole process group and every descendant are killed. SIGTERM means stop: the group is asked, given `grace`,
then killed.

Standard error carries the engine's output. Standard output carries status lines, JSON: `{"pid": …}` once, with the folder as `dir`, what an
engine with `report` says itself, and `{"exit": code or -signal, "why": …}` at the end.
The plan comes by pipe and not as arguments, since arguments can be read by every user of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time

ORPHAN_GRACE = 1.0  # seconds an engine gets when its gateway is gone
MEMORY_EVERY = 500  # ms between two looks at the engine's memory
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_TEMP_MAX = 64  # characters of the folder for temporary files: the path of a socket in ours may have a hundred
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _say(line: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # the gateway may be gone
        os.write(1, json.dumps(line).encode() + b"\n")


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the pipe alone has to do."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _read_plan() -> dict[str, object]:
    size = int.from_bytes(_exactly(4), "big")
    plan: dict[str, object] = json.loads(_exactly(size))
    return plan


def _exactly(count: int) -> bytes:
    """Unbuffered, so that nothing behind the plan is swallowed. A gateway that is gone already ends us."""
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data


def _parents() -> dict[int, int]:
    """pid -> parent's pid of every process that /proc shows."""
    found: dict[int, int] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{entry}/stat", "rb") as file:
                    found[int(entry)] = int(file.read().rpartition(b")")[2].split()[1])
    return found


def _descendants() -> set[int]:
    parents, mine = _parents(), {os.getpid()}
    size = 0
    while size != len(mine):
        size = len(mine)
        mine |= {pid for pid, parent in parents.items() if parent in mine}
    return mine - {os.getpid()}


def _allocated(pids: set[int]) -> int:
    """Bytes that these processes hold and that the kernel cannot simply drop (not: pages of mapped files)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{pid}/statm", "rb") as file:
                fields = file.read().split()
            total += (int(fields[1]) - int(fields[2])) * _PAGE
    return total


class Engine:
    """The running engine: one child that leads its own process group."""

    def __init__(self, plan: dict[str, object]) -> None:
        self.plan = plan
        self.folder = ""
        self.pid = 0
        self.why = ""
        self.status: int | None = None

    def start(self) -> bool:
        """Forks and executes the engine. False (and a status line) when its program cannot be run."""
        argv = self._arguments()
        env = {**os.environ, **_strings(self.plan.get("env"))}
        ours, theirs = os.pipe()  # closed by a successful exec, else carries the error
        feed = self._feed()
        self.pid = os.fork()
        if self.pid == 0:
            self._become(argv, env, feed, theirs)
        os.close(theirs)
        os.close(feed)
        error = os.read(ours, 500).decode()
        os.close(ours)
        if error:
            os.waitpid(self.pid, 0)
            _say({"error": f"{argv[0]} cannot be run: {error}", "fatal": True})
            return False
        _say({"pid": self.pid, **({"dir": self.folder} if self.folder else {})})
        return True

    def _arguments(self) -> list[str]:
        files = _strings(self.plan.get("files"))
        if files or self.plan.get("folder"):
            import tempfile  # here and below: most engines need none, and the wrapper has to start fast

            self.folder = tempfile.mkdtemp(prefix="pointsman-", dir="/tmp" if len(tempfile.gettempdir()) > _TEMP_MAX else None)
        for name, text in files.items():
            handle = os.open(os.path.join(self.folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(handle, text.encode())
            os.close(handle)
        argv = self.plan["argv"]
        assert isinstance(argv, list)
        return [str(word).replace("{dir}", self.folder) if self.folder else str(word) for word in argv]

    def _feed(self) -> int:
        """A descriptor from which the engine reads its standard input."""
        text = str(self.plan.get("stdin") or "").encode()
        if not text:
            return os.open(os.devnull, os.O_RDONLY)
        import tempfile

        with tempfile.TemporaryFile() as file:  # unnamed: no size limit, unlike a pipe, and nothing to clean up
            file.write(text)
            file.flush()
            file.seek(0)
            return os.dup(file.fileno())

    def _become(self, argv: list[str], env: dict[str, str], feed: int, errors: int) -> None:
        """In the child: becomes the engine, or writes why not. Never returns."""
        try:
            os.setpgid(0, 0)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
                file.write("500")  # when memory runs out the engine goes first, never the gateway
            os.nice(int(str(self.plan.get("nice") or 0)))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            os.dup2(feed, 0)
            if not self.plan.get("report"):
                os.dup2(2, 1)
            os.execvpe(argv[0], argv, env)
        except OSError as error:
            os.write(errors, (error.strerror or str(error)).encode())
        os._exit(127)

    def signal(self, number: int) -> None:
        """To the engine's group; a group that is gone is fine."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def reap(self) -> bool:
        """True once the engine itself has ended. Its orphans, which became ours, are collected on the way."""
        while self.status is None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self.pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def sweep(self) -> None:
        """Kills whatever the engine left: its group and every descendant, also those that changed group."""
        self.signal(signal.SIGKILL)
        for _ in range(100):  # a process may fork while we look; each round takes what the last one left
            left = _descendants()
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, 0 if left else os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return

    def clean(self) -> None:
        if self.folder:
            import shutil

            shutil.rmtree(self.folder, ignore_errors=True)


def _strings(value: object) -> dict[str, str]:
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}


class Watch:
    """Waits for the first of: engine ended, lifeline ended, told to stop, too much memory, patience over."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.memory = int(str(engine.plan.get("memory") or 0))
        self.grace = float(str(engine.plan.get("grace") or 5.0))
        self.stopping = False
        self.deadline = 0.0
        self.wake, write = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self.poll = select.poll()
        self.poll.register(self.wake, select.POLLIN)
        self.poll.register(0, select.POLLIN)

    def _begin(self, grace: float, why: str) -> None:
        """Asks the engine to end; a second call can only shorten its patience."""
        end = time.monotonic() + grace
        self.deadline = min(self.deadline, end) if self.stopping else end
        self.stopping = True
        self.engine.why = self.engine.why or why
        self.engine.signal(signal.SIGTERM)

    def _timeout(self) -> float | None:
        if self.stopping:
            return max(0.0, self.deadline - time.monotonic()) * 1000
        return MEMORY_EVERY if self.memory else None

    def _lifeline(self) -> None:
        if not os.read(0, 4096):
            self.poll.unregister(0)
            self._begin(min(self.grace, ORPHAN_GRACE), "gateway gone")

    def _check_memory(self) -> None:
        if self.memory and not self.stopping and (used := _allocated(_descendants())) > self.memory:
            self._begin(0.0, f"memory: it used {used >> 20} MiB of the {self.memory >> 20} MiB it may have")

    def run(self) -> None:
        """Blocks until the engine has ended, and then until nothing of it is left."""
        while not self.engine.reap():
            events = dict(self.poll.poll(self._timeout()))
            if self.wake in events:
                if signal.SIGTERM in os.read(self.wake, 4096):
                    self._begin(self.grace, "stopped")
            if 0 in events:
                self._lifeline()
            self._check_memory()
            if self.stopping and time.monotonic() >= self.deadline:
                self.engine.signal(signal.SIGKILL)
                self.deadline += 1.0


def main() -> int:
    """Returns the engine's exit status; 128 + signal when a signal ended it; 127 when it could not be started."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    engine = Engine(_read_plan())  # until here SIGTERM simply ends us: there is no engine yet
    try:
        watch = Watch(engine)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wakeup descriptor carries the number
        if not engine.start():
            return 127
        watch.run()
        engine.sweep()
        _say({"exit": engine.status, "why": engine.why})
        status = engine.status or 0
        return status if status >= 0 else 128 - status
    finally:
        engine.clean()


if __name__ == "__main__":
    sys.exit(main())
