"""Which values of a backend's configuration are secrets that no log and no error may show. Mutates only what `logs.hide` does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from gateway import logs
from gateway.config_types import BackendConfig

# Headers and variables that hold a secret by their name, in any part of it.
_NAMED = re.compile(r"auth|cookie|credential|key|pass|pwd|secret|signature|token", re.IGNORECASE)
_RANDOM = 12  # letters of either case and digits, so many in one word, are hardly a name


def hide(backend: BackendConfig) -> None:
    """From now on nothing that authorises us at this backend, or that its engine is given, shows in a log or in an error."""
    for secret in secrets(backend):
        logs.hide(secret)


def secrets(backend: BackendConfig) -> Iterator[str]:
    """The backend's key, its proxy's password, and what its headers and variables hold that is secret by its name or by its look."""
    if backend.key:
        yield str(backend.key)
    if backend.proxy:
        password = urlsplit(str(backend.proxy)).password
        yield from (password, unquote(password)) if password else ()
    for name, value in (*backend.headers.items(), *backend.env.items()):
        word = str(value).rpartition(" ")[2]  # without its scheme
        if _NAMED.search(name) or _looks_secret(word):
            yield word


def _looks_secret(word: str) -> bool:
    kinds = (str.isupper, str.islower, str.isdigit)
    return len(word) >= _RANDOM and "/" not in word and all(any(kind(letter) for letter in word) for kind in kinds)
