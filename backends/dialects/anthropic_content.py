"""Content parts of a chat message as Anthropic's content blocks: text, images, documents. Pure.

Sources: the `*BlockParam` types of the official SDK; wire traps 5, 7, 43.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from backends import wire
from backends.dialects.anthropic_report import Block, Report
from backends.dialects.types import Facts

Part = dict[str, Any]

# The first bytes of the files that Anthropic takes. A declared type is often wrong, and the API checks.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF87a", "image/gif"), (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)  # fmt: skip
IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
# Anthropic's own block types: a part that already is one goes as it is.
_OWN = frozenset({"image", "document", "search_result", "tool_reference", "container_upload"})


def sniff(head: bytes) -> str | None:
    """The media type that the first 16 bytes of a file tell, of those that Anthropic takes."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def data_uri(url: str) -> tuple[str, str] | None:
    """(declared media type, base64 text) of a base64 `data:` URI; None when it is none."""
    head, comma, data = url.partition(",")
    if not comma or not head.lower().startswith("data:") or not head.lower().endswith(";base64"):
        return None
    return head[5:].partition(";")[0].lower(), data


def text_block(text: str, part: Part | None = None) -> Block | None:
    """A text block, with the cache mark of its part; None for text that is empty or blank, which Anthropic rejects."""
    if not text.strip():
        return None
    return marked({"type": "text", "text": text}, part)


def marked(block: Block, part: Part | None) -> Block:
    """`block` with the `cache_control` of `part`. Mutates and returns it."""
    mark = part.get("cache_control") if part is not None else None
    if isinstance(mark, dict):
        block["cache_control"] = mark
    return block


class Parts:
    """Turns content into blocks for one request."""

    __slots__ = ("facts", "report")

    def __init__(self, facts: Facts, report: Report) -> None:
        self.facts, self.report = facts, report

    def blocks(self, content: str | list[Part] | None, where: str) -> list[Block]:
        """The blocks of a message's content. `where` is its path. Raises `Fault` (bad_request) for what cannot be sent."""
        if content is None:
            return []
        if isinstance(content, str):
            return [b for b in (text_block(content),) if b is not None]
        found = (self.block(part, f"{where}[{i}]") for i, part in enumerate(content))
        return [b for b in found if b is not None]

    def block(self, part: Part, where: str) -> Block | None:
        """One part as a block; None when it is empty, or dropped with a note."""
        kind = part.get("type")
        if kind == "text":
            return text_block(string(part, "text", where), part)
        if kind == "refusal":
            return text_block(string(part, "refusal", where), part)
        if kind == "image_url":
            return self._image(part, where)
        if kind == "file":
            return self._file(part, where)
        if kind in _OWN:
            return part
        if kind == "input_audio":
            self.report.cannot(where, "is audio, which this model does not take; send text, images or documents")
            return None
        raise wire.bad(f"'{where}.type' is {kind!r}; send text, image_url or file parts.", param=f"{where}.type")

    def _image(self, part: Part, where: str) -> Block | None:
        if not self.facts.images:
            self.report.cannot(where, "is an image, which this model does not take")
            return None
        image = part.get("image_url")
        image = {"url": image} if isinstance(image, str) else image
        if not isinstance(image, dict):
            raise wire.bad(f"'{where}.image_url' must be an object with a url.", param=f"{where}.image_url")
        if image.get("detail") not in (None, "auto"):
            self.report.tell(f"{where}.image_url.detail", "dropped", "Anthropic has no levels of detail")
        url = string(image, "url", f"{where}.image_url")
        if url.startswith("https://"):
            return marked({"type": "image", "source": {"type": "url", "url": url}}, part)
        found = data_uri(url)
        if found is None:
            raise wire.bad(f"'{where}.image_url.url' must be an https URL or a base64 data: URI.", param=f"{where}.image_url.url")
        block = _inline(found[0], found[1], f"{where}.image_url.url")
        if block["type"] != "image":
            raise wire.bad(f"'{where}.image_url.url' is no image; send it as a file part.", param=f"{where}.image_url.url")
        return marked(block, part)

    def _file(self, part: Part, where: str) -> Block | None:
        file = part.get("file")
        if not isinstance(file, dict):
            raise wire.bad(f"'{where}.file' must be an object with file_data or file_id.", param=f"{where}.file")
        if not self.facts.documents:
            self.report.cannot(where, "is a file, which this model does not take")
            return None
        if isinstance(file.get("file_id"), str):
            block: Block = {"type": "document", "source": {"type": "file", "file_id": file["file_id"]}}
        else:
            data = string(file, "file_data", f"{where}.file")
            if data.startswith("https://"):
                block = {"type": "document", "source": {"type": "url", "url": data}}
            else:
                block = _inline(*(data_uri(data) or ("", data)), f"{where}.file.file_data")
        if block["type"] == "document" and isinstance(file.get("filename"), str):
            block["title"] = file["filename"]
        return marked(block, part)


def string(part: Part, key: str, where: str) -> str:
    """The string under `key`. Raises `Fault` (bad_request) naming its path when it is none."""
    found = part.get(key)
    if not isinstance(found, str):
        raise wire.bad(f"'{where}.{key}' must be a string.", param=f"{where}.{key}")
    return found


def _inline(declared: str, data: str, where: str) -> Block:
    """A base64 file as the block that its kind asks for. Its own first bytes say what it is before its declared type does."""
    try:
        head = base64.b64decode(data[:24] + "=" * (-len(data[:24]) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise wire.bad(f"'{where}' is not valid base64.", param=where) from None
    kind = sniff(head) or declared
    if kind == "image/jpg":
        kind = "image/jpeg"
    if kind in IMAGES:
        return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}
    if kind == "application/pdf":
        return {"type": "document", "source": {"type": "base64", "media_type": kind, "data": data}}
    if kind.startswith("text/"):
        return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": _decoded(data, where)}}
    raise wire.bad(f"'{where}' is {kind or 'of an unknown kind'}; send a PNG, JPEG, GIF or WebP image, a PDF or text.", param=where)


def _decoded(data: str, where: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise wire.bad(f"'{where}' is not base64 of UTF-8 text.", param=where) from None
