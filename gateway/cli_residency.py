"""`pointsman ps | load | unload | run`: what a running gateway has in memory, and a chat with a model that is loaded for it. Importing it
loads nothing heavy. Blocks.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

if TYPE_CHECKING:
    from gateway.residency_view import ResidencyView, ResidentView

T = TypeVar("T")
DEFAULT_ADMIN_URL = "http://127.0.0.1:8485"
DEFAULT_URL = "http://127.0.0.1:8484"
COMMANDS = {
    "ps": "show which models of a running gateway are in memory",
    "load": "load a model of a running gateway now",
    "unload": "take a model of a running gateway out of memory",
    "run": "load a model of a running gateway, and talk to it",
}
WAIT_SECONDS = 5.0  # of one question; progress is shown in between


class ResidencyError(Exception):
    """It did not work; the text is for the user."""


def arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds COMMANDS, with their flags."""
    for name, help in COMMANDS.items():
        _arguments(name, commands.add_parser(name, help=help, allow_abbrev=False))


def _arguments(name: str, parser: argparse.ArgumentParser) -> None:
    if name != "ps":
        parser.add_argument("model", metavar="MODEL", help="its name, as `pointsman models` or `pointsman ps` lists it")
    if name == "run":
        parser.add_argument("--system", metavar="TEXT", help="a system message to begin with")
        parser.add_argument("--url", help=f"where the gateway is (default: $POINTSMAN_URL or {DEFAULT_URL})")
    else:
        parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--admin-url", help=f"the control plane (default: $POINTSMAN_ADMIN_URL or {DEFAULT_ADMIN_URL})")
    parser.add_argument("--key", help="the key to call with (default: $POINTSMAN_KEY)")


def run(args: argparse.Namespace) -> int:
    """Runs one of the commands; the exit code. Raises ResidencyError or ClientError."""
    does: dict[str, Callable[[argparse.Namespace], int]] = {"ps": _ps, "load": _load, "unload": _unload, "run": _run}
    return does[args.command](args)


def _ps(args: argparse.Namespace) -> int:
    from gateway.residency_view import ResidencyView

    found = _ask(args, "GET", "/api/residency", ResidencyView)
    sys.stdout.write(_json(found) if args.json else table(found))
    return 0


def _load(args: argparse.Namespace) -> int:
    found = _loaded(args)
    sys.stdout.write(_json(found) if args.json else f"{found.name} is loaded: {_size(found.held or found.bytes)}\n")
    return 0


def _unload(args: argparse.Namespace) -> int:
    from gateway.residency_view import ResidentView

    path = f"/api/residency/{quote(args.model, safe='')}/unload?wait={WAIT_SECONDS:g}"
    found = _ask(args, "POST", path, ResidentView)
    while found.state == "unloading":
        _show(f"{found.name}: waiting for {found.busy} calls to end")
        found = _again(args, found.name)
    _show("")
    sys.stdout.write(_json(found) if args.json else f"{found.name} is {found.state}\n")
    return 0


def _run(args: argparse.Namespace) -> int:
    from gateway.chat import Chat
    from gateway.client import Client, ClientError

    with Client(args.url or os.environ.get("POINTSMAN_URL") or DEFAULT_URL, args.key or os.environ.get("POINTSMAN_KEY")) as client:
        chat = Chat(client, args.model, args.system)
        names = [str(entry.get("id")) for entry in client.models()]
        if args.model in names:
            try:
                _loaded(args)
            except ClientError:  # no control plane to ask, or nothing that can be loaded there: the first question loads it
                _show("")
        return chat.run()


def _loaded(args: argparse.Namespace) -> ResidentView:
    """Loads the model and shows how far that is. Raises ResidencyError when it cannot be."""
    from gateway.residency_view import ResidentView

    path = f"/api/residency/{quote(args.model, safe='')}/load?wait={WAIT_SECONDS / 10:g}"
    found = _ask(args, "POST", path, ResidentView)
    while found.state in ("loading", "waiting", "unloading"):
        _show(found.reason or f"loading {found.name}: waiting for memory")
        found = _again(args, found.name, WAIT_SECONDS / 10)
    _show("")
    if found.state != "loaded":
        raise ResidencyError(f"{found.name} is {found.state}: {found.reason or 'somebody unloaded it'}")
    return found


def _again(args: argparse.Namespace, name: str, wait: float = WAIT_SECONDS) -> ResidentView:
    from gateway.residency_view import ResidentView

    return _ask(args, "GET", f"/api/residency/{quote(name, safe='')}?wait={wait:g}", ResidentView)


def _show(text: str) -> None:
    """One line that the next one replaces, where somebody looks."""
    if sys.stderr.isatty():
        from gateway.client import plain

        sys.stderr.write(f"\r\033[K{plain(text)}")
        sys.stderr.flush()


def table(view: ResidencyView) -> str:
    """One line an engine, and what memory there is. Pure."""
    from gateway.client import plain

    rows = [("MODEL", "STATE", "MEMORY", "IDLE", "UNLOADED IN", "CALLS", "")]
    for one in view.engines:
        calls = f"{one.busy}" + (f" +{one.waiting} waiting" if one.waiting else "")
        until = "never (pinned)" if one.pinned else "never" if one.always else _span(one.unload_in) if one.unload_in is not None else "-"
        idle = _span(one.idle) if one.idle is not None else "-"
        memory = _size(one.held or one.bytes) if one.held or one.bytes else "-"
        rows.append((plain(one.name), one.state, memory, idle, until, calls, plain(one.reason)))
    if len(rows) == 1:
        return "the gateway runs no engine\n"
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[6]]).rstrip() for row in rows]
    limit = "no limit" if view.budget is None else f"a budget of {_size(view.budget)}"
    return "\n".join([*lines, f"{_size(view.set_aside)} set aside, {limit}", ""])


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    from gateway.residency_types import size

    return size(count)


def _ask(args: argparse.Namespace, method: str, path: str, type: type[T]) -> T:
    """What the control plane answers, as `type`."""
    import msgspec

    from gateway.client import Client

    url = args.admin_url or os.environ.get("POINTSMAN_ADMIN_URL") or DEFAULT_ADMIN_URL
    with Client(url, args.key or os.environ.get("POINTSMAN_KEY")) as client:
        answer = client.admin(method, path)
    try:
        return msgspec.json.decode(answer, type=type)
    except msgspec.MsgspecError:
        raise ResidencyError(f"{url} answered, but not as a control plane of this version does; is --admin-url right?") from None


def _json(value: Any) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
