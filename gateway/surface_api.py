"""The endpoints around Messages and Responses that no exchange is needed for: counts of a prompt, and the responses that are kept."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from backends import tokens, wire
from backends.dialects import count, responses
from backends.dialects.messages import Messages
from backends.dialects.messages_error import error
from backends.dialects.responses import Responses
from backends.faults import from_answer
from backends.native import NativeMixin, ProviderLink, SurfaceCall, speaks
from backends.openai import OpenAILink
from backends.types import Fault
from backends.wire import Doc
from gateway import surfaces
from gateway.asgi import Make, Receive, Scope, Send, headers_of, read_body, reply
from gateway.auth import Tenant
from gateway.choosers import counting
from gateway.logs import conceal
from gateway.responses_store import Kept, ResponsesStore
from gateway.serve import Core
from gateway.surface_messages import MessagesExchange
from gateway.surface_past import Past, find
from gateway.surface_responses import ResponsesExchange
from routing.types import Decision, Route

Headers = Mapping[bytes, bytes]
TOKENISERS = frozenset({"llamacpp", "llama-server", "vllm"})  # kinds that count a conversation as their model will read it
_ITEMS = "input_items"
_raws = msgspec.json.Decoder(list[msgspec.Raw])


class SurfaceApi:
    """`makes`: by surface, what makes the exchange of a call. `serve` answers everything else of theirs."""

    def __init__(self, core: Core, store: ResponsesStore) -> None:
        self.core, self.store = core, store
        self.makes: Mapping[str, Make] = {
            "messages": partial(_messages, api="messages"),
            "responses": partial(_responses, api="responses", store=store),
        }

    async def serve(self, method: str, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a path of `surfaces.COUNTS` or below `surfaces.KEPT`. Raises `Fault` where OpenAI's form of it is right, and `Gone`."""
        headers = headers_of(scope)
        api = surfaces.COUNTS.get(path)
        id = self.core.request_id(headers)
        lines = b"x-request-id: %b\r\n" % id + self.core.door.cors(headers)
        try:
            if api is None:
                body = await self._kept(method, path, scope, self.core.door.identify(headers))
            elif method != "POST":
                raise _only("POST", method, path)
            else:
                tenant = self.core.door.identify(headers)
                body = await self._count(api, tenant, headers, wire.parse(await read_body(self.core, headers, receive)))
        except Fault as fault:
            if api != "messages":
                raise
            lines += b"request-id: %b\r\n" % id
            fault.message = conceal(fault.message)
            await reply(send, fault.status, error(fault, id.decode("latin-1")), lines)
            return
        await reply(send, 200, body, lines)

    # --- kept responses
    async def _kept(self, method: str, path: str, scope: Scope, tenant: Tenant) -> bytes:
        below = path.removeprefix("/v1").removeprefix("/responses/").split("/")
        id = unquote(below[0])
        if below[1:] not in ([], [_ITEMS]):
            raise Fault("not_found", f"There is nothing at {path[:200]}.", origin="client", code="unknown_url")
        if method == "DELETE" and len(below) == 1:
            if not await self.store.delete(tenant.name, id):
                raise _unknown(id)
            return responses.deleted(id)
        if method not in ("GET", "HEAD"):
            raise _only("GET" if len(below) > 1 else "GET or DELETE", method, path)
        kept = await self.store.get(tenant.name, id)
        if kept is None:
            raise _unknown(id)
        query = parse_qs(bytes(scope.get("query_string", b"")).decode("latin-1"))
        return _listed(kept, query) if len(below) > 1 else _whole(kept, query)

    # --- counting
    async def _count(self, api: str, tenant: Tenant, headers: Headers, doc: Doc) -> bytes:
        core = self.core
        name = wire.text(doc, "model")
        if name is None:
            raise wire.bad("'model' is missing; GET /v1/models lists what there is.", param="model", code="missing_model")
        past = await find(self.store, tenant.name, doc) if api == "responses" else Past()
        if past.private:
            tenant = core.door.identify(core.door.private_headers(headers))
        route = core.route(name, tenant)
        decision = counting(core, route, api, doc, tenant, headers)
        if decision is not None and speaks(decision.replica.link, api):
            if past.missing is not None and core.door.locked:
                raise past.missing
            return await self._asked(api, tenant, headers, past.raw(doc), name, decision)
        chat = self._chat(api, doc, past, route)
        tokens = await _tokenised(decision, chat)
        return (count.answer if api == "messages" else responses.counted)(count.estimate(chat) if tokens is None else tokens)

    def _chat(self, api: str, doc: Doc, past: Past, route: Route) -> Doc:
        strict = not route.drop
        if api == "messages":
            return Messages(strict).counted(doc)[0]
        return Responses(strict).request(past.chat(doc))[0]

    async def _asked(self, api: str, tenant: Tenant, headers: Headers, doc: Doc, name: str, decision: Decision) -> bytes:
        """The provider's own count."""
        call = SurfaceCall(
            self.core.request_id(headers), "chat", name, False, {}, tenant.name, headers, self.core.clients.now, surface=api, raw=doc
        )
        link = decision.replica.link
        assert isinstance(link, (NativeMixin, ProviderLink))
        status, body = await link.count(call, decision.target)
        if status != 200:
            raise from_answer(status, {}, body, decision.target.backend, time.time())
        return body


def _messages(core: Core, sink: Any, headers: Headers, *, api: str) -> MessagesExchange:
    return MessagesExchange(core, sink, api, headers)


def _responses(core: Core, sink: Any, headers: Headers, *, api: str, store: ResponsesStore) -> ResponsesExchange:
    return ResponsesExchange(core, sink, api, headers, store)


async def _tokenised(decision: Decision | None, chat: Doc) -> int | None:
    """The engine's own count of a chat document; None where it cannot give one, as of images, or just now."""
    link = decision.replica.link if decision is not None else None
    if not isinstance(link, OpenAILink) or link.kind not in TOKENISERS or decision is None:
        return None
    asked: Doc = {key: chat[key] for key in ("messages", "tools") if key in chat}
    try:
        return int(msgspec.json.decode(await tokens.tokenize(link, asked, decision.target.model, time.time()))["count"])
    except (Fault, msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return None


def _whole(kept: Kept, query: Mapping[str, list[str]]) -> bytes:
    if query.get("stream", ["false"])[-1] == "true":
        raise wire.bad("A kept response is not streamed again; leave 'stream' out.", param="stream")
    return kept.response


def _listed(kept: Kept, query: Mapping[str, list[str]]) -> bytes:
    order, limit = query.get("order", ["desc"])[-1], query.get("limit", ["20"])[-1]
    if order != "asc" and order != "desc":
        raise wire.bad("'order' must be asc or desc.", param="order")
    if not limit.isascii() or not limit.isdigit() or len(limit) > 3:
        raise wire.bad("'limit' must be a number from 1 to 100.", param="limit")
    after = query.get("after", [None])[-1]
    return responses.listing(_raws.decode(kept.items), order="asc" if order == "asc" else "desc", after=after, limit=int(limit))


def _unknown(id: str) -> Fault:
    return Fault("not_found", f"Response with id '{id[:200]}' not found.", origin="client", code="response_not_found")


def _only(right: str, method: str, path: str) -> Fault:
    why = f"{path[:200]} takes {right}, not {method[:20]}."
    return Fault("bad_request", why, origin="client", status=405, code="method_not_allowed")
