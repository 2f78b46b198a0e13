# mypy: allow-untyped-calls, allow-untyped-decorators, no-warn-unused-ignores, no-warn-return-any
"""Train the toy model on synthetic conversations: ``python -m quant.builtin.train --out DIR``.

Only the assistant's tokens count in the loss. Data are drawn on the fly from a seed, so a run is reproducible on one machine;
batches hold conversations of similar length. A checkpoint and the tokenizer's merges are written every few hundred steps.
"""

import argparse
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import tokenizer as bpe
from .model import Config, Muon, Toy
from .sampling import Sampler
from .talk import SHARES, TASKS, conversation
from .template import renderer

_ROUND = 8
_POOL = 1500
_IGNORE = -100


@dataclass(frozen=True)
class Settings:
    """What a run depends on; ``tokens`` is the size of a batch with its padding."""

    steps: int = 2400
    tokens: int = 2048
    lr: float = 4e-3
    warmup: int = 100
    decay: float = 0.05
    seed: int = 7
    longest: int = 640
    vocabulary: int = 768


class Encoder:
    """Conversations to token ids and labels, through the chat template."""

    def __init__(self, merges: list[tuple[str, str]]) -> None:
        self.tokenizer = bpe.build(merges)
        self.render = renderer()
        self.end: int = self.tokenizer.token_to_id(bpe.END)
        self.answer: int = self.tokenizer.token_to_id("<|assistant|>")

    def ids(self, text: str) -> list[int]:
        """Token ids of a text (specials recognised)."""
        return list(self.tokenizer.encode(text).ids)

    def labelled(self, messages: list[dict[str, Any]], tools: Any, plain: bool = False) -> tuple[list[int], list[int]]:
        """Ids and labels of one conversation; ``plain`` renders a single question as bare text, for ``/v1/completions``."""
        if plain:
            lead = self.ids(f"Q: {messages[-2]['content']}\nA:")
            reply = [*self.ids(f" {messages[-1]['content']}"), self.end]
            return lead + reply, [_IGNORE] * len(lead) + reply
        ids = self.ids(self.render(messages, tools))
        labels, inside = [], False
        for token in ids:
            labels.append(token if inside else _IGNORE)
            inside = token == self.answer or (inside and token != self.end)
        return ids, labels


