"""`pointsman pull · ls · show · rm · export · import`: the models of this machine on the command line.

The work is `quant.models`, `quant.pull` and `quant.bundle`; here are the arguments, the line of progress, and what is said at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quant.models import Model

COMMANDS = ("pull", "ls", "show", "rm", "export", "import")
REDRAW_SECONDS = 0.1
SPEED_SECONDS = 10.0  # the speed shown is that of so long ago until now
STATUS_SECONDS = 3.0  # how long a gateway may take to say what it serves
DEFAULT_ADMIN_URL = "http://127.0.0.1:8485"


class LibraryError(Exception):
    """It cannot be done; the text is for the user. `usage`: it was asked for wrongly."""

    def __init__(self, text: str, *, usage: bool = False) -> None:
        super().__init__(text)
        self.usage = usage


def arguments(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the six commands to those of `pointsman`."""
    pull = commands.add_parser("pull", help="fetch a model from Hugging Face", allow_abbrev=False)
    pull.add_argument("model", metavar="MODEL", help="hf:OWNER/REPOSITORY[:QUANT]")
    pull.add_argument("--offline", action="store_true", help="ask nobody: only say whether it is here")
    pull.add_argument("--no-vision", action="store_true", help="without the projector of a model that sees")
    listed = commands.add_parser("ls", help="list the models on this machine, whoever put them there", allow_abbrev=False)
    listed.add_argument("--json", action="store_true", help="as JSON")
    listed.add_argument("--admin-url", help=f"a running gateway's control plane (default: $POINTSMAN_ADMIN_URL or {DEFAULT_ADMIN_URL})")
    listed.add_argument("--key", help="an admin key (default: $POINTSMAN_KEY)")
    show = commands.add_parser("show", help="show what a model is", allow_abbrev=False)
    show.add_argument("model", metavar="MODEL", help="a name of `pointsman ls`, a GGUF file, or builtin")
    show.add_argument("--json", action="store_true", help="as JSON")
    show.add_argument("--template", action="store_true", help="print its chat template instead")
    gone = commands.add_parser("rm", help="remove a model that was pulled or imported", allow_abbrev=False)
    gone.add_argument("model", metavar="MODEL", nargs="?", help="a name of `pointsman ls`")
    gone.add_argument("--unfinished", action="store_true", help="what downloads left that were given up")
    gone.add_argument("--yes", action="store_true", help="do not ask")
    export = commands.add_parser("export", help="pack a model into one file for a machine without a network", allow_abbrev=False)
    export.add_argument("model", metavar="MODEL", help="a name of `pointsman ls`, a GGUF file, or builtin")
    export.add_argument("--out", metavar="FILE", type=Path, required=True, help="what to write, such as model.tar")
    export.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    taken = commands.add_parser("import", help="take a model from a file that `export` made", allow_abbrev=False)
    taken.add_argument("file", metavar="FILE", type=Path, help="the file")
    taken.add_argument("--as", dest="name", metavar="NAME", default="", help="what to call it (default: as it was called)")


def run(args: argparse.Namespace) -> int:
    """Runs one of the commands; the exit code. Blocks. Raises `LibraryError`."""
    with _told():
        return _RUN[args.command](args)


@contextmanager
def _told() -> Iterator[None]:
    from quant.bundle import BundleError
    from quant.hub import HubError
    from quant.models import ModelError

    try:
        yield
    except (HubError, ModelError, BundleError) as error:
        raise LibraryError(str(error)) from None


# -- pull ---------------------------------------------------------------------------------------------------------------------------------


def _pull(args: argparse.Namespace) -> int:
    from gateway.cli_library_text import size
    from quant import pull

    def waiting() -> None:
        sys.stderr.write("another process fetches from this repository; waiting for it\n")

    with Progress() as progress:
        done = pull.pull(args.model, offline=args.offline, vision=not args.no_vision, progress=progress, waiting=waiting)
    how = f"{size(done.fetched)} fetched" if done.fetched else "it was here already"
    if done.where == "huggingface":
        how = "it is in the Hugging Face cache already and is used there"
    licence = f", licence {done.licence}" if done.licence else ""
    sys.stdout.write(f"{done.ref}: {size(done.size)}{licence}; {how}\n  {done.path}\n  pointsman serve --model {done.ref}\n")
    return 0


