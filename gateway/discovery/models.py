"""What a backend's servers say of their models."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from backends.openai import OpenAILink
from backends.types import Fault, Timeouts
from gateway.fleet_types import Found
from routing.types import Replica

_LOOK = Timeouts(connect=2.0, first_byte=5.0, idle=5.0, total=10.0)


class _Listing(msgspec.Struct):
    data: list[Found]


async def listed(replicas: Iterable[Replica]) -> tuple[tuple[Found, ...], str]:
    """The models that these servers list, asked one after the other, and why one of them does not."""
    found: dict[str, Found] = {}
    why = ""
    for replica in replicas:
        link = replica.link
        if not isinstance(link, OpenAILink):
            continue
        try:
            status, _, body = await link.ask(link.get(link.base + "/models"), _LOOK)
            if status != 200:
                why = f"{replica.url} answered {status} to GET {link.base}/models"
                continue
            found.update((m.id, m) for m in msgspec.json.decode(body, type=_Listing).data)
        except Fault as fault:
            why = fault.message
        except msgspec.MsgspecError:
            why = f"{replica.url} gave no OpenAI model list at {link.base}/models"
    return tuple(found.values()), why
