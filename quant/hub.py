"""Fetches GGUF models from the Hugging Face hub: `hf:OWNER/NAME[:QUANT]` becomes a path on this machine.

Downloads resume where they stopped, also after a crash; what is cached is used without the network when there is none.
Everything that goes wrong is a `HubError` with one sentence for people. `resolve` blocks (network, disk): call it from a thread.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

PREFERRED = (
    "Q4_K_M", "Q8_0", "Q5_K_M", "Q4_K_S", "Q4_0", "Q6_K", "Q5_K_S", "IQ4_XS", "IQ4_NL", "Q5_0", "Q4_1", "Q5_1", "Q3_K_M", "Q3_K_L",
    "Q3_K_S", "Q2_K", "MXFP4", "BF16", "F16", "F32",
)  # fmt: skip
_REF = re.compile(r"hf:(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<quant>[\w./-]+))?")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANT = re.compile(r"(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32))$", re.I)
_EXTRA = re.compile(r"(?:^|[/._-])(mmproj|imatrix|vocab-only|lora)(?=[._-])", re.I)  # not models by themselves
Progress = Callable[[str, int, int], None]  # file name, bytes done, bytes in all


class HubError(ValueError):
    """Why a model could not be had from the hub. `str()` is one sentence: what, where, what to do."""


class Ref(msgspec.Struct, frozen=True):
    """A model on the hub. `quant` is a quantisation ("Q4_K_M"), a file name, or "" for our choice."""

    repo: str
    quant: str = ""

    def __str__(self) -> str:
        return f"hf:{self.repo}" + (f":{self.quant}" if self.quant else "")


def parse(text: str) -> Ref:
    """`hf:OWNER/NAME[:QUANT]`. Pure; raises `HubError`."""
    match = _REF.fullmatch(text)
    if match is None or ".." in text:
        raise HubError(f"{text!r} is not a model on the hub; write hf:OWNER/NAME[:QUANT], as in hf:Qwen/Qwen3-0.6B-GGUF:Q8_0.")
    return Ref(match["repo"], match["quant"] or "")


def quant_of(name: str) -> str:
    """The quantisation that a file's name tells, upper case; "" when it tells none."""
    stem = SHARD.sub("", name.removesuffix(".gguf"))
    match = _QUANT.search(stem)
    return re.sub(r"^FP(?=16|32)", "F", match.group(1).upper()) if match else ""


def grouped(files: Sequence[str]) -> dict[str, list[str]]:
    """Every model among the files: its name without shard number -> its files in order. Pure."""
    found: dict[str, list[str]] = {}
    for name in sorted(files):
        if name.lower().endswith(".gguf") and not _EXTRA.search(name):
            found.setdefault(SHARD.sub("", name[:-5]), []).append(name)
    return found


def complete(files: Sequence[str]) -> bool:
    """Whether all parts of a model are there. Pure."""
    match = SHARD.search(files[0][:-5])
    return match is None or len(files) == int(match.group(2))


def choose(files: Sequence[str], ref: Ref) -> list[str]:
    """The files to fetch for `ref` out of the repository's, shards in order. Pure; raises `HubError` that lists what there is."""
    models = grouped(files)
    if not models:
        raise HubError(f"{ref.repo} holds no GGUF model; look for a repository whose name ends in -GGUF.")
    if ref.quant.lower().endswith(".gguf"):
        wanted = [parts for parts in models.values() if ref.quant in parts]
    elif ref.quant:
        wanted = [parts for parts in models.values() if quant_of(parts[0]) in (ref.quant.upper(), f"UD-{ref.quant.upper()}")]
        wanted.sort(key=lambda parts: quant_of(parts[0]) != ref.quant.upper())
    else:
        rank = {quant: place for place, quant in enumerate(PREFERRED)}
        wanted = sorted(models.values(), key=lambda parts: rank.get(quant_of(parts[0]).removeprefix("UD-"), len(rank)))
    if not wanted:
        there = ", ".join(sorted({quant_of(parts[0]) or parts[0] for parts in models.values()})[:40])
        raise HubError(f"{ref.repo} has no {ref.quant}; it has {there}.")
    if not complete(wanted[0]):
        raise HubError(f"{ref.repo} has only {len(wanted[0])} parts of {wanted[0][0]}; choose another quantisation.")
    return wanted[0]


