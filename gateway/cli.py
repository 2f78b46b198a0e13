"""The command `pointsman`: serve, check, models, chat, providers, probe, explain, experiments, quant, bench. Importing it loads nothing
heavy; each command loads what it needs.

Exit codes: 0; 2 for a wrong command line or configuration; 1 for whatever else went wrong.
A user's mistake is one sentence, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import cli_bench
from gateway.cli_experiments import arguments as experiments_arguments
from gateway.cli_library import COMMANDS as LIBRARY
from gateway.cli_library import arguments as library_arguments
from gateway.cli_machine import COMMANDS as MACHINE
from gateway.cli_machine import arguments as machine_arguments
from gateway.cli_quant import arguments as quant_arguments
from gateway.cli_residency import COMMANDS as RESIDENCY
from gateway.cli_residency import arguments as residency_arguments
from gateway.version import VERSION

if TYPE_CHECKING:
    from gateway.config import Config, Flags

DEFAULT_URL = "http://127.0.0.1:8484"
_EPILOG = """examples:
  pointsman serve                                        the built-in toy model
  pointsman serve --model ~/models/Qwen3-4B-Q4_K_M.gguf  a model of yours
  pointsman serve --model hf:Qwen/Qwen3-0.6B-GGUF:Q8_0   one from Hugging Face
  pointsman serve --upstream http://127.0.0.1:8000/v1    all models of another server
  pointsman chat                                         talk to what is served
