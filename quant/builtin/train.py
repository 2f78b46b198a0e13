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
from .phrases import instruction_words
from .sampling import Sampler
from .talk import LAST_SHARES, LATE_SHARES, POLISH_SHARES, SHARES, TASKS, Conversation, conversation, drill, long_text
from .template import renderer

_ROUND = 8
_POOL = 1500
_IGNORE = -100


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own optimizer state and data; the rate is level, or falls to zero in a line (over ``steps``).

    ``drills`` is the share of conversations that are nothing but sums; ``stop`` ends the phase before its rate is zero; ``taught`` also
    draws the instruction words as payloads, held out or not, and that share of words that begin like them; ``long`` is the share of
    long texts without a task.
    """

    steps: int
    lr: float
    falls: bool
    shares: dict[str, float]
    drills: float = 0.0
    stop: int | None = None
    taught: float = 0.0
    long: float = 0.0


FIRST = Phase(steps=1000, lr=4e-3, falls=False, shares=SHARES)
SECOND = Phase(steps=2100, lr=2.2e-3, falls=True, shares=LATE_SHARES, drills=0.06, stop=1500)
THIRD = Phase(steps=1000, lr=9e-4, falls=True, shares=LAST_SHARES, drills=0.03, taught=0.25)
FOURTH = Phase(steps=700, lr=7e-4, falls=True, shares=POLISH_SHARES, drills=0.02, taught=0.4, long=0.02)


@dataclass(frozen=True)
class Settings:
    """What a run depends on; ``tokens`` is the size of a batch with its padding."""

    phases: tuple[Phase, ...] = (FIRST, SECOND, THIRD, FOURTH)
    tokens: int = 2048
    warmup: int = 100
    decay: float = 0.05
    seed: int = 7
    longest: int = 640
    vocabulary: int = 768


class Encoder:
    """Conversations to token ids and labels, through the chat template."""

    def __init__(self, merges: list[tuple[str, str]]) -> None:
        self.merges = merges
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


def _draw(sampler: Sampler, shares: dict[str, float], phase: Phase) -> Conversation:
    if phase.drills and sampler.chance(phase.drills):
        return drill(sampler)
    if phase.long and sampler.chance(phase.long):
        return long_text(sampler)
    return conversation(sampler, shares)


def batches(
    encoder: Encoder, settings: Settings, sampler: Sampler, shares: dict[str, float], phase: Phase
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches ``(ids, labels)``, each ``(conversations, length)``, padded to similar lengths."""
    while True:
        pool: list[tuple[list[int], list[int]]] = []
        while len(pool) < _POOL:
            messages, tools = _draw(sampler, shares, phase)
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
    sampler = Sampler(random.Random(seed), evaluation=True, taught=instruction_words())
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


def _rate(step: int, phase: Phase, warmup: int) -> float:
    """The learning rate of a step: linear warm-up, then level or falling to zero."""
    return phase.lr * min(1.0, (step + 1) / warmup) * ((phase.steps - step) / phase.steps if phase.falls else 1.0)


def _optimizers(model: Toy, phase: Phase, decay: float) -> list[torch.optim.Optimizer]:
    matrices = [w for n, w in model.named_parameters() if w.dim() == 2 and "embed" not in n]
    others = [model.embed.weight, *(w for w in model.parameters() if w.dim() < 2)]
    return [Muon(matrices, phase.lr, decay), torch.optim.AdamW(others, lr=phase.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]


def _update(model: Toy, optimizers: list[torch.optim.Optimizer], rate: float, batch: tuple[Tensor, Tensor]) -> float:
    loss = loss_of(model, *batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.item())


def _report(model: Toy, encoder: Encoder, out: Path, shares: dict[str, float], base: dict[str, float], done: tuple[int, int]) -> None:
    """Check every task, draw the weak ones more often from now on, and save a checkpoint."""
    scores = check(model, encoder, 64)
    sys.stdout.write(" ".join(f"{k} {v:.2f}" for k, v in scores.items()) + "\n")
    sys.stdout.flush()
    for task, share in base.items():
        shares[task] = share * (0.5 + 1.5 * min(1.0, 3 * (1 - scores[task])))
    torch.save({"config": model.c.as_dict(), "weights": model.state_dict(), "scores": scores, "done": done}, out / "model.pt.part")
    os.replace(out / "model.pt.part", out / "model.pt")


def _run_phase(model: Toy, encoder: Encoder, s: Settings, number: int, out: Path, report_every: int) -> None:
    phase = s.phases[number]
    taught, share = (instruction_words(), phase.taught) if phase.taught else (frozenset[str](), 0.1)
    sampler = Sampler(random.Random(s.seed + 1 + number), False, bpe.prefixes(encoder.merges), taught, share)
    last = phase.stop or phase.steps
    shares, optimizers = dict(phase.shares), _optimizers(model, phase, s.decay)
    losses, start = 0.0, time.process_time()
    for step, batch in enumerate(batches(encoder, s, sampler, shares, phase)):
        if step == last:
            return
        losses += _update(model, optimizers, _rate(step, phase, s.warmup), batch)
        if (step + 1) % 50 == 0:
            sys.stdout.write(f"phase {number + 1} step {step + 1} loss {losses / 50:.4f} cpu-s {time.process_time() - start:.0f}\n")
            sys.stdout.flush()
            losses = 0.0
        if (step + 1) % report_every == 0 or step + 1 == last:
            _report(model, encoder, out, shares, phase.shares, (number, step + 1))


def train(out: Path, s: Settings, first_phase: int = 0, report_every: int = 250) -> None:
    """Run the recipe; writes ``merges.json`` and ``model.pt`` into ``out``, and lines of progress to standard output.

    Args:
        out: a folder; with ``first_phase`` above 0 it holds what the phases before wrote.
        s: everything the result depends on.
        first_phase: the phase to begin with, from 0.
        report_every: steps between checks, which also set how often each task is drawn.
    """
    torch.manual_seed(s.seed)
    out.mkdir(parents=True, exist_ok=True)
    if not first_phase:
        bpe.save(learn_merges(s), out / "merges.json")
    encoder = Encoder(bpe.load(out / "merges.json"))
    model = Toy(Config(vocabulary=encoder.tokenizer.get_vocab_size()))
    if first_phase:
        model.load_state_dict(torch.load(out / "model.pt", weights_only=True)["weights"])
    sys.stdout.write(f"parameters: {sum(w.numel() for w in model.parameters())}, vocabulary {model.c.vocabulary}\n")
    for number in range(first_phase, len(s.phases)):
        _run_phase(model, encoder, s, number, out, report_every)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for merges.json and model.pt")
    parser.add_argument("--first-phase", type=int, default=0, help="continue with this phase (0 to 3) from --out's model.pt")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.out, Settings(), arguments.first_phase)


if __name__ == "__main__":
    main()
