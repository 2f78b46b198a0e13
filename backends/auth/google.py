"""Google's application-default credentials through google-auth, asked in a thread: service accounts, users, workload identity, metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from backends.auth.keys import line
from backends.auth.renewed import Renewed, Unobtainable

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_HOW = "run 'gcloud auth application-default login', or set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account"
_MOST = 1 << 20  # bytes of a credentials file
_info = msgspec.json.Decoder(dict[str, Any])


# Kinds of files: the module, and what reads such a file. google-auth's own reader of any kind is deprecated.
_MAKERS = {
    "service_account": ("oauth2.service_account", "from_service_account_info"),
    "authorized_user": ("oauth2.credentials", "from_authorized_user_info"),
    "impersonated_service_account": ("auth.impersonated_credentials", "from_impersonated_service_account_info"),
}


def _maker(info: Mapping[str, Any]) -> tuple[str, str]:
    """Which of Google's classes reads this file. Raises ValueError."""
    kind, source = info.get("type"), info.get("credential_source")
    if kind == "external_account" and isinstance(source, dict):
        aws = str(source.get("environment_id", "")).startswith("aws")
        return "auth.aws" if aws else "auth.pluggable" if "executable" in source else "auth.identity_pool", "from_info"
    if kind not in _MAKERS:
        raise ValueError("the file is of an unknown type")
    return _MAKERS[kind]


class GoogleADC:
    """A signer: `authorization: Bearer TOKEN`, and the quota project where the credentials name one.

    `file`: a credentials file instead of what google-auth finds by itself. Raises ValueError, in one sentence, when google-auth is not
    installed.
    """

    def __init__(
        self,
        name: str,
        scopes: Sequence[str] = SCOPES,
        *,
        file: str | None = None,
        ahead: float = 300.0,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        if find_spec("google") is None or find_spec("google.auth") is None or find_spec("requests") is None:
            raise ValueError(f"backend '{name}': Google credentials need the package google-auth (pip install 'pointsman[vertex]')")
        self._name, self._scopes, self._file = name, tuple(scopes), file
        self._credentials: Any = None
        self.token: Renewed[bytes] = Renewed(name, self._fetch, ahead=ahead, on_change=on_change)

    def __repr__(self) -> str:
        return f"<GoogleADC {self._name}: {self.token.state}>"

    def lines(self, method: str, path: str, body: bytes) -> bytes:
        """The header lines. Never blocks; raises `Fault` when there is no token now."""
        return self.token.get()

    def start(self) -> None:
        """Begins to obtain a token. Does not block."""
        self.token.start()

    def close(self) -> None:
        """Stops renewing it. Does not block."""
        self.token.close()

    def _fetch(self) -> tuple[bytes, float | None]:
        """A new token's header lines, and when it ends. Blocks."""
        errors = import_module("google.auth.exceptions")
        try:
            request = import_module("google.auth.transport.requests").Request()
            if self._credentials is None:
                self._credentials = self._load(request)
            self._credentials.refresh(request)
            return self._lines(), self._expiry()
        except (errors.GoogleAuthError, OSError, ValueError) as e:
            raise Unobtainable(f"The Google credentials of backend '{self._name}' cannot be used ({_why(e)}); {_HOW}.") from None

    def _load(self, request: Any) -> Any:
        if self._file is None:
            return import_module("google.auth").default(scopes=self._scopes, request=request)[0]
        path = Path(self._file).expanduser()
        if path.stat().st_size > _MOST:
            raise ValueError("the file is too large")
        info = _info.decode(path.read_bytes())
        module, make = _maker(info)
        return getattr(import_module(f"google.{module}").Credentials, make)(info, scopes=self._scopes)

    def _lines(self) -> bytes:
        lines = line("authorization", f"Bearer {self._credentials.token}")
        quota = self._credentials.quota_project_id
        return lines + line("x-goog-user-project", quota) if quota else lines

    def _expiry(self) -> float | None:
        expiry = self._credentials.expiry
        return None if expiry is None else float(expiry.replace(tzinfo=UTC).timestamp())


def _why(error: Exception) -> str:
    """What may be told of an error: its kind, and Google's own word for it (`invalid_grant`) where that is one."""
    said = str(error.args[0]).partition(":")[0] if error.args else ""
    word = said if said.replace("_", "").isalpha() and "_" in said and len(said) < 40 else ""
    return f"{type(error).__name__} {word}".rstrip()
