"""`POST /v1/explain`: where a request would go and why, as what, and for how much. Nothing is sent and nothing is counted.

The request is read by the exchange that would serve it, on a copy of its route without limits and plans, and written by the link that
would send it (`backends.prepare`). Of credentials only the names of their headers are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from backends import quirks, wire
from backends.dialects import count
from backends.dialects.types import Note
from backends.prepare import Written, prepare
from backends.types import Call, Fault, Target, Usage
from backends.wire import Doc
from gateway import logs, surfaces, volatile
from gateway.asgi import AsgiSink, Make
from gateway.auth import Tenant
from gateway.exchange import Exchange
from gateway.experiments.trial import RouteTrials
from gateway.explain_policy import UNWEIGHED, Explains, Guide, decided, picked, weighed
from gateway.explain_trials import DryTrials
from gateway.serve import Core
from gateway.surface import SurfaceExchange
from routing import pool
from routing.types import NO_ROUTE, Decision, Replica, Route

# An endpoint may be told by what only its documents have.
_BY_FIELD = (("messages", "/v1/chat/completions"), ("prompt", "/v1/completions"), ("documents", "/v1/rerank"))
# Where dialects have the answer's longest length: OpenAI and Anthropic, Responses, Gemini, Bedrock.
_BUDGETS = (
    ("", "max_completion_tokens"), ("", "max_tokens"), ("", "max_output_tokens"), ("generationConfig", "maxOutputTokens"),
    ("inferenceConfig", "maxTokens"),
)  # fmt: skip
_NAME = "the target's name for it"
_any = msgspec.json.Decoder()
Json = dict[str, Any]


class _DryCore(Core):
    """A core whose routes are copies: what an exchange counts there, nobody sees."""

    def __init__(self, core: Core) -> None:
        self.__dict__.update(core.__dict__)
        self.named = {}  # so that every route comes from `route`
        self.dry: dict[Route, Route] = {}  # each copy, and what it is of
        self.tried: list[Json] = []  # what its experiments made of the request

    def route(self, model: str, tenant: Tenant) -> Route:
        found = super().route(model, tenant)
        dry = self.copy(found)
        if isinstance(found.trials, RouteTrials):
            dry.try_out(DryTrials(found.trials, self.copy, self.tried))
        return dry

    def copy(self, found: Route) -> Route:
        """A route that nobody else sees."""
        dry = Route(found.name, found.arms, retries=found.retries, drop=found.drop, tell=found.tell, timeouts=found.timeouts)
        dry.turn = found.turn
        self.dry[dry] = found
        return dry

    def guide(self, route: Route) -> Guide:
        """Who chooses on a copied route."""
        found = self.dry.get(route)
        if found is None:
            return Guide()
        return Guide(found.chooser if isinstance(found.chooser, Explains) else None, self.generation.choosers.get(found))


async def explain(core: Core, makes: Mapping[str, Make], headers: Mapping[bytes, bytes], body: bytes) -> bytes:
    """The explanation of the request in `body`, as JSON. `makes`: what makes an exchange of a surface. Waits only where the request names
    an earlier response, which is then read. Raises `Fault` for what no route can be told of: not JSON, no endpoint, no such model."""
    tenant = core.door.identify(headers)
    path, inner = _asked(wire.parse(body))
    dry = _DryCore(core)
    if path in surfaces.DIALECTS:
        exchange: Exchange = makes[surfaces.DIALECTS[path]](dry, AsgiSink(), headers)
    else:
        exchange = Exchange(dry, AsgiSink(), surfaces.CALLS[path], headers)
    exchange.tenant = tenant
    told: Json = {"object": "explanation", "path": path, "api": exchange.api}
    try:
        if isinstance(exchange, SurfaceExchange):
            await exchange.prepare(inner)
        exchange._read(inner)  # the exchange's own reading; the dry core stands for what it counts
        found = _explained(dry, exchange, wire.parse(inner))
    except Fault as fault:
        if exchange.route is NO_ROUTE:
            raise
        found = _about(dry, exchange, None) | _refused(fault, ())
    return wire.encode(told | found)


def _asked(doc: Doc) -> tuple[str, bytes]:
    """The endpoint and the request's own body: as `{"path": …, "body": {…}}`, or a bare body that tells its endpoint by its fields."""
    if "path" in doc and "body" in doc:
        path = "/v1/" + (wire.text(doc, "path") or "").removeprefix("/v1").lstrip("/")
        wire.sub(doc, "body")
        body = bytes(doc["body"])
    else:
        path = next((path for field, path in _BY_FIELD if field in doc), "")
        body = wire.encode(doc)
    if path not in surfaces.DIALECTS and path not in surfaces.CALLS:
        known = ", ".join(sorted(p for p in {**surfaces.CALLS, **surfaces.DIALECTS} if p.startswith("/v1/")))
        raise wire.bad(f'Say which endpoint it is for: {{"path": "/v1/...", "body": {{...}}}}, one of {known}.', param="path")
    return path, body


