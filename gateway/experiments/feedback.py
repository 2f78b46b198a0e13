"""`POST /v1/feedback`: what clients say of answers. The body is read and judged here; who keeps it is given.

One feedback, or up to `MOST_ITEMS` of them under `items`, all kept or none begun: a mistake in one of them refuses all. A number, a yes
or no, a comparison of two answers, a comment, or a comment alone. Whoever speaks, speaks of answers of the own tenant only: the tenant is
part of what is kept, and an id is only looked for among that tenant's.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Protocol

import msgspec

from backends import wire
from backends.types import Fault
from gateway.experiments.words import Feedback
from gateway.limits import too_large
from gateway.metrics import Metrics
from routing.experiments.words import FEEDBACK, Design, Kind

MOST_ITEMS = 100
MOST_BYTES = 1 << 20  # of a body
MOST_COMMENT = 4096  # bytes of one, as UTF-8
MOST_ID = 256  # characters of an id or a name; of a session 1,024
MOST_SESSION = 1024
MOST_AT_ONCE = 64  # requests that may wait to be written
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}\Z")
_WHAT = "a feedback has one of response, request and session, and name, value, comment"
Kinds = Mapping[str, frozenset[Kind]]


class Keeper(Protocol):
    """The part of a store that keeps feedback."""

    async def feedback(self, item: Feedback) -> None:
        """Returns when it is on the disk. Raises `Fault` (overloaded, unavailable)."""


class _Better(msgspec.Struct, forbid_unknown_fields=True):
    better_than: str


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    response: str | None = None
    request: str | None = None
    session: str | None = None
    name: str | None = None
    value: bool | float | _Better | None = None
    comment: str | None = None


class _Items(msgspec.Struct, forbid_unknown_fields=True):
    items: list[_Item]


_item, _items = msgspec.json.Decoder(_Item), msgspec.json.Decoder(_Items)


def kinds(designs: Iterable[Design]) -> Kinds:
    """The metrics of feedback that experiments list, by name without its prefix, and what kinds they are of. Empty: none is listed, and
    any name may be sent. Pure."""
    out: dict[str, frozenset[Kind]] = {}
    for design in designs:
        for metric in design.metrics.values():
            name = metric.name.removeprefix(FEEDBACK)
            out[name] = out.get(name, frozenset()) | {metric.kind}
    return out


def read(body: bytes, known: Kinds, tenant: str, unix: float, id: str) -> list[list[Feedback]]:
    """What a body says: for each of its items what is to be kept of it (two things of a comparison). `id` is what the client will be told;
    each thing's own begins with it. Pure. Raises `Fault` (bad_request) with where the mistake is."""
    doc = wire.parse(body)
    many = "items" in doc
    try:
        found = _items.decode(body).items if many else [_item.decode(body)]
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at ")
        raise wire.bad(f"{why}; {_WHAT}.", param=where.strip("`").removeprefix("$.").removeprefix("$") or None) from None
    if not 1 <= len(found) <= MOST_ITEMS:
        raise wire.bad(f"'items' has {len(found)} entries; send 1 to {MOST_ITEMS}.", param="items")
    out: list[list[Feedback]] = []
    for n, item in enumerate(found):
        made = _made(item, known, f"items[{n}]." if many else "")
        base = f"{id}-{n}" if n else id
        out.append([_signed(one, tenant, unix, base if not i else f"{base}-other") for i, one in enumerate(made)])
    return out


def _signed(item: Feedback, tenant: str, unix: float, id: str) -> Feedback:
    return msgspec.structs.replace(item, tenant=tenant, unix=unix, id=id)


def _made(item: _Item, known: Kinds, at: str) -> list[Feedback]:
    """One item of a body, checked, still without time, tenant and id."""
    response, session = _about(item, at)
    comment = _comment(item, at)
    if item.value is None:
        if not comment:
            raise wire.bad(f"'{at}value' is missing; send true, false, a number or a comparison, or a comment alone.", param=f"{at}value")
        name = _name(item.name, known, at) if item.name is not None else ""
        return [Feedback(0.0, "", name, "boolean", None, response, session, comment)]
    name = _name(item.name, known, at)
    if isinstance(item.value, _Better):
        return _compared(item.value, name, known, at, response, comment)
    kind = _kind(item.value, name, known, at)
    return [Feedback(0.0, "", name, kind, float(item.value), response, session, comment)]


def _about(item: _Item, at: str) -> tuple[str, str]:
    """The answer's id and the session, one of them empty."""
    given = {key: text for key in ("response", "request", "session") if (text := getattr(item, key)) is not None}
    if len(given) != 1:
        what = "none of them is there" if not given else f"{' and '.join(given)} are there"
        raise wire.bad(f"A feedback is about one of 'response', 'request' and 'session', and {what}.", param=f"{at}response")
    ((key, text),) = given.items()
    if key == "session":
        return "", _short(text, MOST_SESSION, f"{at}{key}")
    return _short(text, MOST_ID, f"{at}{key}"), ""


def _short(text: str, most: int, param: str) -> str:
    if not text or len(text) > most or not _storable(text):
        raise wire.bad(f"'{param}' must be a text of 1 to {most} characters.", param=param)
    return text