def offline_asked() -> bool:
    """Whether the environment says that the hub must not be asked (`HF_HUB_OFFLINE`)."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "TRUE", "YES", "ON")


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT`, or the public one."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


class Unreachable(HubError):
    """The hub did not answer: what is cached will do."""


# The first type that fits names the sentence. {hub}, {repo}, {ref}, {status}, {why} are filled in.
_SENTENCES: tuple[tuple[str, type[HubError], str], ...] = (
    ("GatedRepoError", HubError, "{repo} is gated: accept its licence on {hub}/{repo} and set HF_TOKEN to a token of yours."),
    ("RepositoryNotFoundError", HubError, "{repo} was not found on {hub}; check its name, or set HF_TOKEN if it is private."),
    ("RevisionNotFoundError", HubError, "{repo} has no branch 'main' on {hub}; name another repository."),
    ("RemoteEntryNotFoundError", HubError, "{ref} changed on the hub while it was fetched; try again."),
    ("LocalEntryNotFoundError", Unreachable, "{hub} cannot be reached and {ref} is not cached; try again later, or name a local file."),
    ("OfflineModeIsEnabled", Unreachable, "{hub} may not be asked (offline) and {ref} is not in the cache; name a local file."),
    ("HfHubHTTPError", Unreachable, "{hub} answered {status} for {ref}; try again later."),
    ("HTTPError", Unreachable, "{hub} cannot be reached, or broke off ({why}); the same command resumes the download of {ref}."),
)


def _explain(ref: Ref, error: Exception, variable: str = "HF_HOME") -> HubError:
    """What huggingface_hub raised, as a sentence. Types by name: which HTTP library it is built on changes between versions."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError(f"There is no space left for {ref}; free some, or set {variable} to a folder on a larger disk.")
    names = {base.__name__ for base in type(error).__mro__}
    why = str(error).strip().splitlines()
    facts = {
        "hub": endpoint(), "repo": ref.repo, "ref": str(ref), "why": (why[0] if why else type(error).__name__)[:200],
        "status": getattr(getattr(error, "response", None), "status_code", "an error"),
    }  # fmt: skip
    for name, kind, sentence in _SENTENCES:
        if name in names:
            return kind(sentence.format(**facts))
    return HubError(f"{ref} could not be fetched: {facts['why'].rstrip('.')}.")