def _explained(core: _DryCore, exchange: Exchange, doc: Doc) -> Json:
    """What becomes of a request that was read. `doc` is the client's own."""
    route, surface = exchange.route, exchange if isinstance(exchange, SurfaceExchange) else None
    try:
        decision = picked(exchange, core.guide(exchange.route))
    except Fault as fault:
        return _about(core, exchange, None) | _refused(fault, ())
    out = _about(core, exchange, decision)
    if decision is None:
        wait = " It would wait for one." if pool.may_come(route, exchange.excluded) else ""
        return out | _refused(Fault("unavailable", f"No replica can take it now.{wait}", code="no_replica"), ())
    exchange.decision = decision
    native = surface is not None and surface.native
    chat = _chat(exchange)
    out |= {"decision": _decided(decision), "native": native, "estimate": _estimate(chat, decision.target, ())}
    notes = [*surface.notes] if surface is not None and not native else []
    call, target = exchange.call, decision.target
    try:
        if not native and not target.unsupported.isdisjoint(call.doc):
            notes += _left_out(call.doc, target)
            call, _ = exchange.fitted(call, target)  # refuses where the route is strict
        made = prepare(decision.replica.link, call, target)
    except Fault as fault:
        return out | _refused(fault, notes)
    notes += made.notes
    body = made.requests[0].body
    if not made.translated and not native:
        notes += _rewritten(call, body)
    elif call.model != target.model:
        notes.append(Note("model", "mapped", _NAME))
    return out | {
        "parameters": _report(doc, notes), "requests": [_request(one) for one in made.requests],
        "estimate": _estimate(chat, target, [one.body for one in made.requests]),
    }  # fmt: skip


def _about(core: _DryCore, exchange: Exchange, decision: Decision | None) -> Json:
    """What can be told of any request that has a route."""
    route = exchange.route
    return {
        "model": exchange.call.model, "route": route.name, "decision": None, "policy": core.guide(route).policy,
        "candidates": _candidates(core, exchange, decision),
        "native": False, "estimate": None, "parameters": [], "requests": [], "error": None, "volatile": volatile.of_exchange(exchange),
        "experiments": core.tried,
    }  # fmt: skip


def _refused(fault: Fault, notes: Iterable[Note]) -> Json:
    """How it would fail: the error object that the client would get, with its status, and the parameter that is to blame."""
    fault.message = logs.conceal(fault.message)
    error = _any.decode(wire.envelope(fault))["error"]
    rest = [_note(note) for note in notes if note.param != fault.param]
    blamed = [{"param": fault.param, "fate": "refused", "why": fault.message}] if fault.param else []
    return {"error": {**error, "status": fault.status}, "parameters": [*blamed, *rest]}


def _chat(exchange: Exchange) -> Doc:
    """The document whose tokens are estimated: chat where it can be read as that, however it is sent."""
    if isinstance(exchange, SurfaceExchange) and "messages" not in exchange.call.doc:
        with suppress(Fault):  # targets that speak the surface may take what chat cannot say
            return exchange.surface.request(exchange._chat(exchange.asked))[0]
    return exchange.call.doc


def _estimate(doc: Doc, target: Target, bodies: Sequence[bytes]) -> Json:
    """Tokens of one prompt, about, and what all requests cost to read; how long an answer may be by the requests that are sent (`bodies`),
    and what all cost at most. In dollars, where a price is known."""
    read, times = _tokens(doc), max(1, len(bodies))
    most = (_most(bodies[0]) if bodies else None) or _most(wire.encode(doc))
    price = target.price
    costs: Json = {"input_cost": None, "most_cost": None}
    if price is not None and read is not None:
        costs["input_cost"] = price(Usage(input=read * times))
        costs["most_cost"] = price(Usage(input=read * times, output=most * times)) if most is not None else None
    return {"input_tokens": read, "most_output_tokens": most, **costs}


