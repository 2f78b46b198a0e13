"""One record per request: what was asked, who answered, how long it took, what it used."""

from __future__ import annotations

import msgspec

from backends.types import Usage


class Record(msgspec.Struct):
    """Everything that metrics, the log line and the store say of one finished request. Seconds, bytes, counts."""

    id: str
    unix: float  # when it arrived, seconds since 1970
    api: str
    route: str  # the model name that the client asked for ("" when unknown)
    backend: str  # "" when none was reached
    replica: str  # base URL or engine instance name
    tenant: str
    stream: bool
    status: int  # what the client was told (499: it had left)
    duration: float
    ttft: float | None = None  # arrival to first content
    attempts: int = 0
    chunks: int = 0  # reads relayed after the commit
    bytes_out: int = 0
    usage: Usage | None = None
    fault: str = ""  # Fault.kind
    origin: str = ""  # Fault.origin
    message: str = ""
    reason: str = ""  # why this replica
