"""AWS Signature Version 4, for one request at a time. The signature is pure; where the keys come from is `backends.auth.aws`.

Source: "Create a signed AWS API request", IAM user guide. botocore's `SigV4Auth` gives the same signatures (the tests compare them); it is
not used here because it takes several times as long and writes the session token into its debug log.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from hashlib import sha256
from urllib.parse import quote

import msgspec


class AwsKeys(msgspec.Struct, frozen=True):
    """What signs: secrets all, but for the access key's id. `token` comes with temporary ones."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"<AwsKeys {self.access_key[:4]}…>"


class SigV4:
    """A signer. `host` is the Host header as it is sent; `keys` gives the keys of now and may raise `Fault`; `on_start` and `on_close` are
    its owner's. `clock`: seconds since 1970."""

    __slots__ = ("_clock", "_derived", "_host", "_keys", "_on_close", "_on_start", "_region", "_service")

    def __init__(
        self,
        region: str,
        service: str,
        host: str,
        keys: Callable[[], AwsKeys],
        *,
        clock: Callable[[], float] = time.time,
        on_start: Callable[[], None] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._region, self._service, self._host, self._keys, self._clock = region, service, host, keys, clock
        self._on_start, self._on_close = on_start, on_close
        self._derived: tuple[str, str, bytes] = ("", "", b"")  # secret, day, and the key that signs on it

    def __repr__(self) -> str:
        return f"<SigV4 {self._service} {self._region}>"

    def lines(self, method: str, path: str, body: bytes) -> bytes:
        """The header lines of one request with `content-type: application/json`; `path` as on the wire, with its query."""
        keys, stamp = self._keys(), time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        headers = {"content-type": "application/json", "host": self._host, "x-amz-date": stamp}
        if keys.token:
            headers["x-amz-security-token"] = keys.token
        names = ";".join(headers)
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        canonical = canonical_request(method, path, headers, body)
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._signing_key(keys.secret_key, stamp[:8]), text.encode(), "sha256").hex()
        credential = f"Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        lines = f"x-amz-date: {stamp}\r\nauthorization: AWS4-HMAC-SHA256 {credential}\r\n"
        if keys.token:
            lines += f"x-amz-security-token: {keys.token}\r\n"
        return lines.encode("latin-1")

    def start(self) -> None:
        """Begins to obtain keys. Does not block."""
        if self._on_start is not None:
            self._on_start()

    def close(self) -> None:
        """Stops renewing keys. Does not block."""
        if self._on_close is not None:
            self._on_close()

    def _signing_key(self, secret: str, day: str) -> bytes:
        known, known_day, key = self._derived
        if known != secret or known_day != day:
            key = ("AWS4" + secret).encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._derived = (secret, day, key)
        return key


def canonical_request(method: str, path: str, headers: dict[str, str], body: bytes) -> str:
    """The request in the form that is signed. `headers`: all that are signed, names in lower case and sorted. The path, encoded on the wire
    already, is encoded once more, as all services but S3 want it."""
    where, _, query = path.partition("?")
    pairs = sorted(tuple(pair.partition("=")[::2]) for pair in query.split("&") if pair)
    lines = [method, quote(_plain(where), safe="/~"), "&".join(f"{name}={value}" for name, value in pairs)]
    lines += [f"{name}:{' '.join(value.split())}" for name, value in headers.items()]
    return "\n".join((*lines, "", ";".join(headers), sha256(body).hexdigest()))


def _plain(path: str) -> str:
    """The path without empty and dot segments."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")
