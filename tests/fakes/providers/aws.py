"""What AWS puts around a service, written from its documentation and not with botocore: Signature Version 4 checked, event-stream
frames written, and a request checked against the service model that botocore ships. Pure.

Sources: docs.aws.amazon.com "Create a signed AWS API request" and "Amazon Transcribe: event stream encoding" (the one format of all
services); the model is data (`bedrock-runtime/service-2.json`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import struct
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from tests.fakes.request import Request

CREDENTIAL = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<id>[A-Z0-9]+)/(?P<date>\d{8})/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)/aws4_request, ?"
    r"SignedHeaders=(?P<signed>[a-z0-9;-]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
SKEW = timedelta(minutes=15)


class BadSignature(Exception):
    """Why a signature does not hold: missing, incomplete, unknown, scope, expired or signature."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def verify(request: Request, secrets: Mapping[str, str], region: str, service: str, now: datetime) -> None:
    """Raises BadSignature unless the request is signed with one of the secrets (by access key id) for the region and service."""
    header = request.header("authorization")
    if header is None:
        raise BadSignature("missing")
    found = CREDENTIAL.fullmatch(header)
    stamp = request.header("x-amz-date") or ""
    if found is None or not re.fullmatch(r"\d{8}T\d{6}Z", stamp):
        raise BadSignature("incomplete")
    if found["id"] not in secrets:
        raise BadSignature("unknown")
    if (found["region"], found["service"], found["date"]) != (region, service, stamp[:8]):
        raise BadSignature("scope")
    if abs(datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) - now) > SKEW:
        raise BadSignature("expired")
    signed = found["signed"].split(";")
    if signed != sorted(signed) or not {"host", "x-amz-date"} <= set(signed):
        raise BadSignature("incomplete")
    scope = "/".join((found["date"], region, service, "aws4_request"))
    digest = hashlib.sha256(canonical(request, signed).encode()).hexdigest()
    key = ("AWS4" + secrets[found["id"]]).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    wanted = hmac.digest(key, "\n".join(("AWS4-HMAC-SHA256", stamp, scope, digest)).encode(), "sha256").hex()
    if not hmac.compare_digest(wanted, found["signature"]):
        raise BadSignature("signature")


def canonical(request: Request, signed: list[str]) -> str:
    """The canonical request. The path is encoded once more than it was sent, as for every service but S3."""
    path, _, query = request.target.partition("?")
    headers = [(name, " ".join(",".join(value for key, value in request.headers if key == name).split())) for name in signed]
    return "\n".join(
        (
            request.method,
            "/".join(quote(part, safe="-_.~") for part in path.split("/")),
            "&".join(sorted(pair if "=" in pair else pair + "=" for pair in query.split("&") if pair)),
            *(f"{name}:{value}" for name, value in headers),
            "",
            ";".join(signed),
            hashlib.sha256(request.body).hexdigest(),
        )
    )


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One event-stream message. Every header is a string (type 7)."""
    block = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode() for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + payload
    return body + struct.pack(">I", zlib.crc32(body))


# The service model.


class Unfit(Exception):
    """A value that the service model does not allow. `where` is dotted; `unknown`: the key is none of the model's."""

    def __init__(self, where: str, what: str, unknown: bool = False) -> None:
        super().__init__(f"{where}: {what}")
        self.where, self.what, self.unknown = where, what, unknown


WORDS = {"string": (str, "a string"), "boolean": (bool, "a boolean"), "integer": (int, "an integer"), "long": (int, "an integer"),
         "float": ((int, float), "a number"), "double": ((int, float), "a number"), "blob": (str, "a base64 string")}  # fmt: skip


def fits(value: Any, shape: Any, where: str = "") -> None:
    """Raises Unfit for the first thing in `value` (decoded JSON) that a botocore shape does not allow. A union has exactly one member."""
    if getattr(shape, "is_document_type", False):
        return
    match shape.type_name:
        case "structure":
            _structure(value, shape, where)
        case "list":
            if not isinstance(value, list):
                raise Unfit(where, "Expected a list")
            _sized(len(value), shape, where)
            for at, one in enumerate(value):
                fits(one, shape.member, f"{where}.{at}")
        case "map":
            if not isinstance(value, dict):
                raise Unfit(where, "Expected an object")
            _sized(len(value), shape, where)
            for name, one in value.items():
                fits(name, shape.key, f"{where}.{name}")
                fits(one, shape.value, f"{where}.{name}")
        case _:
            _scalar(value, shape, where)


def _structure(value: Any, shape: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise Unfit(where, "Expected an object")
    body = {name: member for name, member in shape.members.items() if member.serialization.get("location") is None}
    for name in value:
        if name not in body:
            raise Unfit(f"{where}.{name}".lstrip("."), "Unknown key", unknown=True)
    for name in shape.required_members:
        if name in body and name not in value:
            raise Unfit(f"{where}.{name}".lstrip("."), "Member must not be null")
    if shape.is_tagged_union and len(value) != 1:
        raise Unfit(where, f"Exactly one of {', '.join(body)} must be set")
    for name, one in value.items():
        fits(one, body[name], f"{where}.{name}".lstrip("."))


def _sized(size: float, shape: Any, where: str, of: str = "length ") -> None:
    limits = shape.metadata
    if size < limits.get("min", size):
        raise Unfit(where, f"Member must have {of}greater than or equal to {limits['min']}")
    if size > limits.get("max", size):
        raise Unfit(where, f"Member must have {of}less than or equal to {limits['max']}")


def _scalar(value: Any, shape: Any, where: str) -> None:
    kinds, name = WORDS[shape.type_name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and shape.type_name != "boolean"):  # type: ignore[arg-type]
        raise Unfit(where, f"Expected {name}")
    if shape.type_name == "blob":
        try:
            _sized(len(base64.b64decode(value, validate=True)), shape, where)
        except ValueError:
            raise Unfit(where, "Expected a base64 string") from None
    elif shape.type_name == "string":
        _sized(len(value), shape, where)
        pattern = shape.metadata.get("pattern")
        if pattern and not re.fullmatch(pattern, value):
            raise Unfit(where, f"Member must satisfy regular expression pattern: {pattern}")
        if getattr(shape, "enum", None) and value not in shape.enum:
            raise Unfit(where, f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")
    elif shape.type_name != "boolean":
        _sized(value, shape, where, "value ")