def learn_merges(settings: Settings, samples: int = 20000) -> list[tuple[str, str]]:
    """The tokenizer's merges, from generated conversations."""
    sampler, render = Sampler(random.Random(settings.seed)), renderer()
    texts = (render(*conversation(sampler)) for _ in range(samples))
    return bpe.learn(texts, samples // 200, settings.vocabulary)


def batches(encoder: Encoder, settings: Settings, sampler: Sampler, shares: dict[str, float]) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches ``(ids, labels)``, each ``(conversations, length)``, padded to similar lengths."""
    while True:
        pool: list[tuple[list[int], list[int]]] = []
        while len(pool) < _POOL:
            messages, tools = conversation(sampler, shares)
            plain = len(messages) == 2 and not tools and sampler.chance(0.06)
            pair = encoder.labelled(messages, tools, plain)
            if len(pair[0]) <= settings.longest:
                pool.append(pair)
        buckets: dict[int, list[tuple[list[int], list[int]]]] = defaultdict(list)
        ready = []
        for ids, labels in pool:
            width = -(-len(ids) // _ROUND) * _ROUND
            buckets[width].append((ids, labels))
        line = [(width, pair) for width in sorted(buckets) for pair in buckets[width]]
        while line:
            end = 1
            while end < len(line) and line[end][0] * (end + 1) <= settings.tokens:
                end += 1
            ready.append(_stack([pair for _, pair in line[:end]], line[end - 1][0]))
            line = line[end:]
        sampler.rng.shuffle(ready)
        yield from ready


def _stack(pairs: list[tuple[list[int], list[int]]], width: int) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(len(pairs), width, dtype=torch.long)
    labels = torch.full((len(pairs), width), _IGNORE)
    for row, (tokens, wanted) in enumerate(pairs):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(wanted)] = torch.tensor(wanted)
    return ids, labels


def loss_of(model: Toy, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled tokens (only those are projected onto the vocabulary)."""
    hidden, targets = model(ids)[:, :-1], labels[:, 1:]
    chosen = targets != _IGNORE
    return F.cross_entropy(model.logits(hidden[chosen]), targets[chosen])


@torch.no_grad()
def check(model: Toy, encoder: Encoder, per_task: int, seed: int = 1) -> dict[str, float]:
    """Share of held-out answers of each task that greedy decoding would give exactly.

    One forward pass per answer: an answer is exact when every label is the most likely token after the labels before it.
    """
    result = {}
    sampler = Sampler(random.Random(seed), evaluation=True)
    for name, task in TASKS.items():
        rows = []
        for _ in range(per_task):
            example = task(sampler)
            messages = [*example.messages(), {"role": "assistant", "content": example.answer}]
            ids, labels = encoder.labelled(messages, example.tools)
            last = len(ids) - 1 - ids[::-1].index(encoder.answer)
            rows.append((ids, [_IGNORE] * (last + 1) + labels[last + 1 :]))
        batch, wanted = _stack(rows, max(len(r[0]) for r in rows))
        right = model.logits(model(batch)[:, :-1]).argmax(-1).eq(wanted[:, 1:]) | wanted[:, 1:].eq(_IGNORE)
        result[name] = right.all(1).float().mean().item()
    return result


def _rate(step: int, s: Settings) -> float:
    """Share of the full learning rate: linear warm-up, level, and linear decay to zero over the last 40 %."""
    return min(1.0, (step + 1) / s.warmup, max(0.0, (s.steps - step) / (0.4 * s.steps)))


def _optimizers(model: Toy, s: Settings) -> list[torch.optim.Optimizer]:
    matrices = [w for n, w in model.named_parameters() if w.dim() == 2 and "embed" not in n]
    embedding = [model.embed.weight]
    norms = [w for w in model.parameters() if w.dim() < 2]
    adam = torch.optim.AdamW(
        [{"params": embedding, "weight_decay": 0.0}, {"params": norms, "weight_decay": 0.0}], lr=s.lr, betas=(0.9, 0.95), fused=True
    )
    return [Muon(matrices, s.lr, s.decay), adam]


def train(out: Path, s: Settings, report_every: int = 250) -> None:
    """Run the recipe; writes ``merges.json`` and ``model.pt`` into ``out``, and a line of progress to standard output."""
    torch.manual_seed(s.seed)
    out.mkdir(parents=True, exist_ok=True)
    merges = learn_merges(s)
    bpe.save(merges, out / "merges.json")
    encoder = Encoder(merges)
    model = Toy(Config(vocabulary=encoder.tokenizer.get_vocab_size()))
    sys.stdout.write(f"parameters: {sum(w.numel() for w in model.parameters())}, vocabulary {model.c.vocabulary}\n")
    sampler = Sampler(random.Random(s.seed + 1), prefixes=bpe.prefixes(merges))
    shares = dict(SHARES)
    optimizers, seen, start, losses = _optimizers(model, s), 0, time.process_time(), 0.0
    for step, (ids, labels) in enumerate(batches(encoder, s, sampler, shares)):
        if step == s.steps:
            break
        loss = loss_of(model, ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = s.lr * _rate(step, s)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen += ids.numel()
        losses += loss.item()
        if (step + 1) % 50 == 0:
            sys.stdout.write(f"{step + 1} loss {losses / 50:.4f} tokens {seen} cpu-s {time.process_time() - start:.0f}\n")
            sys.stdout.flush()
            losses = 0.0
        if (step + 1) % report_every == 0 or step + 1 == s.steps:
            scores = check(model, encoder, 64)
            sys.stdout.write(" ".join(f"{k} {v:.2f}" for k, v in scores.items()) + "\n")
            for task in SHARES:
                shares[task] = SHARES[task] * (0.5 + 1.5 * min(1.0, 3 * (1 - scores[task])))
            state = {"config": model.c.as_dict(), "weights": model.state_dict(), "scores": scores, "step": step + 1}
            torch.save(state, out / "model.pt.part")
            os.replace(out / "model.pt.part", out / "model.pt")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for merges.json and model.pt")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--tokens", type=int, default=Settings.tokens)
    parser.add_argument("--lr", type=float, default=Settings.lr)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.out, Settings(steps=arguments.steps, tokens=arguments.tokens, lr=arguments.lr))


if __name__ == "__main__":
    main()