def _most(body: bytes) -> int | None:
    """The limit of the answer's tokens in a request of any dialect."""
    doc = _any.decode(body)
    for outer, name in _BUDGETS:
        found = doc.get(outer) if outer else doc
        value = found.get(name) if isinstance(found, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def _tokens(doc: Doc) -> int | None:
    """None: it goes out as it came and cannot be read as chat."""
    if "messages" in doc:
        return count.estimate(doc)
    texts = [doc[name] for name in ("prompt", "input", "query", "documents") if name in doc]
    return sum(_text(_any.decode(raw)) for raw in texts) if texts else None


def _text(value: Any) -> int:
    """Tokens of a text, of a list of them, or of tokens that are numbers already."""
    if isinstance(value, str):
        return count.text_tokens(value)
    return sum(1 if isinstance(one, int) else _text(one) for one in value) if isinstance(value, list) else 0


def _candidates(core: _DryCore, exchange: Exchange, chosen: Decision | None) -> list[Json]:
    """Every replica that the route could send it to, and what is for and against it."""
    now, route = core.clients.now, exchange.route
    costs = weighed(exchange, core.guide(route), chosen)
    whole = route.total_weight or 1.0
    return [
        {
            "backend": r.backend, "replica": r.name, "model": arm.target.model, "weight": arm.target.weight,
            "share": arm.target.weight / whole / len(arm.replicas), "health": r.health, "reason": logs.conceal(r.reason),
            "available": pool.available(r, now), "inflight": r.inflight, "slots": r.slots, "failures": r.failures,
            "rests_seconds": round(max(0.0, r.down_until - now), 3),
            "chosen": chosen is not None and r is chosen.replica and arm.target is chosen.target,
            "context": arm.target.context, "unsupported": sorted(arm.target.unsupported),
            **costs.get((r.name, arm.target.model), UNWEIGHED),
        }
        for arm in route.arms for r in arm.replicas
    ]  # fmt: skip


def _decided(decision: Decision) -> Json:
    replica: Replica = decision.replica
    return {"backend": replica.backend, "replica": replica.name, "model": decision.target.model, "reason": decision.reason,
            "scores": dict(decision.scores), **decided(decision)}  # fmt: skip


def _request(written: Written) -> Json:
    return {"method": written.method, "path": written.path, "headers": list(written.headers), "body": msgspec.Raw(written.body)}


# --- parameters


def _left_out(doc: Doc, target: Target) -> list[Note]:
    """Notes of what the target does not support and a lenient route leaves out."""
    gone = sorted(target.unsupported.intersection(doc))
    idle = "it says no more than its absence"
    return [Note(name, "dropped", idle if quirks.idle(name, doc[name]) else "the target does not support it") for name in gone]


def _rewritten(call: Call, body: bytes) -> list[Note]:
    """Notes of what a relay to this kind of server changes: from the document before and the one that is sent."""
    sent = wire.parse(body)
    notes: list[Note] = []
    fresh = {name: value for name, value in sent.items() if name not in call.doc}
    for name, value in call.doc.items():
        if name in sent:
            if sent[name] != value and _any.decode(sent[name]) != _any.decode(value):
                why = _NAME if name == "model" else "rewritten for this kind of server"
                notes.append(Note(name, "mapped", why))
            continue
        other = next((new for new, copied in fresh.items() if copied == value), None)
        notes.append(Note(name, "mapped", f"sent as {other}") if other else Note(name, "dropped", "this kind of server does not take it"))
    return notes


def _report(doc: Doc, notes: Iterable[Note]) -> list[Json]:
    """What became of every parameter, in the request's order, with what lies in one (`messages[2].name`) behind it."""
    left = [*notes]
    out: list[Json] = []
    for name in doc:
        if all(note.param != name for note in left):
            out.append({"param": name, "fate": "sent", "why": ""})
        out += [_note(note) for note in left if _within(note.param, name)]
        left = [note for note in left if not _within(note.param, name)]
    return out + [_note(note) for note in left]


def _within(param: str, name: str) -> bool:
    return param == name or param.startswith((f"{name}.", f"{name}["))


def _note(note: Note) -> Json:
    return {"param": note.param, "fate": note.fate, "why": note.why}
