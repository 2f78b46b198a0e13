"""Images, documents, audio and video of a chat message as Gemini's `inlineData` and `fileData`. Pure; nothing is fetched.

A remote address goes to Google as `fileData` and is fetched there (`http`, `https`, `gs`), so no address is opened by us.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from backends.dialects.gemini_chat import Audio, File, Notes, Part, Url
from backends.dialects.types import Facts
from backends.wire import bad

_SCHEMES = ("http", "https", "gs")
# How well-known formats begin, in base64: for data that says no type, or none that means anything, and for images, whose declared
# type is often wrong: OpenAI does not mind, Gemini does.
_BEGINNINGS = (
    ("iVBORw0KGgo", "image/png"), ("/9j/", "image/jpeg"), ("UklGR", "image/webp"), ("R0lGOD", "image/gif"), ("JVBERi", "application/pdf"),
)  # fmt: skip
_VAGUE = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_SPELLED = {"image/jpg": "image/jpeg", "audio/x-wav": "audio/wav", "application/x-pdf": "application/pdf"}
_BY_SUFFIX = {
    "jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "heic": "image/heic", "heif": "image/heif",
    "gif": "image/gif", "pdf": "application/pdf", "txt": "text/plain", "html": "text/html", "md": "text/markdown", "csv": "text/csv",
    "mp3": "audio/mp3", "wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg", "aac": "audio/aac", "aiff": "audio/aiff",
    "mp4": "video/mp4", "mov": "video/mov", "webm": "video/webm", "mpeg": "video/mpeg",
}  # fmt: skip
_AUDIO = {"wav": "audio/wav", "mp3": "audio/mp3", "flac": "audio/flac", "ogg": "audio/ogg", "aac": "audio/aac", "aiff": "audio/aiff"}


def part(item: Part, facts: Facts, notes: Notes, where: str) -> dict[str, Any] | None:
    """One content part that is no text as a part of Gemini's; None when it was dropped. `where` is its path.
    Raises `Fault` (bad_request) for what is malformed or, when strict, for what the model does not take."""
    kind = item.type
    if kind in ("image_url", "video_url"):
        return _visual(kind, item.image_url if kind == "image_url" else item.video_url, facts, notes, where)
    if kind == "file":
        return _document(item.file or File(), facts, notes, where)
    if kind == "input_audio":
        return _audio(item.input_audio or Audio(), facts, notes, where)
    raise bad(f"'{where}.type' is '{kind[:64]}', which is no kind of content that can be sent to Gemini.", param=f"{where}.type")


def _visual(kind: str, given: str | Url | None, facts: Facts, notes: Notes, where: str) -> dict[str, Any] | None:
    if not facts.images:
        notes.lost(where, "this model takes no images")
        return None
    one = Url(given) if isinstance(given, str) else given or Url()
    if one.detail not in (None, "auto"):
        notes.add(f"{where}.{kind}.detail", "dropped", "Gemini chooses the resolution itself")
    return _either(one.url, f"{where}.{kind}.url")


def _document(file: File, facts: Facts, notes: Notes, where: str) -> dict[str, Any] | None:
    if not facts.documents:
        notes.lost(where, "this model takes no documents")
        return None
    if file.file_data is None and file.file_id is not None:
        return _remote(file.file_id, f"{where}.file.file_id")
    data, path = file.file_data or "", f"{where}.file.file_data"
    if data[:5] == "data:" or "://" in data[:16]:
        return _either(data, path)
    return _inline(_guess((file.filename or "").rpartition(".")[2]) or "", data, path)  # bare base64, as some clients send it


def _audio(audio: Audio, facts: Facts, notes: Notes, where: str) -> dict[str, Any] | None:
    if not facts.audio:
        notes.lost(where, "this model takes no audio")
        return None
    kind = _AUDIO.get(audio.format)
    if kind is None:
        path = f"{where}.input_audio.format"
        raise bad(f"'{path}' must be one of {', '.join(_AUDIO)}.", param=path)
    return _inline(kind, audio.data, f"{where}.input_audio.data")


def _either(url: str, path: str) -> dict[str, Any]:
    if url[:5] != "data:":
        return _remote(url, path)
    head, comma, data = url[5:].partition(",")
    kind, semicolon, encoding = head.rpartition(";")
    if not comma or not semicolon or encoding != "base64":
        raise bad(f"'{path}' must be a data URI in base64: data:<type>;base64,<data>.", param=path)
    return _inline(kind.partition(";")[0].lower(), data, path)


def _inline(kind: str, data: str, path: str) -> dict[str, Any]:
    kind = _SPELLED.get(kind, kind)
    if kind in _VAGUE or kind.startswith("image/"):
        seen = next((known for beginning, known in _BEGINNINGS if data.startswith(beginning)), "")
        kind = seen or (kind if kind not in _VAGUE else "")
    if not data or not kind:
        lacks = "has no data" if not data else "does not say its media type"
        raise bad(f"'{path}' {lacks}: it must be a data URI, data:<type>;base64,<data>.", param=path)
    return {"inlineData": {"mimeType": kind, "data": data}}


def _remote(url: str, path: str) -> dict[str, Any]:
    try:
        at = urlsplit(url)
    except ValueError:
        at = urlsplit("")
    if at.scheme not in _SCHEMES or not at.netloc:
        raise bad(f"'{path}' must be a data URI or an address that Google can open (https, http, gs).", param=path)
    kind = _guess(at.path.rpartition(".")[2])
    return {"fileData": {"mimeType": kind, "fileUri": url} if kind else {"fileUri": url}}


def _guess(suffix: str) -> str | None:
    return _BY_SUFFIX.get(suffix.lower())
