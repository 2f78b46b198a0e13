"""Where AWS keys come from: botocore's chain (environment, profiles, SSO, web identity, containers, instances), asked in a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from backends.auth.keys import Bearer
from backends.auth.renewed import Renewed, Unobtainable
from backends.auth.sigv4 import AwsKeys, SigV4

BEARER_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
_AHEAD = 600.0  # seconds: from then on botocore itself insists on renewing
_HOW = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile, or set AWS_BEARER_TOKEN_BEDROCK to a Bedrock API key"


def bedrock(
    name: str,
    region: str,
    host: str,
    *,
    key: str | None = None,
    profile: str | None = None,
    environ: Mapping[str, str],
    on_change: Callable[[], None] | None = None,
) -> Bearer | SigV4:
    """The signer of a Bedrock backend: a Bedrock API key where one is configured or in the environment, else signatures with AWS keys.
    Raises ValueError, in one sentence, when botocore is not installed."""
    bearer = key or ("" if profile else environ.get(BEARER_VARIABLE, ""))
    if bearer:
        return Bearer(bearer)
    if find_spec("botocore") is None:
        raise ValueError(
            f"backend '{name}': signing for AWS needs the package botocore (pip install 'pointsman[bedrock]'); "
            f"or set {BEARER_VARIABLE} to a Bedrock API key"
        )
    keys = Renewed(name, Chain(name, profile), ahead=_AHEAD, on_change=on_change)
    return SigV4(region, "bedrock", host, keys.get, on_start=keys.start, on_close=keys.close)


class Chain:
    """A `fetch` for `Renewed`: the keys that botocore's chain finds. Blocks: it may read files, run commands and ask servers."""

    def __init__(self, name: str, profile: str | None = None) -> None:
        self._name, self._profile = name, profile
        self._found: Any = None  # botocore's own object, which renews temporary keys

    def __call__(self) -> tuple[AwsKeys, float | None]:
        errors = import_module("botocore.exceptions")
        try:
            return self._keys()
        except (errors.BotoCoreError, errors.ClientError, OSError, ValueError, RuntimeError) as e:
            raise Unobtainable(f"The AWS keys of backend '{self._name}' could not be obtained ({type(e).__name__}); {_HOW}.") from None

    def _keys(self) -> tuple[AwsKeys, float | None]:
        if self._found is None:
            session = import_module("botocore.session").Session(profile=self._profile)
            self._found = session.get_credentials()
        if self._found is None:
            raise Unobtainable(f"Backend '{self._name}' has no AWS keys; {_HOW}.")
        frozen = self._found.get_frozen_credentials()  # renews them when they end soon
        expires = getattr(self._found, "_expiry_time", None)
        if not isinstance(expires, datetime):
            self._found = None  # keys that tell no end are looked for anew each time
        when = expires.timestamp() if isinstance(expires, datetime) else None
        return AwsKeys(frozen.access_key, frozen.secret_key, frozen.token), when