def _storable(text: str) -> bool:
    """Whether SQLite takes it as it is and it can be written as UTF-8: no NUL, no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def _comment(item: _Item, at: str) -> str:
    text = item.comment or ""
    if text and (not _storable(text) or len(text.encode()) > MOST_COMMENT):
        raise wire.bad(f"'{at}comment' is longer than {MOST_COMMENT} bytes, or no plain text.", param=f"{at}comment")
    return text


def _name(name: str | None, known: Kinds, at: str) -> str:
    param = f"{at}name"
    if name is None:
        raise wire.bad(f"'{param}' is missing: which metric this is a value of{_listed(known)}.", param=param)
    if known and name not in known:
        near = get_close_matches(name[:64], known, 1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise wire.bad(f"No experiment has a metric '{name[:64]}'{_listed(known)}{hint}", param=param, code="unknown_metric")
    if not known and not _NAME.match(name):
        raise wire.bad(f"'{param}' must be 1 to 64 letters, digits, '_', '-' or '.'.", param=param)
    return name


def _listed(known: Kinds) -> str:
    names = sorted(known)
    return f"; there are: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}" if names else ""


def _kind(value: bool | float, name: str, known: Kinds, at: str) -> Kind:
    """Which kind of metric this value is one of. Raises `Fault` where it fits none that the name may have."""
    possible = known.get(name, frozenset(("boolean", "mean")))
    if isinstance(value, bool):
        if "boolean" in possible:
            return "boolean"
        raise wire.bad(f"'{name}' takes a number, not true or false.", param=f"{at}value")
    if possible == {"boolean"}:
        raise wire.bad(f"'{name}' takes true, false or a comparison, not a number.", param=f"{at}value")
    if not math.isfinite(value) or abs(value) > 1e15:
        raise wire.bad(f"'{at}value' is too large; a number of at most 1e15 is taken.", param=f"{at}value")
    if "mean" in possible:
        return "mean"
    if value <= 0.0:
        raise wire.bad(f"'{name}' is compared by its logarithm and takes numbers above 0 only.", param=f"{at}value")
    return "log"


def _compared(value: _Better, name: str, known: Kinds, at: str, response: str, comment: str) -> list[Feedback]:
    """A comparison: 1 for this answer and 0 for the other."""
    param = f"{at}value.better_than"
    if not response:
        raise wire.bad("A comparison is of two answers: name this one by 'response' or 'request', not by a session.", param=f"{at}response")
    if "boolean" not in known.get(name, frozenset(("boolean",))):
        raise wire.bad(f"'{name}' takes a number, not a comparison.", param=f"{at}value")
    other = _short(value.better_than, MOST_ID, param)
    if other == response:
        raise wire.bad(f"'{param}' is the same answer; name the other one.", param=param)
    return [Feedback(0.0, "", name, "boolean", 1.0, response, "", comment), Feedback(0.0, "", name, "boolean", 0.0, other)]


class Feedbacks:
    """Takes feedback for the data port. One a process; a reload calls `follow`. Owned by the event loop."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.accepted = self.refused = 0  # items, and requests that were refused, since the start
        self._store: Keeper | None = None
        self._known: Kinds = {}
        self._waiting = 0  # requests

    def __repr__(self) -> str:
        return f"<Feedbacks {self.accepted} accepted, {self.refused} refused, {self._waiting} waiting; metrics: {sorted(self._known)}>"

    def follow(self, store: Keeper | None, designs: Iterable[Design]) -> None:
        """From now on `store` keeps what is said of these experiments; None: there are none."""
        self._store, self._known = store, kinds(designs)

    async def take(self, body: bytes, tenant: str, key: bytes = b"") -> bytes:
        """The body of the answer, once all is on the disk. `key`: the client's Idempotency-Key; the same body sent again with it counts
        once. Raises `Fault`: not_found without an experiment, bad_request, too_large, overloaded, unavailable."""
        try:
            return await self._take(body, tenant, key)
        except Fault:
            self.refused += 1
            raise

    async def _take(self, body: bytes, tenant: str, key: bytes) -> bytes:
        store = self._store
        if store is None:
            why = "No experiment is configured, so feedback would count for nothing; add one under 'experiments' of the configuration."
            raise Fault("not_found", why, origin="client", code="no_experiments")
        if len(body) > MOST_BYTES:
            raise too_large(MOST_BYTES)
        if self._waiting >= MOST_AT_ONCE:
            why = f"{MOST_AT_ONCE} requests with feedback wait to be written; send it again in a moment."
            raise Fault("overloaded", why, retry_after=1.0, code="feedback_busy")
        id = _id(tenant, key, body)
        items = read(body, self._known, tenant, self.clock(), id)
        self._waiting += 1
        try:
            # Together, so that they come into one transaction.
            done = await asyncio.gather(*(store.feedback(one) for item in items for one in item), return_exceptions=True)
        finally:
            self._waiting -= 1
        for problem in done:
            if isinstance(problem, BaseException):
                raise problem
        self.accepted += len(items)
        return msgspec.json.encode({"id": id, "object": "feedback", "accepted": len(items)})


def _id(tenant: str, key: bytes, body: bytes) -> str:
    """A new id; with an Idempotency-Key the same one for the same body of the same tenant."""
    if not key:
        return f"fb_{secrets.token_hex(12)}"
    said = b"%b\0%b\0%b" % (tenant.encode(), key, body)
    return f"fb_{hashlib.sha256(said).hexdigest()[:24]}"


def gauges(figures: Metrics, feedback: Feedbacks) -> None:
    """Registers what was taken and refused."""
    name, help = "pointsman_experiment_feedback", "Pieces of feedback that clients sent and that are on the disk"
    figures.callback(f"{name}_total", f"{help}.", lambda: float(feedback.accepted), kind="counter")
    refused = "Requests with feedback that were refused: a mistake in them, no experiment, or a store that could not keep them."
    figures.callback(f"{name}_refused_total", refused, lambda: float(feedback.refused), kind="counter")
