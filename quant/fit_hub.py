"""The forms of a model on the Hugging Face hub, as cards, without fetching the model: the list of files, and one header by range requests.

Of one file the header is read (a few MiB). The other quantisations of the repository have the same tensors: their types follow from the mix
that their name says (`quant.mixes`), and their bytes from their size on the hub. Blocks on the network; every fault is a `HubError`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from backends.engines.gguf import GgufError
from quant import hub
from quant.fit import MAX_CARDS, Candidate
from quant.fit_card import Card, as_kind, of
from quant.hub import HubError, Ref
from quant.mixes import MIXES, MixError
from quant.quantize import facts
from quant.tensors import Model, TensorError, load_from

PIECE = 1 << 20  # bytes of one request; the next one is twice as large
MAX_HEADER = 64 << 20
MAX_PARTS = 16  # files of one model whose headers are read
REPO_FILES = 100_000

Fetch = Callable[[int, int], bytes]  # (first byte, how many) -> those bytes


class RemoteFile(io.RawIOBase):
    """A file on the hub that is read from its start. What was fetched is kept, so it can be read again; nothing is fetched twice."""

    def __init__(self, fetch: Fetch, size: int) -> None:
        self._fetch, self._size = fetch, size
        self._kept, self._at = bytearray(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < 0:
            raise io.UnsupportedOperation("only from the start")
        self._at = offset
        return offset

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes. Blocks; raises `HubError`, also where a header is longer than any header is."""
        end = min(self._size, self._at + size) if size >= 0 else self._size
        if end > MAX_HEADER:
            raise HubError(f"A header on the hub is longer than {MAX_HEADER >> 20} MiB; fetch the model and name the file instead.")
        while len(self._kept) < end:
            count = min(self._size - len(self._kept), max(PIECE, len(self._kept), end - len(self._kept)))
            piece = self._fetch(len(self._kept), count)
            if not piece:
                raise HubError("The hub sent nothing of a header; try again later.")
            self._kept += piece[:count]
        data = bytes(self._kept[self._at : end])
        self._at = end
        return data


def candidates(ref: Ref | str) -> list[Candidate]:
    """Every quantisation in the repository; only that of `ref` where it names one. Raises `HubError`."""
    ref = hub.parse(ref) if isinstance(ref, str) else ref
    if hub.offline_asked():
        raise HubError(f"{ref} is on the hub, which may not be asked (offline); name a local file.")
    with hub.clear(ref):
        sizes = _sizes(ref)
        chosen = hub.choose(list(sizes), ref)
        models = [_header(ref, name, sizes[name], model=name == chosen[0]) for name in chosen[:MAX_PARTS]]
        if len(chosen) > MAX_PARTS:
            raise HubError(
                f"{ref} has {len(chosen)} files; fetch it and name the first one, since more than {MAX_PARTS} are not asked for."
            )
    return _all(ref, chosen, sizes, models)


def _all(ref: Ref, chosen: list[str], sizes: Mapping[str, int], models: list[Model]) -> list[Candidate]:
    known = msgspec.structs.replace(of(models), quant=hub.quant_of(chosen[0]) or models[0].meta.file_type, name=chosen[0])
    found = [Candidate(known, "fetch", name=chosen[0])]
    if ref.quant:
        return found
    for files in hub.grouped(list(sizes)).values():
        kind = hub.quant_of(files[0])
        if files != chosen and kind and hub.complete(files) and len(found) < MAX_CARDS:
            found.append(Candidate(other(known, models[0], kind, sum(sizes[name] for name in files)), "fetch", name=files[0]))
    return found


def other(known: Card, source: Model, kind: str, file_bytes: int) -> Card:
    """The card of another file of the same model, by its kind and size. Pure."""
    made = known
    if (name := kind.removeprefix("UD-")) in MIXES:
        try:
            made = as_kind(known, source, name, facts(source))
        except MixError:
            made = known
    rest = known.file_bytes - known.weights_bytes
    return msgspec.structs.replace(scaled(made, max(1, file_bytes - rest)), quant=kind, name="", file_bytes=file_bytes)


def scaled(card: Card, weights_bytes: int) -> Card:
    """The card with its matrices' bytes stretched so that all weights have `weights_bytes`. Pure."""
    fixed = sum(each.bytes for each in card.matrices if each.place == "other")
    share = max(0.0, weights_bytes - fixed) / max(1, card.weights_bytes - fixed)
    made = tuple(
        each if each.place == "other" else msgspec.structs.replace(each, bytes=round(each.bytes * share)) for each in card.matrices
    )
    return msgspec.structs.replace(card, matrices=made)


def _sizes(ref: Ref) -> dict[str, int]:
    """Every file of the repository, and its bytes."""
    from huggingface_hub import HfApi

    info = HfApi(endpoint=hub.endpoint()).model_info(ref.repo, files_metadata=True)
    return {str(file.rfilename): int(file.size or 0) for file in (info.siblings or ())[:REPO_FILES]}


def _header(ref: Ref, name: str, size: int, *, model: bool) -> Model:
    if size <= 0:
        raise HubError(f"{hub.endpoint()} does not say how large {name} of {ref.repo} is; fetch it and name the file instead.")
    file: Any = RemoteFile(_fetch(ref, name), size)
    try:
        return load_from(file, size, Path(name), model=model)
    except (GgufError, TensorError) as error:
        raise HubError(f"{ref}: {error}") from None


def _fetch(ref: Ref, name: str) -> Fetch:
    """Reads ranges of a file, from where the hub says that it lies."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, utils

    helpers: Any = utils
    url = hf_hub_url(ref.repo, name, endpoint=hub.endpoint())
    meta = get_hf_file_metadata(url, endpoint=hub.endpoint())
    headers = helpers.build_hf_headers()
    if urlsplit(meta.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the token is the hub's, not the storage's to which it redirects

    def fetch(first: int, count: int) -> bytes:
        wanted = {**headers, "Range": f"bytes={first}-{first + count - 1}", "Accept-Encoding": "identity"}
        session = helpers.get_session()
        with session.stream("GET", meta.location, headers=wanted, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as answer:
            answer.raise_for_status()
            if first and answer.status_code != 206:
                raise HubError(f"{urlsplit(meta.location).netloc} sends no parts of files; fetch {ref} and name the file instead.")
            return _some(answer.iter_bytes(), count)

    return fetch


def _some(pieces: Any, count: int) -> bytes:
    """The first `count` bytes of a body, however long it is."""
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) >= count:
            break
    return bytes(data[:count])
