"""From a backend's configuration to how it is reached: a plain relay, or a dialect with its carrier and signer; directly or by a proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from backends import carriers, catalog, facts
from backends.batched import BatchedLink, PricedBatchedLink, batching
from backends.carriers import Carried, Settings, Signs, carry, dialect, signer
from backends.costed import PricedLink
from backends.embeddings import BatchLimits
from backends.http import Clients
from backends.native import NativeMixin, ProviderLink, natives
from backends.openai import OpenAILink
from backends.types import Fault
from gateway import hidden
from gateway.config import BackendConfig
from gateway.metrics import Metrics
from routing.types import Health, Link, Replica


class NativeLink(NativeMixin, PricedLink):
    """A relay to a provider that takes calls of other surfaces as they come, too."""

    __slots__ = ()


class NativeBatchedLink(NativeLink, BatchedLink):
    """The same, with calls for embeddings gathered."""

    __slots__ = ()


def batches(backend: BackendConfig, together: bool = True) -> BatchLimits | None:
    """How a backend's calls for embeddings are gathered; None: they are not.

    Where the file says nothing they are for engines and servers of one's own whose kind is known: there a call costs what it occupies, and
    a usage that is divided by bytes bills nobody. A provider bills by its own counts and batches behind its own door; a server or
    program of unknown kind may bound a list, or stand for a provider. `together`: the engine computes several as it would each.
    """
    told = backend.batch_embeddings
    if told is None:
        row = catalog.find(backend.engine or backend.kind)
        told = row is not None and row.local and together
    if isinstance(told, bool):
        return BatchLimits() if told else None
    return told


def made(
    name: str, url: str, backend: BackendConfig, clients: Clients, *, environ: Mapping[str, str], on_change: Callable[[], None]
) -> tuple[Link, Signs | None]:
    """The link to one address of a backend, and who signs for it where somebody must; that one is not started yet. `on_change` is
    called, in another thread, when its credentials came or failed to.

    Raises ValueError, in one sentence and without a secret, for what cannot be set up: a missing setting or package.
    """
    hidden.hide(backend)
    settings = _settings(url, backend)
    carried = carry(backend.kind, settings)
    spoken = dialect(carried)
    if spoken is None:
        return _relay(name, carried, backend, clients), None
    signs = signer(name, carried, settings, environ=environ, on_change=on_change)
    about = partial(facts.facts, backend.kind)
    link: ProviderLink
    if _twin(backend):
        from backends.twin import TwinPool, TwinTranslated  # httpx: only where a proxy or HTTP/2 is needed

        twin = TwinPool(carried.url, name, backend.proxy, backend.http2, backend.verify)
        link = TwinTranslated(twin, spoken, signs, about, headers=backend.headers, timeouts=backend.timeouts)
    else:
        pool = clients.pool(carried.url, name, backend.verify)
        link = ProviderLink(pool, spoken, signs, about, headers=backend.headers, timeouts=backend.timeouts)
    link.others = carriers.others(carried)
    return link, signs


def _settings(url: str, backend: BackendConfig) -> Settings:
    key = None if backend.key is None else str(backend.key)
    return Settings(
        url=url, key=key, project=backend.project, location=backend.location, region=backend.region, api_version=backend.api_version,
        deployment=backend.deployment, profile=backend.profile, credentials=backend.credentials,
    )  # fmt: skip


def _twin(backend: BackendConfig) -> bool:
    return backend.proxy is not None or backend.http2


def _relay(name: str, carried: Carried, backend: BackendConfig, clients: Clients) -> OpenAILink:
    """A plain relay. A key that is no bearer token goes under its own header."""
    headers: dict[str, str] = {**backend.headers}
    key: str | None = backend.key
    if key is not None and carried.auth != "bearer":
        headers, key = {carried.auth: key, **headers}, None
    if _twin(backend):
        return _twin_relay(name, carried.url, backend, key, headers)
    limits = batches(backend)
    pool = clients.pool(carried.url, name, backend.verify)
    if limits is None:
        return _plain(backend)(pool, kind=backend.kind, key=key, headers=headers, timeouts=backend.timeouts)
    return batching(_batched(backend)(pool, kind=backend.kind, key=key, headers=headers, timeouts=backend.timeouts), limits)


def _twin_relay(name: str, url: str, backend: BackendConfig, key: str | None, headers: Mapping[str, str]) -> OpenAILink:
    from backends.twin import BatchedTwin, TwinLink  # httpx: only where a proxy or HTTP/2 is needed

    limits = batches(backend)
    link = (TwinLink if limits is None else BatchedTwin)(
        url, name, kind=backend.kind, key=key, headers=headers, timeouts=backend.timeouts, proxy=backend.proxy, http2=backend.http2,
        verify=backend.verify,
    )  # fmt: skip
    return batching(link, limits) if isinstance(link, BatchedTwin) and limits is not None else link


def _priced(backend: BackendConfig) -> bool:
    row = catalog.find(backend.kind)
    return backend.prices is not None or (row is not None and bool(row.prices))


def _plain(backend: BackendConfig) -> type[OpenAILink]:
    if natives(backend.kind):
        return NativeLink
    return PricedLink if _priced(backend) else OpenAILink


def _batched(backend: BackendConfig) -> type[BatchedLink]:
    if natives(backend.kind):
        return NativeBatchedLink
    return PricedBatchedLink if _priced(backend) else BatchedLink


def credentials(signs: Signs) -> tuple[Health, str]:
    """Whether requests can be signed now, as a replica's health and its reason. Does not block."""
    try:
        signs.lines("GET", "/", b"")
    except Fault as fault:
        return ("loading" if fault.code == "credentials_pending" else "down"), fault.message
    return "ready", ""


_GATHERED = (
    ("pointsman_embeddings_engine_calls_total", "Calls for embeddings as they were sent, joined or not.", "calls"),
    ("pointsman_embeddings_joined_total", "Clients' calls for embeddings that were sent with others.", "members"),
    ("pointsman_embeddings_refused_total", "Joint calls for embeddings that failed, and were sent again one by one.", "refused"),
)


def gauges(figures: Metrics, replicas: Callable[[], Iterable[Replica]]) -> None:
    """Registers what links count, by replica. They begin anew with a link: when its backend changed, or its engine was started again."""
    for name, help, field in _GATHERED:
        figures.callback(name, help, lambda f=field: _counted(replicas(), f), kind="counter")  # type: ignore[misc]


def _counted(replicas: Iterable[Replica], field: str) -> list[tuple[dict[str, str], float]]:
    gathered = ((r.name, r.link.gather) for r in replicas if isinstance(r.link, BatchedLink))
    return [({"replica": name}, float(getattr(gather, field))) for name, gather in gathered if gather is not None]
