"""A scripted Gemini over real sockets: AI Studio and Vertex AI, as strict as they are.

    fake = Gemini()
    with fake.serving() as root:
        ...  # AI Studio below {root}/v1beta, Vertex AI below {root}/v1/projects/{PROJECT}/locations/{LOCATION}

The key goes into `x-goog-api-key`, Vertex' token into `Authorization: Bearer`. `fake.seen` are the requests that were good, as the
service read them; `fake.rejected` what it said to the others. `fake.fail(Fault(…))` as with every provider, and `fake.odd.append(…)` for
good answers that say nothing: a blocked prompt, or a finish reason of Google's own. The wire: documentation of `models.generateContent`
and `streamGenerateContent`; the SDK's `errors.py` and `_api_client.py` (how an error looks in a stream); shared wire traps.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, unquote

from tests.fakes.answers import respond
from tests.fakes.providers.brain import prompt_tokens
from tests.fakes.providers.common import Fault, Provider, Rejected, Reply
from tests.fakes.providers.gemini_embed import embed
from tests.fakes.providers.gemini_mind import Writer, genuine, settings, turns
from tests.fakes.providers.gemini_models import EMBEDDERS, FAMILIES, Asked, Refused
from tests.fakes.providers.gemini_proto import Bad, Doc, Service, read
from tests.fakes.providers.gemini_rules import check
from tests.fakes.request import Request
from tests.fakes.script import Script

KEY, TOKEN, PROJECT, LOCATION = "AIza-fake-key-of-the-tests", "ya29.fake-token", "test-project", "us-central1"
JSON = "application/json; charset=UTF-8"
STUDIO = re.compile(r"/v1beta/models/([^/:]+):(\w+)")
VERTEX = re.compile(r"/v1(?:beta1)?/projects/([^/]+)/locations/([^/]+)/publishers/google/models/([^/:]+):(\w+)")
RPC = "type.googleapis.com/google.rpc."
Odd = Literal["blocked", "safety", "recitation", "malformed"]
REASONS = {"safety": "SAFETY", "recitation": "RECITATION", "malformed": "MALFORMED_FUNCTION_CALL"}

# Google's word for a status, and the details that come with it. RetryInfo is a proto's Duration in JSON: seconds and an s (trap 30).
RETRY = {"@type": RPC + "RetryInfo", "retryDelay": "2s"}
QUOTA = {"@type": RPC + "QuotaFailure", "violations": [{"quotaMetric": "generativelanguage.googleapis.com/generate_content_requests"}]}
STATUS: dict[int, tuple[str, list[Doc]]] = {
    400: ("INVALID_ARGUMENT", []), 401: ("UNAUTHENTICATED", []), 403: ("PERMISSION_DENIED", []), 404: ("NOT_FOUND", []),
    429: ("RESOURCE_EXHAUSTED", [QUOTA, RETRY]), 500: ("INTERNAL", []), 503: ("UNAVAILABLE", []), 504: ("DEADLINE_EXCEEDED", []),
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """A good request as the service read it: camelCase names, enums in capitals, nulls gone."""

    service: Service
    model: str
    method: str
    doc: Doc
    request: Request


@dataclass(frozen=True)
class Place:
    """Where a request went."""

    service: Service
    model: str
    method: str
    sse: bool


@dataclass
class Gemini(Provider):
    """The responder. `odd`: what the next good answers of generateContent and its stream become."""

    name: str = "gemini"
    key: str = KEY
    token: str = TOKEN
    project: str = PROJECT
    seen: list[Seen] = field(default_factory=list)
    odd: deque[Odd] = field(default_factory=deque)

    def serve(self, request: Request) -> Reply:
        try:
            return self._serve(request)
        except Bad as bad:
            violations = [{"field": path, "description": why} if path else {"description": why} for path, why in bad.found]
            details = [{"@type": RPC + "BadRequest", "fieldViolations": violations}]
            raise Refused("\n".join(why for _, why in bad.found), details=details) from None

    def _serve(self, request: Request) -> Reply:
        if request.method == "GET" and request.path == "/v1beta/models":
            self._check_key(request)
            return good({"models": [{"name": f"models/{name}"} for name in (*FAMILIES, *EMBEDDERS)]})
        place = self._place(request)
        if not (request.header("content-type") or "").startswith("application/json"):
            raise Refused(f"Invalid JSON payload received. Content-Type {request.header('content-type')!r} is not application/json.")
        return self._methods[place.service, place.method](place, request)

    @property
    def _methods(self) -> dict[tuple[Service, str], Callable[[Place, Request], Reply]]:
        return {
            ("studio", "generateContent"): self._generate, ("vertex", "generateContent"): self._generate,
            ("studio", "streamGenerateContent"): self._stream, ("vertex", "streamGenerateContent"): self._stream,
            ("studio", "countTokens"): self._count, ("vertex", "countTokens"): self._count,
            ("studio", "embedContent"): self._embed, ("vertex", "embedContent"): self._embed,
            ("studio", "batchEmbedContents"): self._embed, ("vertex", "batchEmbedContents"): self._embed,
            ("vertex", "predict"): self._embed,
        }  # fmt: skip

    # Who and where.

    def _place(self, request: Request) -> Place:
        path, query = unquote(request.path), parse_qs(request.target.partition("?")[2])
        sse = query.pop("alt", []) == ["sse"]
        if query:
            raise Bad([(name, f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.') for name in query])
        if request.method == "POST" and (match := STUDIO.fullmatch(path)):
            self._check_key(request)
            return self._known(Place("studio", match[1], match[2], sse), f"models/{match[1]}")
        if request.method == "POST" and (match := VERTEX.fullmatch(path)):
            self._check_token(request)
            if match[1] != self.project:
                raise Refused(f"Permission denied on resource project {match[1]}.", 403, "PERMISSION_DENIED")
            return self._known(Place("vertex", match[3], match[4], sse), path.partition(":")[0].partition("/projects/")[2])
        raise Refused("The requested URL was not found on this server.", 404, "NOT_FOUND")

    def _known(self, place: Place, name: str) -> Place:
        wanted = EMBEDDERS if place.method in ("embedContent", "batchEmbedContents", "predict") else tuple(FAMILIES)
        if (place.service, place.method) in self._methods and place.model in wanted:
            return place
        if place.service == "vertex":
            why = f"Publisher Model `projects/{name}` was not found or your project does not have access to it."
        else:
            why = (
                f"{name} is not found for API version v1beta, or is not supported for {place.method}. "
                "Call ListModels to see the list of available models and their supported methods."
            )
        raise Refused(why, 404, "NOT_FOUND")

    def _check_key(self, request: Request) -> None:
        key = request.header("x-goog-api-key")
        if key is None:
            raise Refused(
                "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other form of API "
                "consumer identity to call this API.", 403, "PERMISSION_DENIED",
            )  # fmt: skip
        if key != self.key:
            info = {"@type": RPC + "ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
            raise Refused("API key not valid. Please pass a valid API key.", details=[info])

    def _check_token(self, request: Request) -> None:
        if request.header("authorization") != f"Bearer {self.token}":
            raise Refused(
                "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication "
                "credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.", 401, "UNAUTHENTICATED",
                [{"@type": RPC + "ErrorInfo", "reason": "ACCESS_TOKEN_TYPE_UNSUPPORTED", "domain": "googleapis.com"}],
            )  # fmt: skip

    # Methods.

    def _writer(self, place: Place, request: Request, *, stream: bool) -> Writer:
        doc = read(request.doc, "GenerateContentRequest", place.service)
        asked = Asked(doc, FAMILIES[place.model], place.service, stream, genuine)
        check(asked)
        self.seen.append(Seen(place.service, place.model, place.method, doc, request))
        self.made += 1
        return Writer(asked, place.model, self.made)

    def _ended(self, writer: Writer, docs: list[Doc]) -> list[Doc]:
        """The documents of an answer; an odd one has no candidates (trap 24), or ends without content and by a reason of its own."""
        if not self.odd:
            return docs
        odd = self.odd.popleft()
        if odd == "blocked":
            usage = {"promptTokenCount": writer.prompt, "totalTokenCount": writer.prompt}
            return [{"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage, "modelVersion": writer.model}]
        ended: Doc = {"content": {"role": "model"}, "finishReason": REASONS[odd], "finishMessage": "ended by the fake", "index": 0}
        return [*docs[: len(docs) // 2], {**docs[-1], "candidates": [ended]}]

    def _generate(self, place: Place, request: Request) -> Reply:
        writer = self._writer(place, request, stream=False)
        return good(self._ended(writer, [writer.whole()])[-1])

    def _stream(self, place: Place, request: Request) -> Reply:
        """Events with `alt=sse`; without it one JSON list."""
        writer = self._writer(place, request, stream=True)
        docs = self._ended(writer, list(writer.chunks()))
        return Reply([event(doc) for doc in docs], "text/event-stream", stream=True) if place.sse else good(docs)

    def _count(self, place: Place, request: Request) -> Reply:
        doc = read(request.doc, "CountTokensRequest", place.service)
        inner = doc.get("generateContentRequest", {"contents": doc.get("contents", [])})
        asked = Asked(inner, FAMILIES[place.model], place.service, False, genuine)
        check(asked)
        return good({"totalTokens": prompt_tokens(turns(inner), settings(asked))})

    def _embed(self, place: Place, request: Request) -> Reply:
        doc, answer = embed(request.doc, place.method, place.service, place.model)
        self.seen.append(Seen(place.service, place.model, place.method, doc, request))
        return good(answer)

    # Errors.

    def refusal(self, rejected: Rejected) -> Script:
        assert isinstance(rejected, Refused)
        return self._error(rejected)

    def failure(self, fault: Fault) -> Script:
        return self._error(failed(fault))

    def error_event(self, fault: Fault) -> bytes:
        """In a stream the error is an event; the SDK also reads it as bare JSON lines (kind `bare`)."""
        if fault.kind == "bare":
            return json.dumps(error(failed(Fault(503))), indent=2).encode() + b"\r\n"
        return event(error(failed(fault if fault.status else Fault(503, fault.message))))

    def _error(self, refused: Refused) -> Script:
        """A list of one where a JSON stream was asked for (trap 31)."""
        request = self.requests[-1]
        listed = request.path.endswith(":streamGenerateContent") and "alt=sse" not in request.target
        doc: Any = [error(refused)] if listed else error(refused)
        return respond([json.dumps(doc, indent=2).encode()], status=refused.status, content_type=JSON)


def failed(fault: Fault) -> Refused:
    """A fault in Google's words. `details` replaces those that the status brings along."""
    status, details = STATUS[fault.status]
    return Refused(fault.message, fault.status, fault.kind or status, details if fault.details is None else fault.details)


def good(doc: Any) -> Reply:
    """Google prints its JSON with two spaces."""
    return Reply([json.dumps(doc, indent=2, ensure_ascii=False).encode()], JSON)


def error(refused: Refused) -> Doc:
    body: Doc = {"code": refused.status, "message": refused.message, "status": refused.name}
    return {"error": body | ({"details": refused.details} if refused.details else {})}


def event(doc: Any) -> bytes:
    """One event of the stream: its lines end with CR LF."""
    return b"data: " + json.dumps(doc, ensure_ascii=False).encode() + b"\r\n\r\n"
