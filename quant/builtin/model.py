# mypy: allow-subclassing-any, allow-untyped-decorators, no-warn-unused-ignores, no-warn-return-any
"""The toy model: a small Llama (RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied embeddings) in PyTorch.

Widths are multiples of 256 so that llama.cpp can K-quantise every matrix (it falls back silently where they are not).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The model's shape; ``context`` is in tokens."""

    vocabulary: int
    hidden: int = 256
    ffn: int = 512
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    context: int = 4096
    rope_theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    def as_dict(self) -> dict[str, float]:
        """Plain values for the checkpoint."""
        return asdict(self)


def rotary(config: Config, length: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables, shape ``(length, head_dim)``, in the half-split (Hugging Face) layout."""
    half = config.head_dim // 2
    rates = config.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), rates).repeat(1, 2)
    return angles.cos(), angles.sin()


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind an RMSNorm with a residual."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.attn_norm, self.ffn_norm = nn.RMSNorm(c.hidden, c.eps), nn.RMSNorm(c.hidden, c.eps)
        self.q, self.o = nn.Linear(c.hidden, c.hidden, bias=False), nn.Linear(c.hidden, c.hidden, bias=False)
        self.k = nn.Linear(c.hidden, c.kv_heads * c.head_dim, bias=False)
        self.v = nn.Linear(c.hidden, c.kv_heads * c.head_dim, bias=False)
        self.gate, self.up = nn.Linear(c.hidden, c.ffn, bias=False), nn.Linear(c.hidden, c.ffn, bias=False)
        self.down = nn.Linear(c.ffn, c.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """``x`` is ``(batch, length, hidden)``."""
        c, (n, length, _) = self.c, x.shape
        h = self.attn_norm(x)
        q = _turn(self.q(h).view(n, length, c.heads, c.head_dim).transpose(1, 2), cos, sin)
        k = _turn(self.k(h).view(n, length, c.kv_heads, c.head_dim).transpose(1, 2), cos, sin)
        v = self.v(h).view(n, length, c.kv_heads, c.head_dim).transpose(1, 2)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(a.transpose(1, 2).reshape(n, length, c.hidden))
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Toy(nn.Module):
    """The whole model; ``forward`` gives the last hidden states, :meth:`logits` what they predict."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocabulary, c.hidden)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.hidden, c.eps)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.02 if not name.endswith(("o.weight", "down.weight")) else 0.02 / (2 * c.layers) ** 0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids ``(batch, length)`` to hidden states ``(batch, length, hidden)``."""
        cos, sin = rotary(self.c, ids.shape[1])
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states to scores over the vocabulary (tied to the embedding)."""
        return hidden @ self.embed.weight.T


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised steps for matrices (Keller Jordan 2024), in float32: PyTorch's own uses bfloat16, slow on CPUs.

    Args:
        params: matrices.
        lr: step size; a step's RMS is about ``0.2 * lr`` as in AdamW (Liu et al. 2025), so AdamW's rates carry over.
        decay: decoupled weight decay.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, decay: float = 0.05, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                velocity = state.setdefault("velocity", torch.zeros_like(weight))
                velocity.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(velocity, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.add_(update, alpha=-group["lr"] * 0.2 * max(weight.shape) ** 0.5)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix, roughly, by a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    flip = x.shape[0] > x.shape[1]
    x = x.T if flip else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if flip else x
