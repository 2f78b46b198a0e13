"""What a run is asked to do, and the words of the command line that say it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from benchmarks.bench.errors import BenchError
from benchmarks.bench.words import Api, Profile, Slo

DEFAULT_URL = "http://127.0.0.1:8484/v1"
DEFAULT_SECONDS = 30.0  # of one stage, where neither requests nor seconds are said
KEYS = ("POINTSMAN_KEY", "OPENAI_API_KEY")  # environment variables that a key is looked for in
SUFFIXES = (".html", ".json", ".jsonl")
_PROFILES = "sync, concurrent=N, rate=R, sweep, trace=FILE or capture=FILE"
_SECRET = ("key", "token", "secret", "password", "authorization", "cookie", "credential")
_MOST_LEVELS = 32


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """One run, as it was asked for. Times are seconds. `key` is never written out."""

    url: str = DEFAULT_URL
    model: str = ""
    profiles: tuple[Profile, ...] = (Profile("sync"),)
    input: str = "256"
    output: str = "128"
    prefix: tuple[int, int] | None = None  # tokens that prompts share, and in how many groups
    requests: int | None = None
    seconds: float | None = DEFAULT_SECONDS
    warmup: float = 0.1  # below 1: a share of the requests or seconds; else a number of requests
    repeats: int = 3
    slos: tuple[Slo, ...] = ()
    seed: int = 1
    salt: str = ""
    same_prompts: bool = False
    api: Api = "chat"
    stream: bool = True
    key: str = ""
    headers: dict[str, str] = {}
    extra: dict[str, Any] = {}
    max_concurrency: int | None = None
    timeout: float = 600.0
    watch: tuple[int, ...] = ()
    part: tuple[float, float | None] = (0.0, None)  # of a trace or capture, seconds from its first line
    jitter: float = 0.0  # of a trace's or capture's times
    clip: bool = False  # prompts that are too long are cut instead of left out
    command: tuple[str, ...] = ()
    version: str = ""

    def __repr__(self) -> str:
        return f"Options({self.url!r}, {self.model!r}, {self.profiles!r})"


def profiles(text: str, arrivals: float, speed: float) -> tuple[Profile, ...]:
    """The levels that `--profile` names; several numbers of `concurrent` or `rate` are as many levels. `arrivals`: the gamma shape of open
    loops; `speed`: of a trace. Raises BenchError."""
    name, _, value = text.partition("=")
    if name in ("sync", "sweep") and not value:
        return (Profile(name, shape=arrivals),)  # type: ignore[arg-type]
    if name in ("trace", "capture") and value:
        return (Profile(name, source=value, speed=speed),)  # type: ignore[arg-type]
    if name in ("concurrent", "rate") and value:
        numbers = [_number(part, f"--profile {text}", whole=name == "concurrent") for part in value.split(",")]
        if len(numbers) > _MOST_LEVELS:
            raise BenchError(f"--profile names {len(numbers)} levels; at most {_MOST_LEVELS} are run", usage=True)
        return tuple(Profile(name, value=number, shape=arrivals) for number in numbers)  # type: ignore[arg-type]
    raise BenchError(f"--profile {text!r} is not known; write {_PROFILES}", usage=True)


def _number(text: str, where: str, *, whole: bool) -> float:
    try:
        number = float(int(text)) if whole else float(text)
    except (ValueError, OverflowError):
        number = math.nan
    if not 0 < number <= 1e6:
        kind = "whole number" if whole else "number"
        raise BenchError(f"{where}: {text!r} is no {kind} above 0 and up to a million", usage=True)
    return number


def warmup(text: str) -> float:
    """`10%`, `0`, or a number of requests. A share is below 1, a number is 1 or more. Raises BenchError."""
    share = text.endswith("%")
    try:
        number = float(text[:-1]) / 100 if share else float(int(text))
    except (ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < (1 if share else math.inf):
        raise BenchError(f"--warmup {text!r} is neither a share such as 10% nor a number of requests", usage=True)
    return number


def prefix(text: str) -> tuple[int, int]:
    """`P:G`: P tokens shared by each of G groups of prompts; `P` alone: one group. Raises BenchError."""
    tokens, _, groups = text.partition(":")
    if not (tokens.isascii() and tokens.isdigit() and (groups or "1").isascii() and (groups or "1").isdigit() and int(groups or 1) > 0):
        raise BenchError(f"--prefix {text!r} is not TOKENS:GROUPS, as in 512:8", usage=True)
    return int(tokens), int(groups or 1)


def key(environment: Mapping[str, str], name: str | None) -> str:
    """The key, from the variable `name` or from those that hold one by custom; empty: none. Raises BenchError where `name` has none."""
    if name is not None and not environment.get(name):
        raise BenchError(f"--key-env {name}: that environment variable is not set; export it, or leave the option out", usage=True)
    source = name or next((each for each in KEYS if environment.get(each)), None)
    if source is None:
        return ""
    found = environment[source].strip()
    if not found or not _line(found):
        raise BenchError(f"${source} holds no key that a header can carry: line breaks or characters beyond ASCII are in it", usage=True)
    return found


def headers(pairs: Sequence[str]) -> dict[str, str]:
    """`K=V` each. Raises BenchError, which does not show a value."""
    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or not _line(value):
            raise BenchError(f"--header for {name[:40]!r} is not NAME=VALUE with a name of letters, digits and dashes", usage=True)
        found[name] = value
    return found


def _line(value: str) -> bool:
    return value.isprintable() and value.isascii()


def extra(text: str) -> dict[str, Any]:
    """More fields of every body. Raises BenchError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BenchError("--extra is not a JSON object, as in '{\"temperature\": 0}'", usage=True)
    return found


def base(text: str) -> list[str]:
    """Where the API of a server may begin, likeliest first: as given, and with /v1. Raises BenchError."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BenchError(f"{text[:200]!r} is no URL; write one as {DEFAULT_URL}", usage=True) from None
    if parts.username or parts.password:
        raise BenchError("a URL must hold no key or password: it is written into reports; put it into $POINTSMAN_KEY", usage=True)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.query
        or parts.fragment
        or port == 0
        or not _line(url)
        or " " in url
    ):
        raise BenchError(f"{text[:200]!r} is no URL of a server; write one as {DEFAULT_URL}", usage=True)
    url = url.rstrip("/").removesuffix("/chat/completions").removesuffix("/completions").rstrip("/")
    if urlsplit(url).path in ("", "/"):
        return [f"{url}/v1", url]
    return [url] if url.rsplit("/", 1)[1] == "v1" else [url, f"{url}/v1"]


def redacted(command: Sequence[str]) -> list[str]:
    """The command line without what may be secret: values of headers, and of fields of `--extra` whose names sound like secrets."""
    shown, after = [], ""
    for word in command:
        option, separator, value = word.partition("=")
        if after:
            shown.append(_hidden(after, word))
        elif separator and option in ("--header", "--extra"):
            shown.append(f"{option}={_hidden(option, value)}")
        else:
            shown.append(word)
        after = word if not after and word in ("--header", "--extra") else ""
    return shown


def _hidden(option: str, value: str) -> str:
    if option == "--header":
        return f"{value.partition('=')[0]}=***"
    try:
        return json.dumps(masked(json.loads(value)))
    except (ValueError, RecursionError):
        return "***"


def masked(value: Any) -> Any:
    """A JSON value whose fields with names of secrets are `***`."""
    if isinstance(value, dict):
        return {name: "***" if any(word in name.lower() for word in _SECRET) and isinstance(each, str) else masked(each)
                for name, each in value.items()}  # fmt: skip
    return [masked(each) for each in value] if isinstance(value, list) else value
