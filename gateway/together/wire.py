"""What gateways say, as bytes: one packet in MessagePack, arrays throughout.

    packet    version, host, gateway, count, unix, steady, group, messages
    message   kind, key, replica, age, prefill, tokens, base, blocks

`count` numbers the packets of a gateway, so that a lost one is noticed. `unix` and `steady` are the sender's clocks when it sent, in
seconds; `age` is how long before that a message was. Replicas and groups are 64-bit BLAKE2b of what they are on every host; blocks are
8 bytes each, little-endian. A new kind of message needs no new version: those who do not know it pass it over.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Hashable, Sequence
from hashlib import blake2b

import msgspec

from routing.kv_peers import Message

VERSION = 1
MOST_BYTES = 1 << 18  # of a packet; a fetch is below 64 KiB
MOST_SECONDS = 86_400.0  # of a predicted prefill, and of a message's age
MOST_TOKENS = 1 << 40
_U64 = 1 << 64
_LEAST_SECONDS = 1e-6

_Said = tuple[str, int, int, float, float, int, int | None, bytes]


class Packet(msgspec.Struct, frozen=True, array_like=True):
    """What one gateway says of one group of replicas at one moment."""

    version: int
    host: int
    gateway: int
    count: int
    unix: float
    steady: float
    group: int
    messages: Sequence[_Said]


class BadPacket(ValueError):
    """Bytes that are not a packet of this version; says what is wrong."""


_DECODER = msgspec.msgpack.Decoder(Packet)
_ENCODER = msgspec.msgpack.Encoder()


def name64(*parts: str | bytes) -> int:
    """A name that all gateways find for the same thing, as a replica's URL and model. Order counts; not 0."""
    h = blake2b(digest_size=8)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        h.update(len(raw).to_bytes(8, "little") + raw)
    return int.from_bytes(h.digest(), "little") or 1


def encode(host: int, gateway: int, count: int, unix: float, steady: float, group: int, messages: Sequence[Message], now: float) -> bytes:
    """One packet; `now` is the time on the messages' own clock."""
    said = [(m.kind, m.key, m.replica, now - m.at, m.prefill, m.tokens, _base(m.base), _pack(m.blocks)) for m in messages]
    return _ENCODER.encode(Packet(VERSION, host, gateway, count, unix, steady, group, said))


def decode(data: bytes) -> Packet:
    """Reads a packet. Raises BadPacket."""
    if len(data) > MOST_BYTES:
        raise BadPacket(f"{len(data)} bytes, at most {MOST_BYTES} are read")
    try:
        packet = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise BadPacket(f"not a packet: {e}") from None
    if packet.version != VERSION:
        raise BadPacket(f"version {packet.version}, this gateway speaks {VERSION}")
    numbers = (packet.host, packet.gateway, packet.count, packet.group)
    if not all(0 < n < _U64 for n in numbers) or not math.isfinite(packet.unix) or not math.isfinite(packet.steady):
        raise BadPacket("a name or a clock is out of range")
    return packet


def messages(packet: Packet, sent: float) -> tuple[list[Message], int]:
    """Its messages, with the times that they had on a clock that showed `sent` when it was sent; and how many could not be used."""
    out = [m for said in packet.messages if (m := _message(packet.gateway, said, sent)) is not None]
    return out, len(packet.messages) - len(out)


def _message(gateway: int, said: _Said, sent: float) -> Message | None:
    kind, key, replica, age, prefill, tokens, base, blocks = said
    fits = 0 <= key < _U64 and 0 <= replica < _U64 and 0 <= tokens <= MOST_TOKENS and (base is None or 0 <= base < _U64)
    if not fits or not abs(age) <= MOST_SECONDS or not 0.0 <= prefill <= MOST_SECONDS or len(blocks) % 8:
        return None
    return Message(gateway, kind, key, replica, sent - max(0.0, age), max(_LEAST_SECONDS, prefill), tokens, base, _unpack(blocks))


def _base(base: Hashable) -> int | None:
    return base if isinstance(base, int) and 0 <= base < _U64 else None


def _pack(blocks: Sequence[Hashable]) -> bytes:
    if not blocks:
        return b""
    try:
        numbers = array("Q", [b for b in blocks if isinstance(b, int)])
    except OverflowError:
        return b""  # no hashes of ours: they would mean nothing elsewhere
    return _ordered(numbers).tobytes()


def _unpack(raw: bytes) -> tuple[int, ...]:
    return tuple(_ordered(array("Q", raw)))


def _ordered(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
