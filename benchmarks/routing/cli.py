"""Times decisions of a policy that has the routing simulator's interface: warm and cold prompts, some answers under way."""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import time
from collections import deque
from typing import Any, NamedTuple

BLOCK = 64  # tokens


class Ask(NamedTuple):
    """A request as a policy of the simulator sees it."""

    rid: int
    session: int
    tenant: int
    input_len: int
    blocks: tuple[int, ...]


def load(path: str) -> Any:
    """`package.module:Class` -> the class."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def measure(policy: Any, replicas: int, tokens: int, decisions: int, rng: random.Random) -> list[float]:
    """Seconds of each `choose`, sorted. Sessions grow turn by turn; each replica has up to 20 answers under way, one prompt waits."""
    ids, took, t = iter(range(1 << 62)), [], 0.0
    prompts = [tuple(next(ids) for _ in range(tokens // BLOCK)) for _ in range(200)]
    under_way: deque[tuple[int, int]] = deque()
    for rid in range(decisions):
        t += 0.5 / replicas
        blocks = rng.choice(prompts)
        keep = rng.choice((0, len(blocks) // 2, len(blocks)))
        blocks = blocks[:keep] + tuple(next(ids) for _ in range(len(blocks) - keep))
        began = time.perf_counter()
        at = policy.choose(Ask(rid, rid, 0, tokens, blocks), t, None)
        took.append(time.perf_counter() - began)
        sent = [] if at is None else [(rid, at)]
        sent += policy.release(t + 0.01, None)
        for key, i in sent:
            policy.on_first_token(key, i, t + 0.3, 0)
            policy.on_kv(i, blocks, ())
            under_way.append((key, i))
        while len(under_way) > 20 * replicas:
            key, i = under_way.popleft()
            policy.on_finish(key, i, t, 100)
        policy.outbox()
    return sorted(took)


def main() -> int:
    """Prints a table: microseconds a decision, by replicas and prompt length."""
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--policy", default="routing.kv:KVAware")
    ap.add_argument("--replicas", type=int, nargs="+", default=[8, 32, 64])
    ap.add_argument("--tokens", type=int, nargs="+", default=[8192, 10_000])
    ap.add_argument("--decisions", type=int, default=5000)
    o = ap.parse_args()
    out = sys.stdout
    out.write("| replicas | prompt tokens | p50 us | p99 us | max us |\n|---|---|---|---|---|\n")
    for n in o.replicas:
        for tokens in o.tokens:
            took = measure(load(o.policy)(n, BLOCK, seed=1), n, tokens, o.decisions, random.Random(1))
            p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
            out.write(f"| {n} | {tokens} | {1e6 * p50:.0f} | {1e6 * p99:.0f} | {1e6 * took[-1]:.0f} |\n")
    return 0