class Progress:
    """A line on a terminal: how much, how fast, how long still. Elsewhere a line each tenth. A context, which clears its line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._drawn, self._terminal, self._tenths = clock, float("-inf"), sys.stderr.isatty(), 0
        self._seen: deque[tuple[float, int]] = deque(maxlen=256)

    def __enter__(self) -> Progress:
        return self

    def __call__(self, name: str, done: int, total: int) -> None:
        now = self._clock()
        if self._terminal and now - self._drawn < REDRAW_SECONDS and done < total:
            return
        self._drawn = now
        line = self._line(name, done, total, now)
        tenths = 10 * done // total if total else 10
        if self._terminal:
            sys.stderr.write(f"\r{line}\x1b[K")
            sys.stderr.flush()
        elif tenths > self._tenths:
            sys.stderr.write(line + "\n")
        self._tenths = tenths

    def _line(self, name: str, done: int, total: int, now: float) -> str:
        from gateway.cli_library_text import progress

        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # a file is fetched anew
        while len(self._seen) > 1 and now - self._seen[0][0] > SPEED_SECONDS:
            self._seen.popleft()
        self._seen.append((now, done))
        begun, before = self._seen[0]
        return progress(name, done, total, (done - before) / (now - begun) if now > begun else 0.0)

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


# -- ls, show -----------------------------------------------------------------------------------------------------------------------------


def _ls(args: argparse.Namespace) -> int:
    from gateway import cli_library_text as text
    from quant import models, pull

    found = models.every()
    served = _served(args)
    parts = pull.unfinished()
    if args.json:
        sys.stdout.write(text.listing_json(found, served))
    else:
        sys.stdout.write(text.listing(found, served, Path.home()))
        if parts:
            left = sum(part.stat().st_size for part in parts if part.exists())
            sys.stdout.write(
                f"{len(parts)} unfinished downloads ({text.size(left)}): the same `pull` goes on, `pointsman rm --unfinished` ends them\n"
            )
    return 0


def _served(args: argparse.Namespace) -> dict[str, str] | None:
    """Which files a running gateway's engines have, and their state. None when no gateway says."""
    import msgspec

    from gateway.client import Client, ClientError

    url = args.admin_url or os.environ.get("POINTSMAN_ADMIN_URL") or DEFAULT_ADMIN_URL
    try:
        with Client(url, args.key or os.environ.get("POINTSMAN_KEY"), timeout=STATUS_SECONDS) as client:
            engines = msgspec.json.decode(client.admin("GET", "/api/status"))["engines"]
        return {os.path.realpath(engine["model"]): str(engine["state"]) for engine in engines}
    except ClientError as error:
        if args.admin_url:
            raise LibraryError(str(error)) from None
        return None
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return None  # whoever listens there is no gateway


def _show(args: argparse.Namespace) -> int:
    from gateway import cli_library_text as text
    from quant import models

    model = models.find(args.model)
    if model.fault and args.template:
        raise LibraryError(f"{model.name} cannot be used: {model.fault.rstrip('.')}.")
    if args.template:
        template = models.template(model)
        if not template:
            raise LibraryError(f"{model.name} has no chat template of its own")
        sys.stdout.write(text.printable(template) + "\n")
        return 0
    detail = models.detail(model)
    sys.stdout.write(text.shown_json(model, detail) if args.json else text.shown(model, detail))
    return 1 if model.fault else 0


# -- rm -----------------------------------------------------------------------------------------------------------------------------------


def _rm(args: argparse.Namespace) -> int:
    from gateway.cli_library_text import size
    from quant import models, pull

    if bool(args.model) == args.unfinished:
        raise LibraryError("name one model, or write --unfinished", usage=True)
    if args.unfinished:
        parts = pull.unfinished()
        _ask(f"remove {len(parts)} unfinished downloads ({size(sum(part.stat().st_size for part in parts))})?", args.yes)
        for part in parts:
            part.unlink(missing_ok=True)
        return 0
    model = models.find(args.model)
    if not model.owned:
        models.remove(model)  # says why not
    _ask(f"remove {model.name} ({size(model.bytes)}, {model.path.parent})?", args.yes)
    for path in models.remove(model):
        sys.stdout.write(f"removed {path}\n")
    return 0


def _ask(question: str, yes: bool) -> None:
    """Goes on only when the user agrees; without a terminal there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise LibraryError("there is no terminal to ask on; add --yes to remove it", usage=True)
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    answer = ""
    with contextlib.suppress(UnicodeDecodeError):
        answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        raise LibraryError("nothing was removed")


# -- export, import -----------------------------------------------------------------------------------------------------------------------


def _export(args: argparse.Namespace) -> int:
    from gateway.cli_library_text import size
    from quant import bundle, models

    model: Model = models.find(args.model)
    with Progress() as progress:
        contents = bundle.export(model, args.out, overwrite=args.overwrite, progress=progress)
    for entry in contents.files:
        sys.stdout.write(f"{entry.sha256[:16]}…  {size(entry.size):>10}  {entry.role:<9}  {entry.name}\n")
    sys.stdout.write(f"{args.out}: {model.name}{', licence ' + contents.licence if contents.licence else ''}\n")
    sys.stdout.write(f"  on the other machine: pointsman import {args.out.name}\n")
    return 0


def _import(args: argparse.Namespace) -> int:
    from gateway.cli_library_text import size
    from quant.bundle_read import unpack

    with Progress() as progress:
        done = unpack(args.file, name=args.name, progress=progress)
    how = "it was here already" if done.already else "verified and placed"
    sys.stdout.write(f"{done.name}: {size(done.size)}{', licence ' + done.licence if done.licence else ''}; {how}\n  {done.path}\n")
    sys.stdout.write(f"  pointsman serve --model {done.name}\n")
    return 0


_RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    "pull": _pull, "ls": _ls, "show": _show, "rm": _rm, "export": _export, "import": _import,
}  # fmt: skip