@contextmanager
def clear(ref: Ref, variable: str = "HF_HOME") -> Iterator[None]:
    """Turns what huggingface_hub raises into a `HubError`; programming errors stay what they are. `variable`: says where files are kept."""
    from huggingface_hub.errors import HfHubHTTPError

    network: list[Any] = [base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"]
    expected: tuple[type[Exception], ...] = (OSError, ValueError, *network)
    try:
        yield
    except HubError:
        raise
    except expected as error:
        raise _explain(ref, error, variable) from error


def _cache(cache: str | os.PathLike[str] | None) -> Path:
    from huggingface_hub import constants

    return Path(cache) if cache else Path(constants.HF_HUB_CACHE)


def _cached(ref: Ref, cache: Path) -> Path:
    """The model's first file in the cache, without the network. Raises `HubError`."""
    base = cache / f"models--{ref.repo.replace('/', '--')}"
    try:
        snapshot = base / "snapshots" / (base / "refs" / "main").read_text().strip()
        files = [str(path.relative_to(snapshot)) for path in snapshot.rglob("*.gguf") if path.exists()]
    except OSError:
        files = []
    if not files:
        raise HubError(f"{ref} is not in the cache {cache} and the hub may not be asked (offline); go online once, or name a local file.")
    try:
        return snapshot / choose(files, ref)[0]
    except HubError as error:
        raise HubError(f"Offline, of the cache only: {error}") from None


def _space(ref: Ref, needed: int, cache: Path) -> None:
    place = cache
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        sizes = f"{needed / 1e9:.1f} GB but {place} has {free / 1e9:.1f} GB free"
        raise HubError(f"{ref} needs {sizes}; free some, or set HF_HOME to a folder on a larger disk.")


def _bar(progress: Progress | None) -> Any:
    """A tqdm class that tells `progress` instead of drawing; None for huggingface_hub's own bar on standard error."""
    if progress is None:
        return None
    from huggingface_hub.utils.tqdm import tqdm

    def display(self: Any, *_: object, **__: object) -> None:
        progress(str(self.desc or "").removesuffix(": "), int(self.n), int(self.total or 0))

    def begin(self: Any, *args: Any, **options: Any) -> None:
        base.__init__(self, *args, **{**options, "disable": False})  # by itself a bar is silent without a terminal

    base: Any = tqdm
    return type("Bar", (base,), {"display": display, "__init__": begin})


def silent() -> Any:
    """A tqdm class that draws nothing."""
    return _bar(lambda *_: None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blob(ref: Ref, name: str, folder: Path, bar: Any) -> None:
    """Puts one file's content where huggingface_hub's cache keeps it, going on with what an earlier try left.

    huggingface_hub itself begins anew in every process: it gives each its own temporary file. Ours has one name and a lock.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, utils
    from huggingface_hub.file_download import http_get

    helpers: Any = utils

    url = hf_hub_url(ref.repo, name, endpoint=endpoint())
    meta = get_hf_file_metadata(url, endpoint=endpoint())
    if not re.fullmatch(r"[0-9a-zA-Z-]{8,128}", meta.etag or "") or not meta.size or meta.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
        return  # left to huggingface_hub's own ways
    blob = folder / "blobs" / str(meta.etag)
    blob.parent.mkdir(parents=True, exist_ok=True)
    headers = helpers.build_hf_headers()
    if urlsplit(meta.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the token is the hub's, not the storage's to which it redirects
    with open(f"{blob}.partial", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a second process waits, then finds the whole file
        resumed = os.fstat(file.fileno()).st_size
        if blob.exists():
            return
        file.seek(0, os.SEEK_END)
        options: dict[str, Any] = {"expected_size": meta.size, "displayed_filename": name, "tqdm_class": bar}
        http_get(meta.location, file, resume_size=resumed, headers=headers, **options)
        file.flush()
        partial = Path(file.name)
        if resumed and len(blob.name) == 64 and _sha256(partial) != blob.name:
            file.truncate(0)
            raise HubError(f"The parts of {name} from {ref} do not fit together; the same command fetches it anew.")
        partial.rename(blob)


def _fetch(ref: Ref, cache: Path, progress: Progress | None) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    site = endpoint()
    info = HfApi(endpoint=site).model_info(ref.repo, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    names = choose(list(sizes), ref)
    folder = cache / f"models--{ref.repo.replace('/', '--')}"
    missing = [name for name in names if not (folder / "snapshots" / str(info.sha) / name).exists()]
    started = sum(path.stat().st_size for path in folder.glob("blobs/*.partial"))
    _space(ref, sum(sizes[name] for name in missing) - started, cache)
    bar = _bar(progress)
    for name in missing:
        _blob(ref, name, folder, bar)
    paths = [Path(hf_hub_download(ref.repo, name, cache_dir=cache, endpoint=site, tqdm_class=bar)) for name in names]
    if len({path.parent for path in paths}) > 1:
        raise HubError(f"{ref} changed on the hub while it was fetched; try again.")
    return paths[0]


def resolve(
    ref: Ref | str, *, offline: bool = False, cache: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> Path:
    """The path of the model's (first) GGUF file, fetched when it is not cached. Blocks, possibly for hours; raises `HubError`.

    `offline`, or HF_HUB_OFFLINE: only the cache is looked at. When the hub cannot be reached, the cache is used too.
    `progress` is called now and then with (file, bytes done, bytes in all); without it a bar is drawn on standard error.
    """
    ref = parse(ref) if isinstance(ref, str) else ref
    place = _cache(cache)
    if offline or offline_asked():
        return _cached(ref, place)
    try:
        with clear(ref):
            return _fetch(ref, place, progress)
    except Unreachable as error:
        try:
            return _cached(ref, place)
        except HubError:
            raise error from None
