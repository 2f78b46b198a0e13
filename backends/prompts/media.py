"""Images, audio and files of a message: what they weigh in tokens, and a hash of what they are. Pure.

What a vision encoder makes of an image is the model's own; the figures are those of `dialects.count`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from backends.dialects.count import PAGE, PAGE_BYTES, SECOND, SECOND_BYTES, image_tokens

MOST = 65_536  # tokens that one part can count for
KINDS: Mapping[str, str] = {
    "image_url": "images", "input_image": "images", "image": "images", "image_embeds": "images", "video_url": "images", "video": "images",
    "input_audio": "audio", "audio_url": "audio", "audio": "audio", "file": "documents", "input_file": "documents", "document": "documents",
}  # fmt: skip
PLACEHOLDERS: Mapping[str, str] = {"images": "image", "audio": "audio", "documents": "file"}


class Media(msgspec.Struct, frozen=True):
    """One part that is not text: what it `needs` of a model, its content's hash, and about how many `tokens` it is."""

    needs: str
    hash: int
    tokens: int


def read(part: Mapping[str, Any], digest: Callable[[bytes, int], int]) -> Media | None:
    """The media of a content part; None when it is text or unknown. O(bytes): data URIs are hashed whole."""
    kind = str(part.get("type", ""))
    needs = KINDS.get(kind)
    if needs is None:
        return None
    data = _data(part.get(kind, part))
    raw = data.encode() if isinstance(data, str) else msgspec.json.encode(data)
    return Media(needs, digest(raw, len(raw)), max(1, min(MOST, _tokens(needs, data))))


def _data(value: Any) -> Any:
    """Where the content itself is: a URL, base64, or a file's id. Parts that say how to look at it are not it."""
    if isinstance(value, dict):
        for key in ("url", "data", "file_data", "image_url", "file_id", "file_url"):
            found = value.get(key)
            if isinstance(found, str):
                return found
    return value


def _tokens(needs: str, data: Any) -> int:
    if needs == "images":
        return image_tokens(data)
    text = data if isinstance(data, str) and not data.startswith(("http:", "https:")) else ""
    size = len(text) * 3 // 4
    return PAGE * (1 + size // PAGE_BYTES) if needs == "documents" else SECOND * (1 + size // SECOND_BYTES)
