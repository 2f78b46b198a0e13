"""Where engines publish KV events, as configuration says it and as engines of ours tell it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from backends.kv_socket import endpoint_problem

RANKS_MAX = 256
_ANY = ("http://10.0.0.1", "http://10.0.0.2")  # stand for servers that are not known yet


class KvEvents(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One publisher: `endpoint` and `replay` as `tcp://HOST:PORT` or `ipc:///PATH`, where `{host}` is the host of the backend's URL;
    `topic` is what its messages' topics begin with. Of `ranks` data-parallel ranks each is at the next port, from rank 0 on."""

    endpoint: str
    replay: str | None = None
    topic: str = ""
    ranks: Annotated[int, msgspec.Meta(ge=1, le=RANKS_MAX)] = 1


Said = bool | str | KvEvents | tuple[str | KvEvents, ...]  # false: none; true: an engine of ours; a list: one for each of `urls`


def publishers(said: Said, urls: tuple[str, ...]) -> tuple[KvEvents, ...]:
    """The publisher of each of `urls`, `{host}` filled in; empty when there is none. A list must have as many as `urls`."""
    if isinstance(said, bool):
        return ()
    each = said if isinstance(said, tuple) else (said,) * len(urls)
    return tuple(_filled(one, url) for one, url in zip(each, urls, strict=True))


def _filled(said: str | KvEvents, url: str) -> KvEvents:
    one = KvEvents(endpoint=said) if isinstance(said, str) else said
    host = urlsplit(url).hostname or ""
    host = f"[{host}]" if ":" in host else host
    replay = one.replay and one.replay.replace("{host}", host)
    return msgspec.structs.replace(one, endpoint=one.endpoint.replace("{host}", host), replay=replay)


def told(facts: Mapping[str, int | str]) -> KvEvents | None:
    """The publisher of an engine of ours, from its instance's facts; None when it publishes nothing."""
    endpoint, replay = facts.get("kv_events"), facts.get("kv_replay")
    if not isinstance(endpoint, str):
        return None
    return KvEvents(endpoint=endpoint, replay=replay if isinstance(replay, str) else None, ranks=int(facts.get("kv_ranks", 1)))


def problems(said: Said, urls: tuple[str, ...], engine: str | None, args: tuple[str, ...], discovered: bool = False) -> Iterator[str]:
    """What is wrong with `kv_events` of a backend with these URLs, or this engine, in half sentences. `discovered`: its URLs are found
    while it runs."""
    if said is False:
        return
    if discovered:
        urls = _ANY
        if isinstance(said, tuple):
            yield "must be one publisher with {host} in it: how many servers there are is found while the gateway runs"
            return
    if engine is not None:
        if said is not True:
            yield "must be true or false for an engine that the gateway runs: where it publishes is chosen for it"
        elif engine not in ("vllm", "sglang"):
            yield f"is not used by `engine: {engine}`; vllm and sglang have KV events"
        elif any(word.startswith("--kv-events-config") for word in args):
            yield "and `--kv-events-config` in `args` say the same thing twice; leave one out"
        return
    if said is True:
        yield "must say where a server elsewhere publishes; write tcp://HOST:PORT, or tcp://{host}:PORT for the host of its URL"
    elif isinstance(said, tuple) and len(said) != len(urls):
        yield f"names {len(said)} publishers for {len(urls)} URLs; name one for each, or one with {{host}} in it for all"
    else:
        yield from _wrong(publishers(said, urls))


def _wrong(each: tuple[KvEvents, ...]) -> Iterator[str]:
    for one in each:
        for endpoint in (one.endpoint, one.replay):
            if endpoint is not None and (wrong := endpoint_problem(endpoint)):
                yield f"holds {endpoint}, which {wrong}"
                return
    if len({one.endpoint for one in each}) < len(each):
        yield "names one publisher for several URLs; write {host} in it, or a list of one for each"
