"""`pointsman experiments ls | show | stop | plan | simulate`: its command line, and where it gets its answers from: a running gateway's
control plane, the store's file, or the configuration alone. Importing it loads nothing heavy. Blocks.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from gateway.experiments.api import ExperimentView
    from routing.experiments.words import Design, Result

T = TypeVar("T")
DEFAULT_ADMIN_URL = "http://127.0.0.1:8485"


class ExperimentsError(Exception):
    """It did not work; the text is for the user. `usage`: because it was asked for wrongly."""

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sub-commands and their flags."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ls|show|stop|plan|simulate")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, allow_abbrev=False)
        made.add_argument("--json", action="store_true", help="as JSON")
        return made

    ls = command("ls", "list experiments and how they stand")
    show = command("show", "all that is known of one")
    show.add_argument("name", metavar="NAME")
    show.add_argument("--html", metavar="FILE", type=Path, help="write the report there, one page that needs nothing else")
    stop = command("stop", "end one; requests go by the route as it is, or by the promoted arm")
    stop.add_argument("name", metavar="NAME")
    stop.add_argument("--promote", metavar="ARM", help="send everybody to this arm from now on")
    stop.add_argument("--reason", metavar="TEXT", default="", help="for the audit trail")
    for made in (ls, show, stop):
        made.add_argument("--admin-url", help=f"the control plane (default: $POINTSMAN_ADMIN_URL or {DEFAULT_ADMIN_URL})")
        made.add_argument("--key", help="an admin key (default: $POINTSMAN_KEY)")
    for made in (ls, show):
        made.add_argument("--store", metavar="FILE", type=Path, help="read the file of experiments instead; no gateway need run")
        _config(made, "with --store: work it out anew for this configuration's design")
    _plan_arguments(command("plan", "how many users and days an effect needs"))
    simulate = command("simulate", "false alarms and power of a configured experiment, by simulation")
    simulate.add_argument("name", metavar="NAME")
    _config(simulate, "the configuration (default: $POINTSMAN_CONFIG)")
    simulate.add_argument("--runs", metavar="N", type=_count, default=500, help="simulated experiments of each kind (default: 500)")
    simulate.add_argument("--seed", metavar="S", type=int, default=1, help="the same seed gives the same numbers (default: 1)")
    simulate.add_argument("--workers", metavar="N", type=_count, default=1, help="processes that share the work (default: 1)")
    _numbers(simulate)


def _plan_arguments(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("name", metavar="NAME", nargs="?", help="an experiment of the configuration, instead of numbers")
    _config(plan, "the configuration (default: $POINTSMAN_CONFIG)")
    _numbers(plan)
    plan.add_argument("--kind", choices=["boolean", "mean", "log"], help="of the metric (log: positive, with a heavy tail, as latencies)")
    plan.add_argument("--effect", metavar="SHARE", type=_number, help="the relative change to find (0.05: 5 %% more)")
    plan.add_argument("--arms", metavar="N", type=_count, help="arms, with control (default: 2, of equal shares)")
    plan.add_argument("--alpha", metavar="SHARE", type=_number, help="false alarms allowed (default: 0.05)")
    plan.add_argument("--power", metavar="SHARE", type=_number, help="how surely it is to be found (default: 0.9)")
    plan.add_argument("--users-per-day", metavar="N", type=_number, help="new users a day that take part")


def _numbers(parser: argparse.ArgumentParser) -> None:
    """What a metric is like now."""
    parser.add_argument("--baseline", metavar="X", type=_number, help="the metric's value now: a share (0.12), or a mean")
    parser.add_argument("--sd", metavar="X", type=_number, help="its standard deviation; for log: of the logarithm")
    parser.add_argument("--requests-per-user", metavar="N", type=_number, default=1.0, help="on average (default: 1)")
    parser.add_argument("--alike", metavar="SHARE", type=_number, default=0.0, help="how alike those of one user are, 0 to 1 (default: 0)")
    parser.add_argument("--store", metavar="FILE", type=Path, help="take it from the requests that this file of experiments has recorded")


def _config(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, help=help)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000000")
    return int(text)


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not abs(found) < 1e15:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return found


def run(args: argparse.Namespace) -> int:
    """Runs one of the commands; the exit code. Raises ExperimentsError or ClientError."""
    does: dict[str, Callable[[argparse.Namespace], str]] = {
        "ls": _ls, "show": _show, "stop": _stop, "plan": _plan, "simulate": _simulate,
    }  # fmt: skip
    sys.stdout.write(does[args.action](args))
    return 0


def _ls(args: argparse.Namespace) -> str:
    from gateway import cli_experiments_text as text

    views = _views(args)
    return _json({"experiments": views}) if args.json else text.listing(views)


def _views(args: argparse.Namespace) -> list[ExperimentView]:
    import msgspec

    from gateway.experiments.api import ExperimentView, view

    if args.store is not None:
        from gateway.experiments import offline

        return [view(found) for found in _told(offline.results, args.store, _designs(args))]
    found = _ask(args, "GET", "/api/experiments", dict[str, list[ExperimentView]])
    if "experiments" not in found:
        raise ExperimentsError("the control plane answered, but not with experiments; is it a gateway of this version?")
    return msgspec.convert(found["experiments"], list[ExperimentView])


def _show(args: argparse.Namespace) -> str:
    import time

    from gateway import cli_experiments_text as text

    found = _result(args)
    if args.html is not None:
        from gateway.experiments.report import page

        try:
            args.html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise ExperimentsError(f"cannot write {args.html}: {error.strerror or 'unknown reason'}") from None
        sys.stderr.write(f"written: {args.html}\n")
    return _json(found) if args.json else text.result(found, time.time())


def _result(args: argparse.Namespace) -> Result:
    from routing.experiments.words import Result

    if args.store is None:
        told: Result = _ask(args, "GET", f"/api/experiments/{_quoted(args.name)}", Result)
        return told
    from gateway.experiments import offline

    design = _configured(args) if args.config is not None else None
    designs = [] if design is None else [design]
    found = {one.name: one for one in _told(offline.results, args.store, designs)}
    if args.name not in found:
        there = f"; there are: {', '.join(found)}" if found else ""
        raise ExperimentsError(f"{args.store} holds no result of an experiment '{args.name}'{there}", usage=True)
    return found[args.name]


def _designs(args: argparse.Namespace) -> list[Design]:
    """The experiments of the configuration that was named; none where none was."""
    if args.config is None:
        return []
    from gateway.experiments import offline

    return [*_told(offline.designs, args.config).values()]


def _stop(args: argparse.Namespace) -> str:
    from gateway.experiments.api import ExperimentView

    action = "stop" if args.promote is None else "promote"
    path = f"/api/experiments/{_quoted(args.name)}/{action}"
    done = _ask(args, "POST", path, ExperimentView, {"arm": args.promote, "reason": args.reason})
    if args.json:
        return _json(done)
    where = "requests go by the route as it is" if done.winner is None else f"everybody gets {done.winner}"
    return f"{done.name} is {done.status}: {where}\n"


def _plan(args: argparse.Namespace) -> str:
    from gateway import cli_plan

    found = _told(cli_plan.plan, args, _configured(args))
    return _json(found) if args.json else cli_plan.text(found)


def _simulate(args: argparse.Namespace) -> str:
    from gateway import cli_simulate

    design = _configured(args)
    assert design is not None
    found = _told(cli_simulate.run, args, design)
    return _json(found) if args.json else cli_simulate.text(found)


def _configured(args: argparse.Namespace) -> Design | None:
    """The design of the experiment that was named; None where numbers are to do."""
    if args.name is None:
        return None
    file = args.config or os.environ.get("POINTSMAN_CONFIG")
    if not file:
        raise ExperimentsError(f"say where '{args.name}' is configured: --config FILE", usage=True)
    from gateway.experiments import offline

    found = _told(offline.designs, Path(file))
    if args.name not in found:
        there = f"; there are: {', '.join(found)}" if found else ", nor any other"
        raise ExperimentsError(f"{file} has no experiment '{args.name}'{there}", usage=True)
    return found[args.name]


def _told(what: Callable[..., T], *args: object, usage: bool = True) -> T:
    """What a function says; its ValueError is the user's to mend."""
    try:
        return what(*args)
    except ValueError as error:
        raise ExperimentsError(str(error), usage=usage) from None


def _ask(args: argparse.Namespace, method: str, path: str, type: Any, body: object = None) -> Any:
    """What the control plane answers, as `type`."""
    import msgspec

    from gateway.client import Client

    url = args.admin_url or os.environ.get("POINTSMAN_ADMIN_URL") or DEFAULT_ADMIN_URL
    with Client(url, args.key or os.environ.get("POINTSMAN_KEY")) as client:
        answer = client.admin(method, path, body)
    try:
        return msgspec.json.decode(answer, type=type)
    except msgspec.MsgspecError:
        raise ExperimentsError(f"{url} answered, but not as a control plane of this version does; is --admin-url right?") from None


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _json(value: object) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
