"""Checks of images, files, sound and embeddings, and of what stands beside chat: the list of models, tokens.

The pictures and sounds are made here, of a few hundred bytes each.
"""

from __future__ import annotations

import base64
import math
import struct
import time
import zlib
from typing import Any

import msgspec

from backends import tokens, wire
from backends.probe.ask import Asker, Heard
from backends.probe.types import Check, Outcome, Refused, Unclear, failed, passed, unshown

SIDE = 64  # pixels; some models refuse less than 28


def png() -> bytes:
    """A red square."""
    rows = (b"\x00" + b"\xff\x00\x00" * SIDE) * SIDE

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def wav() -> bytes:
    """Half a second of a tone, 16 kHz, one channel of 16 bits."""
    samples = b"".join(struct.pack("<h", round(9000 * math.sin(at * 440 * math.tau / 16000))) for at in range(8000))
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(samples)) + head + b"data" + struct.pack("<I", len(samples)) + samples


def pdf() -> bytes:
    """One page that says: The word is heron."""
    text = b"BT /F1 24 Tf 72 700 Td (The word is heron.) Tj ET"
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 5 0 R >> >> /Contents 4 0 R >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(text), text),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    out, places = b"%PDF-1.4\n", []
    for number, part in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"xref\n0 6\n0000000000 65535 f \n%btrailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (table, len(out))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def _seen(ask: Asker, part: dict[str, Any], question: str) -> tuple[Heard, bool]:
    """The answer to a question about `part`, and whether the part made the prompt longer; where it did not it was left out."""
    bare = await ask.say(question, max_tokens=24)
    heard = await ask.ask({"messages": [{"role": "user", "content": [{"type": "text", "text": question}, part]}], "max_tokens": 24})
    grown = not heard.count("prompt_tokens") or heard.count("prompt_tokens") > bare.count("prompt_tokens") + 8
    return heard, grown


async def _image(ask: Asker) -> Outcome:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_base64(png())}"}}
    heard, grown = await _seen(ask, part, "What colour is this? One word.")
    return passed(f"{heard.text!r}", images=True) if grown else failed("the image was left out", images=False)


async def _document(ask: Asker) -> Outcome:
    part = {"type": "file", "file": {"filename": "word.pdf", "file_data": f"data:application/pdf;base64,{_base64(pdf())}"}}
    heard, grown = await _seen(ask, part, "What is the word in this file?")
    return passed(f"{heard.text!r}", documents=True) if grown else failed("the file was left out", documents=False)


async def _audio(ask: Asker) -> Outcome:
    part = {"type": "input_audio", "input_audio": {"data": _base64(wav()), "format": "wav"}}
    heard, grown = await _seen(ask, part, "What do you hear? One word.")
    return passed(f"{heard.text!r}", audio=True) if grown else failed("the sound was left out", audio=False)


async def _embed(ask: Asker) -> Outcome:
    vectors = _vectors(await ask.ask({"input": ["heron", "lighthouse"]}, api="embeddings"))
    if len(vectors) != 2 or len(vectors[0]) != len(vectors[1]):
        return failed(f"2 texts gave {len(vectors)} vectors")
    return passed(f"2 vectors of {len(vectors[0])} numbers")


async def _dimensions(ask: Asker) -> Outcome:
    try:
        whole = _vectors(await ask.ask({"input": "heron"}, api="embeddings"))
    except Refused as refused:
        return unshown(f"no embeddings: {refused.fault.message}")
    if not whole or len(whole[0]) < 2:
        raise Unclear("the vector is too short to be made shorter")
    short = _vectors(await ask.ask({"input": "heron", "dimensions": len(whole[0]) // 2}, api="embeddings"))
    if not short or len(short[0]) != len(whole[0]) // 2:
        return failed(f"asked for {len(whole[0]) // 2} numbers, got {len(short[0]) if short else 0}", "dimensions")
    return passed(f"{len(short[0])} of {len(whole[0])} numbers")


def _vectors(heard: Heard) -> list[list[float]]:
    rows = heard.doc.get("data")
    return [row["embedding"] for row in rows if isinstance(row, dict) and isinstance(row.get("embedding"), list)] if rows else []


async def _models(ask: Asker) -> Outcome:
    link = ask.relay
    ask.calls += 1
    status, _, body = await link.ask(link.get(link.base + "/models"), ask.timeouts)
    try:
        listed = [entry["id"] for entry in msgspec.json.decode(body)["data"]]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return failed(f"HTTP {status}, and no list of models")
    known = ask.target.model in listed
    return passed(f"{len(listed)} models") if known else failed(f"'{ask.target.model}' is not among {len(listed)}: {', '.join(listed[:4])}")


async def _tokens(ask: Asker) -> Outcome:
    link = ask.relay
    ask.calls += 2
    text = "The heron stands still."
    found = msgspec.json.decode(await tokens.tokenize(link, {"prompt": wire.raw(text)}, ask.target.model, time.time()))
    back = await tokens.detokenize(link, {"tokens": wire.raw(found["tokens"])}, ask.target.model, time.time())
    said = str(msgspec.json.decode(back)["prompt"])
    return passed(f"{found['count']} tokens, and back") if text in said else failed(f"{text!r} came back as {said!r}")


CHECKS = (
    Check("image", "an image", _image, calls=2, input=1700, output=48, assume={"images": True}, denies={"images": False}),
    Check("pdf", "a PDF file", _document, calls=2, input=3200, output=48, assume={"documents": True}, denies={"documents": False}),
    Check("audio", "sound", _audio, calls=2, input=300, output=48, assume={"audio": True}, denies={"audio": False}),
    Check("embeddings", "vectors of two texts", _embed, output=0, chat=False),
    Check("dimensions", "shorter vectors", _dimensions, calls=2, output=0, shows=("dimensions",), chat=False),
    Check("models", "the model is in the server's list", _models, input=0, output=0, chat=False),
    Check("tokenize", "text to tokens and back", _tokens, calls=2, input=0, output=0, chat=False),
)  # fmt: skip
