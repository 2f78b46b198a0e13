"""What gateways tell each other and engines tell them, in CPU time: how much of it one process can take.

    python -m tests.gateway.together.speed [--seconds 1]

Everything is as it comes from the wire: packets and batches are encoded by one side and decoded, checked and applied by the other, alone in
one process, without sockets. Figures are CPU seconds (`time.process_time`), so other programs disturb them less than they would a clock.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections.abc import Sequence

import msgspec

from routing.kvevents import Feed
from routing.prefix import TOKEN_BLOCK, PrefixIndex
from tests.fakes.kv_events import Speech
from tests.gateway.together.gateways import Gate, carry

AT_ONCE = 64  # calls between two ticks of a gateway
TICK = 0.02  # seconds between two packets
ENGINE_BLOCK = 16  # tokens of vLLM's blocks
BEATS = 4  # signs of life that may be on their way
HELD = 512  # prompts that the engine keeps


class Figures(msgspec.Struct):
    """CPU seconds, bytes and messages a call."""

    say: float = 0.0
    hear: float = 0.0
    size: float = 0.0
    messages: float = 0.0


def calls(seconds: float, tokens: int, shared: float) -> Figures:
    """One gateway tells another of calls from booking to end, whose prompts have so many tokens, a share of them as those before."""
    rng, sums, count = random.Random(7), Figures(), 0
    a, b = Gate(), Gate()
    for step in range(3):
        carry(a, b, now=step * TICK)
    blocks = max(1, tokens // TOKEN_BLOCK)
    system = [rng.getrandbits(64) for _ in range(round(shared * blocks))]
    end = time.process_time() + seconds
    while time.process_time() < end or not count:
        before = a.together.counts.sent
        for _ in range(AT_ONCE):
            key = rng.getrandbits(60)
            a.book(key, key % 3, tokens, [*system, *(rng.getrandbits(64) for _ in range(blocks - len(system)))])
            a.s.answered(key, a.now)
            a.s.ended(key, a.now)
        count += AT_ONCE
        said = -1
        while a.together.counts.sent > said:  # a packet holds so much, and a sign of life may be among them
            said = a.together.counts.sent
            sums.say += _timed(a)
        b.air.next.packets += [(0, packet) for packet in a.air.sent]
        sums.size += sum(map(len, a.air.sent))
        sums.messages += a.together.counts.sent - before
        sums.hear += _timed(b)
        if b.together.counts.heard < a.together.counts.sent - BEATS or b.together.counts.bad or b.together.counts.missed or b.foreign():
            raise RuntimeError("not all was heard")
        a.air.sent.clear()
        carry(a, b, now=a.now + TICK, rounds=1)
    return Figures(sums.say / count, sums.hear / count, sums.size / count, sums.messages / count)


def _timed(gate: Gate) -> float:
    """CPU seconds of one tick, which is a packet's time later."""
    gc.collect()
    began = time.process_time()
    gate.tick(gate.now + TICK)
    return time.process_time() - began


def events(seconds: float, tokens: int) -> tuple[float, float]:
    """An engine stores and removes the blocks of prompts, one batch a prompt: CPU seconds a block of the engine's, and bytes."""
    rng, speech = random.Random(7), Speech("maps")
    index = PrefixIndex(8)
    feed = Feed(0, index, PrefixIndex(8), "m")
    took, size, done, seq, held = 0.0, 0, 0, 0, list[list[int]]()
    blocks = tokens // ENGINE_BLOCK
    end = time.process_time() + seconds
    while time.process_time() < end or not done:
        payloads = []
        for _ in range(AT_ONCE):
            held.append([rng.getrandbits(64) for _ in range(blocks)])
            said = [speech.stored(held[-1], [rng.randrange(150_000) for _ in range(tokens)], size=ENGINE_BLOCK)]
            said += [speech.removed(held.pop(0))] if len(held) > HELD else []
            payloads.append(speech.batch(*said, ts=1.0))
        gc.collect()
        began = time.process_time()
        for payload in payloads:
            feed.message(seq, payload)
            seq += 1
        took += time.process_time() - began
        size += sum(map(len, payloads))
        done += blocks * AT_ONCE
        if not feed.live or feed.orphans or len(index) != len(held) * tokens // TOKEN_BLOCK:
            raise RuntimeError("not all was taken")
    return took / done, size / done


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints a table."""
    p = argparse.ArgumentParser(prog="python -m tests.gateway.together.speed", description=__doc__)
    p.add_argument("--seconds", type=float, default=1.0, help="of CPU a row (default 1)")
    a = p.parse_args(argv)
    rows = [
        "| a call of another gateway, from booking to end | said: CPU us | heard: CPU us | bytes | messages | heard a second and core |"
    ]
    rows.append("|---|---:|---:|---:|---:|---:|")
    for tokens, shared in ((512, 0.5), (4096, 0.5), (32768, 0.9)):
        f = calls(a.seconds, tokens, shared)
        name = f"{tokens:,} tokens, {shared:.0%} as before"
        rows.append(f"| {name} | {f.say * 1e6:.1f} | {f.hear * 1e6:.1f} | {f.size:,.0f} | {f.messages:.2f} | {1 / f.hear:,.0f} |")
    rows += [
        "",
        "| an engine's KV events, stored and removed | CPU us a block of 16 | bytes a block | blocks a second and core |",
        "|---|---:|---:|---:|",
    ]
    for tokens in (512, 4096):
        each, size = events(a.seconds, tokens)
        rows.append(f"| prompts of {tokens:,} tokens | {each * 1e6:.2f} | {size:.0f} | {1 / each:,.0f} |")
    sys.stdout.write("\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
