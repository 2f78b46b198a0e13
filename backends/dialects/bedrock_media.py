"""Images, documents and audio of chat as Converse's blocks. Pure: nothing is fetched, and of what comes as base64 only the head is read.

Formats and names: botocore's service model of bedrock-runtime (ImageBlock, DocumentBlock, AudioBlock) and the API reference.
"""

from __future__ import annotations

import base64
import binascii

from backends.dialects.bedrock_job import Block, bad

_HEAD = 64  # base64 characters that are looked at
_MAGIC = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF87a", "gif"), (b"GIF89a", "gif"))
_IMAGES = frozenset({"png", "jpeg", "gif", "webp"})
_DOCUMENTS = {
    "application/pdf": "pdf", "text/csv": "csv", "application/msword": "doc", "application/vnd.ms-excel": "xls", "text/html": "html",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx", "text/plain": "txt", "text/markdown": "md",
}  # fmt: skip
_SUFFIXES = frozenset(_DOCUMENTS.values())
_AUDIO = frozenset({"mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "mka", "x-aac", "m4a", "mpeg", "mpga", "pcm", "webm"})
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-()[]")


def _data(url: str, where: str) -> tuple[str, str]:
    """Media type and base64 text of a data URI. Raises `Fault`."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not comma or not head.endswith(";base64"):
        raise bad(f"'{where}' must be a data: URI in base64 (or s3://…): Bedrock fetches nothing from the web.", where)
    if not data:
        raise bad(f"'{where}' has no data.", where)
    return head[5:-7].partition(";")[0].lower(), data


def _head(data: str, where: str) -> bytes:
    try:
        return base64.b64decode(data[:_HEAD], validate=True)
    except (binascii.Error, ValueError):
        raise bad(f"'{where}' is not valid base64.", where) from None


def image(url: str, where: str) -> Block:
    """An image block from a data URI or an s3:// address. The format is what the bytes say, not what the URI says (wire trap 43)."""
    if url.startswith("s3://"):
        kind = url.rpartition(".")[2].lower().replace("jpg", "jpeg")
        if kind not in _IMAGES:
            raise bad(f"'{where}' must end in .png, .jpeg, .gif or .webp: Bedrock wants to be told the format.", where)
        return {"image": {"format": kind, "source": {"s3Location": {"uri": url}}}}
    _, data = _data(url, where)
    head = _head(data, where)
    found = next((name for magic, name in _MAGIC if head.startswith(magic)), None)
    if found is None and head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        found = "webp"
    if found is None:
        raise bad(f"'{where}' is no PNG, JPEG, GIF or WebP image.", where)
    return {"image": {"format": found, "source": {"bytes": data}}}


def _name(filename: str) -> str:
    """A name as Bedrock takes it: letters, digits, single spaces, hyphens, brackets; at most 200 characters."""
    kept = "".join(c if c in _NAME else " " for c in filename[:200])
    return " ".join(kept.split())


def document(data_uri: str, filename: str, taken: set[str], where: str) -> Block:
    """A document block. `taken` holds the names given so far and gets this one: names must differ within a request."""
    media, data = _data(data_uri, where)
    stem, dot, suffix = filename.rpartition(".")
    kind = _DOCUMENTS.get(media) or (suffix.lower() if suffix.lower() in _SUFFIXES else None)
    if kind is None:
        raise bad(f"'{where}' is of the type '{media}'; Bedrock takes pdf, csv, doc, docx, xls, xlsx, html, txt and md.", where)
    _head(data, where)
    name = base = _name(stem if dot else filename) or "document"
    number = 1
    while name in taken:
        number += 1
        name = f"{base[:190]} {number}"
    taken.add(name)
    return {"document": {"format": kind, "name": name, "source": {"bytes": data}}}


def audio(data: str, kind: str, where: str) -> Block:
    """An audio block from base64 text."""
    if kind not in _AUDIO:
        raise bad(f"'{where}.format' is '{kind}'; Bedrock takes {', '.join(sorted(_AUDIO))}.", f"{where}.format")
    _head(data, f"{where}.data")
    return {"audio": {"format": kind, "source": {"bytes": data}}}


def is_base64(text: str) -> bool:
    """Whether `text` is base64 as Bedrock's JSON wants its blobs. Not empty."""
    try:
        return bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False
