"""What `pointsman serve` says when it is ready. Pure: text in, text out."""

from __future__ import annotations

import ipaddress
import json
import shlex
from collections.abc import Mapping, Sequence

from backends.loopback import is_loopback
from gateway.config import Config
from gateway.version import VERSION

DEFAULT_URL = "http://127.0.0.1:8484"
_SHOWN = 8  # models named in the banner; the status page has them all


def origin(host: str, port: int, tls: bool) -> str:
    """`scheme://host:port` as a client on this machine writes it: a wildcard address becomes loopback, IPv6 gets its brackets."""
    try:
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
        host = f"[{address}]" if address.version == 6 else str(address)
    except ValueError:
        pass  # a name
    return f"{'https' if tls else 'http'}://{host}:{port}"


def banner(config: Config, port: int, admin_port: int | None, models: Mapping[str, str], command: str = "pointsman") -> str:
    """The whole text: where it listens, what it serves, what to paste. `port`s are the real ones, after 0 was resolved; `models` has
    for each why it cannot answer, "" where it can; `command` is how a shell calls this program."""
    server = config.server
    base = origin(server.host, port, server.tls is not None) + "/v1"
    status = f"{origin(server.admin.host, admin_port, False)}/" if admin_port is not None else "off"
    good = [name for name, why in models.items() if not why]
    shown = ", ".join(good[:_SHOWN]) + (f", and {len(good) - _SHOWN} more" if len(good) > _SHOWN else "")
    who = f"{len(config.keys)} configured" if config.keys else "none needed (only this machine can connect)"
    shown = shown or ("none can answer" if models else "none yet")
    rows = [("Endpoint", base), ("Models", shown), *_out(models), ("Status", status), ("Keys", who)]
    parts = [f"Pointsman {VERSION} is ready", *_rows(rows), ""]
    if not is_loopback(server.host):
        parts += [f"  Listening on {server.host}: other machines can connect.", ""]
    model = good[0] if good else next(iter(models), "MODEL")
    parts += ["Try it:", "", *_indent(_curl(base, model, bool(config.keys))), ""]
    parts += ["From Python (pip install openai):", "", *_indent(_python(base, model, bool(config.keys))), ""]
    where = "" if base == f"{DEFAULT_URL}/v1" else f" --url {shlex.quote(base)}"
    parts += ["Or in another terminal:", "", f"  {command} chat{where}", "", "Ctrl-C stops the gateway.", ""]
    return "\n".join(parts) + "\n"


def _out(models: Mapping[str, str]) -> list[tuple[str, str]]:
    """A row for each of the first models that cannot answer."""
    out = [(name, why) for name, why in models.items() if why]
    more = [("", f"and {len(out) - _SHOWN} more; the status page names them")] if len(out) > _SHOWN else []
    return [("Out" if not at else "", f"{name}: {why}") for at, (name, why) in enumerate(out[:_SHOWN])] + more


def _rows(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return ["", *(f"  {name:<{width}}  {text}".rstrip() for name, text in rows)]


def _indent(text: str) -> list[str]:
    return [f"  {line}" if line else "" for line in text.split("\n")]


def _curl(base: str, model: str, keyed: bool) -> str:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Who are you?"}]}, ensure_ascii=False)
    key = """ \\\n  -H "Authorization: Bearer $POINTSMAN_KEY\"""" if keyed else ""
    return f"curl {shlex.quote(base + '/chat/completions')}{key} \\\n  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(body)}"


def _python(base: str, model: str, keyed: bool) -> str:
    key = 'os.environ["POINTSMAN_KEY"]' if keyed else '"none"'
    return "\n".join([
        *(["import os"] if keyed else []),
        "from openai import OpenAI",
        "",
        f"client = OpenAI(base_url={json.dumps(base)}, api_key={key})",
        "answer = client.chat.completions.create(",
        f"    model={json.dumps(model, ensure_ascii=False)},",
        '    messages=[{"role": "user", "content": "Who are you?"}],',
        ")",
        "print(answer.choices[0].message.content)",
    ])  # fmt: skip
