"""The least that a gateway does to a body: read `model` and `stream`, replace `model`, keep every other byte as sent."""

from __future__ import annotations

import msgspec

_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])  # values stay raw bytes
_encoder = msgspec.json.Encoder()
_alias: dict[bytes, msgspec.Raw] = {}


def rewrite(body: bytes) -> bytes:
    """`body` with its `model` replaced by what the alias table says (here: itself)."""
    call = _decoder.decode(body)
    model = bytes(call["model"])
    call.get("stream")
    call["model"] = _alias.get(model) or _alias.setdefault(model, msgspec.Raw(model))
    return _encoder.encode(call)