"""


class UsageError(Exception):
    """What the user asked for cannot be done as asked: exit code 2."""


class Failure(Exception):
    """It was asked for rightly and did not work: exit code 1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Blocks. Raises SystemExit (argparse) for --help and a wrong command line."""
    args = cli_bench.asked(sys.argv[1:] if argv is None else argv) or _parser().parse_args(argv)
    try:
        return _run(args)
    except UsageError as error:
        return _complain(str(error), 2)
    except Failure as error:
        return _complain(str(error), 1)
    except BrokenPipeError:  # `pointsman models | head`: whoever read us has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 1


def _run(args: argparse.Namespace) -> int:
    commands = {
        "serve": _serve, "check": _check, "models": _models, "chat": _chat, "providers": _providers, "probe": _probe, "explain": _explain,
        "experiments": _experiments, "quant": _quant, **dict.fromkeys(LIBRARY, _library),
        **dict.fromkeys(RESIDENCY, _residency), **dict.fromkeys(MACHINE, _machine), "bench": cli_bench.run,
    }  # fmt: skip
    return commands[args.command](args)


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"pointsman: {text}\n")
    return code


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; write a number from 0 (any free one) to 65535")
    return int(text)


def _admin_port(text: str) -> int | str:
    return "off" if text == "off" else _port(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 256")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    shape = partial(argparse.RawDescriptionHelpFormatter, max_help_position=34)
    parser = argparse.ArgumentParser(
        prog="pointsman", description="One OpenAI-compatible endpoint in front of local models, engines and APIs.",
        epilog=_EPILOG, formatter_class=shape, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"pointsman {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _serve_arguments(commands.add_parser("serve", help="serve models until stopped", formatter_class=shape, allow_abbrev=False))

    check = commands.add_parser("check", help="check a configuration file", formatter_class=shape, allow_abbrev=False)
    check.add_argument("--config", metavar="FILE", type=Path, help="the file to check (default: $POINTSMAN_CONFIG)")
    check.add_argument("--schema", action="store_true", help="print the JSON Schema of the file instead")

    models = commands.add_parser("models", help="list what a running gateway serves", formatter_class=shape, allow_abbrev=False)
    _client_arguments(models)

    chat = commands.add_parser("chat", help="talk to a model of a running gateway", formatter_class=shape, allow_abbrev=False)
    chat.add_argument("model", metavar="MODEL", nargs="?", help="its name (default: the first one listed)")
    chat.add_argument("--system", metavar="TEXT", help="a system message to begin with")
    _client_arguments(chat)

    providers = commands.add_parser("providers", help="list the providers that one line of configuration adds", formatter_class=shape,
                                    allow_abbrev=False)  # fmt: skip
    providers.add_argument("name", metavar="NAME", nargs="?", help="show one of them, and the lines to paste")
    providers.add_argument("--json", action="store_true", help="as JSON")
    _probe_arguments(commands.add_parser("probe", help="ask a backend what it really does", formatter_class=shape, allow_abbrev=False))

    explain = commands.add_parser("explain", help="show where a request would go and as what", formatter_class=shape, allow_abbrev=False)
    explain.add_argument("file", metavar="FILE", help="a file with the request's JSON body, or - for standard input")
    explain.add_argument("--path", help="the endpoint that it is for (default: by its fields), such as /v1/responses")
    _client_arguments(explain)
    experiments_arguments(
        commands.add_parser("experiments", help="what A/B experiments have found", formatter_class=shape, allow_abbrev=False)
    )
    quant_arguments(commands.add_parser("quant", help="make smaller copies of models", formatter_class=shape, allow_abbrev=False))
    library_arguments(commands)
    residency_arguments(commands)
    machine_arguments(commands)
    cli_bench.arguments(commands)
    return parser


def _probe_arguments(probe: argparse.ArgumentParser) -> None:
    probe.add_argument("backend", metavar="BACKEND", help="its name in the configuration")
    probe.add_argument("--config", metavar="FILE", type=Path, help="the configuration (default: $POINTSMAN_CONFIG, or the built-in model)")
    probe.add_argument("--model", metavar="MODEL", help="one of its models (default: that of the first route there, or the first listed)")
    probe.add_argument("--only", metavar="CHECKS", help="these checks alone, separated by commas")
    probe.add_argument("--json", action="store_true", help="as JSON")
    probe.add_argument("--write", metavar="FILE", type=Path, help="write what was found to a file for `probed:` of the configuration")
    probe.add_argument("--yes", action="store_true", help="send it although calls there may be billed")


def _client_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help=f"where the gateway is (default: $POINTSMAN_URL or {DEFAULT_URL})")
    parser.add_argument("--key", help="the key to call it with (default: $POINTSMAN_KEY)")


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to serve (without any of these: the built-in toy model)")
    what.add_argument("--model", metavar="MODEL", action="append", default=[],
                      help="a GGUF file, hf:OWNER/REPOSITORY[:QUANT], a name of `pointsman ls`, or builtin; may be repeated")  # fmt: skip
    what.add_argument("--upstream", metavar="URL", action="append", default=[],
                      help="an OpenAI-compatible server, all of its models; may be repeated; its key: $POINTSMAN_UPSTREAM_KEY")  # fmt: skip
    what.add_argument("--config", metavar="FILE", type=Path, help="a configuration file (default: $POINTSMAN_CONFIG); flags win over it")
    what.add_argument("--offline", action="store_true", help="download nothing; use what is on this machine")

    where = parser.add_argument_group("where")
    where.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    where.add_argument("--port", type=_port, help="port to listen on (default: 8484; 0: any free one)")
    where.add_argument("--admin-port", metavar="PORT", type=_admin_port, help="port of the status page and admin API, or off")
    where.add_argument("--tls-cert", metavar="FILE", help="certificate chain, PEM")
    where.add_argument("--tls-key", metavar="FILE", help="its private key, PEM")

    who = parser.add_argument_group("who may call (without a key: anybody on this machine, nobody else)")
    who.add_argument("--key", action="append", default=[], help="a key; may be repeated; others on this machine can see it, so better:")
    who.add_argument("--key-file", metavar="FILE", type=Path, help="a file with one key a line; or $POINTSMAN_KEYS, separated by commas")

    how = parser.add_argument_group("how")
    how.add_argument("--workers", metavar="N", type=_count, help="processes that take connections (default: 1)")
    how.add_argument("--asgi", action="store_true", help="use the pure-ASGI data path instead of the faster protocol")
    how.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="default: info")


def _config_file(args: argparse.Namespace) -> Path | None:
    named = args.config or os.environ.get("POINTSMAN_CONFIG")
    return Path(named) if named else None


def _flags(args: argparse.Namespace) -> Flags:
    from gateway.config import Flags

    return Flags(
        host=args.host, port=args.port, workers=args.workers, models=tuple(args.model), upstreams=tuple(args.upstream),
        keys=tuple(args.key), key_file=args.key_file, tls_cert=args.tls_cert, tls_key=args.tls_key,
        admin_port=args.admin_port, log_level=args.log_level,
    )  # fmt: skip


def _serve(args: argparse.Namespace) -> int:
    if args.offline:  # read by huggingface_hub when it is first imported, and by the engines' own processes
        os.environ["HF_HUB_OFFLINE"] = "1"
    from gateway.config import ConfigError, from_flags

    flags, file = _flags(args), _config_file(args)

    def read() -> Config:
        """The configuration as file, flags and environment say now; a reload reads it again."""
        return from_flags(flags, os.environ, file=file)

    try:
        config = read()
    except ConfigError as error:
        raise UsageError(str(error)) from None

    from gateway.cli_banner import banner  # only now: a mistake in the configuration is told at once
    from gateway.run import serve

    def ready(port: int, admin_port: int | None, models: Mapping[str, str]) -> None:
        sys.stdout.write(banner(config, port, admin_port, models, _command()))
        sys.stdout.flush()

    return serve(config, asgi=args.asgi, banner=ready, config_path=file, read=read)


def _command() -> str:
    """How a shell in this folder calls this program: its name when that finds it, else where it lies."""
    import shlex
    import shutil

    own = Path(sys.prefix, "bin", "pointsman")
    if shutil.which("pointsman") or not own.exists():
        return "pointsman"
    return shlex.quote(str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own))


def _check(args: argparse.Namespace) -> int:
    import json

    from gateway.config import ConfigError, load, remarks, schema

    if args.schema:
        sys.stdout.write(json.dumps(schema(), indent=2) + "\n")
        return 0
    file = _config_file(args)
    if file is None:
        raise UsageError("check needs a file: pointsman check --config FILE")
    try:
        config = load(file)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    for remark in remarks(config):
        sys.stdout.write(f"{file}: note: {remark}\n")
    counts = ", ".join(f"{len(part)} {name}" for name, part in
                       (("backends", config.backends), ("routes", config.routes), ("keys", config.keys)))  # fmt: skip
    sys.stdout.write(f"{file}: good ({counts})\n")
    return 0


def _models(args: argparse.Namespace) -> int:
    from gateway.cli_models import table
    from gateway.client import Client, ClientError

    try:
        with Client(args.url or os.environ.get("POINTSMAN_URL") or DEFAULT_URL, args.key or os.environ.get("POINTSMAN_KEY")) as client:
            sys.stdout.write(table(client.models()))
    except ClientError as error:
        raise Failure(str(error)) from None
    return 0


def _chat(args: argparse.Namespace) -> int:
    from gateway.chat import Chat
    from gateway.client import Client, ClientError

    try:
        with Client(args.url or os.environ.get("POINTSMAN_URL") or DEFAULT_URL, args.key or os.environ.get("POINTSMAN_KEY")) as client:
            return Chat(client, args.model, args.system).run()
    except ClientError as error:
        raise Failure(str(error)) from None


def _providers(args: argparse.Namespace) -> int:
    from gateway.cli_providers import UnknownProvider, show

    try:
        sys.stdout.write(show(args.name, os.environ, as_json=args.json))
    except UnknownProvider as error:
        raise UsageError(str(error)) from None
    return 0


def _probe(args: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from gateway import cli_probe
    from gateway.config import ConfigError, Flags, from_flags

    try:
        config = from_flags(Flags(), os.environ, file=_config_file(args))
        asked = cli_probe.plan(config, args.backend, args.model, args.only.split(",") if args.only else ())
        if cli_probe.bills(asked.backend) and not args.yes:
            raise UsageError(f"this may be billed: {cli_probe.price(asked)}. Add --yes to send it")
        progress = cli_probe.Progress(len(asked.checks))
        try:
            outcome = cli_probe.run(config, asked, progress)
        finally:
            progress.end()
    except ConfigError as error:
        raise UsageError(str(error)) from None
    except cli_probe.ProbeError as error:
        raise (UsageError if error.usage else Failure)(str(error)) from None
    sys.stdout.write(cli_probe.as_json(outcome) if args.json else cli_probe.table(outcome))
    if args.write is not None:
        try:
            args.write.write_text(cli_probe.written(outcome, datetime.now(UTC).date()), encoding="utf-8")
        except OSError as error:
            raise Failure(f"cannot write {args.write}: {error.strerror or 'unknown reason'}") from None
        sys.stderr.write(f"written; name it in the configuration: backends.{args.backend}.probed: {args.write}\n")
    return 0 if outcome.told else 1


def _explain(args: argparse.Namespace) -> int:
    from gateway.cli_explain import ExplainError, request, text
    from gateway.client import Client, ClientError

    try:
        body = request(args.file, args.path)
        with Client(args.url or os.environ.get("POINTSMAN_URL") or DEFAULT_URL, args.key or os.environ.get("POINTSMAN_KEY")) as client:
            sys.stdout.write(text(client.explain(body)))
    except ExplainError as error:
        raise UsageError(str(error)) from None
    except ClientError as error:
        raise Failure(str(error)) from None
    return 0


def _experiments(args: argparse.Namespace) -> int:
    from gateway.cli_experiments import ExperimentsError, run
    from gateway.client import ClientError

    try:
        return run(args)
    except ExperimentsError as error:
        raise (UsageError if error.usage else Failure)(str(error)) from None
    except ClientError as error:
        raise Failure(str(error)) from None


def _quant(args: argparse.Namespace) -> int:
    from gateway import cli_quant

    try:
        return cli_quant.run(args)
    except cli_quant.QuantError as error:
        raise (UsageError if error.usage else Failure)(str(error)) from None


def _residency(args: argparse.Namespace) -> int:
    from gateway import cli_residency
    from gateway.client import ClientError

    try:
        return cli_residency.run(args)
    except (cli_residency.ResidencyError, ClientError) as error:
        raise Failure(str(error)) from None


def _library(args: argparse.Namespace) -> int:
    from gateway import cli_library

    try:
        return cli_library.run(args)
    except cli_library.LibraryError as error:
        raise (UsageError if error.usage else Failure)(str(error)) from None


def _machine(args: argparse.Namespace) -> int:
    from gateway import cli_fit, cli_machine

    try:
        return cli_machine.run(args)
    except cli_fit.FitError as error:
        raise (UsageError if error.usage else Failure)(str(error)) from None
