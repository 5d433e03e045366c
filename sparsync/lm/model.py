"""A byte-level GPT: small enough to train on a laptop's core, shaped like the ones people train on GPUs.

Pre-layer-norm blocks, learned positions, an output head tied to the token embedding. All initial values
come from torch's global generator in one fixed order, so equal seeds give equal models.
Shapes: B sequences, T positions, C = width, V = vocab.
Source: Radford et al. 2019 (GPT-2), including its 1/sqrt(2 * layers) scaling of residual projections.
"""

from __future__ import annotations

import math
from typing import overload

from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_STD = 0.02


class Block(nn.Module):
    """One transformer layer: x + attention(norm(x)), then x + mlp(norm(x)); (B, T, C) -> (B, T, C)."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop(self.attention_out(self._attend(self.attention_norm(x))))
        # The tanh form of GELU: torch's CPU kernel for the erf form hands over to oneDNN, which generates
        # machine code at run time and fails where a sandbox forbids writable and executable memory.
        hidden = F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh")
        return x + self._drop(self.mlp_out(hidden))

    def _attend(self, x: Tensor) -> Tensor:
        """Causal self-attention of (B, T, C), heads side by side in C."""
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        return mixed.transpose(1, 2).reshape(batch, length, width)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class GPT(nn.Module):
    """A causal language model over `vocab` tokens with at most `context` positions.

    Raises: ValueError where width is no multiple of heads.
    """

    def __init__(
        self, layers: int, width: int, heads: int, context: int, vocab: int = 256, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"model.width = {width} is no multiple of model.heads = {heads}: change one of them"
            )
        self.context = context
        self.tokens = nn.Embedding(vocab, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.tokens.weight
        self._initialise(layers)

    @overload
    def forward(self, idx: Tensor) -> Tensor: ...

    @overload
    def forward(self, idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]: ...

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Tokens (B, T) int64 -> logits (B, T, V); with targets (B, T) int64 also the mean loss in nats a token.

        Raises: ValueError where T exceeds the context.
        """
        length = idx.shape[1]
        if length > self.context:
            raise ValueError(
                f"{length} tokens, but the context is {self.context}: pass the last {self.context}"
            )
        x = self.tokens(idx) + self.positions.weight[:length]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        if targets is None:
            return logits
        return logits, F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))

    def _initialise(self, layers: int) -> None:
        """Normal(0, 0.02) weights, zero biases; projections into the residual stream scaled down by depth."""
        residual_std = INITIAL_STD / math.sqrt(2 * layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" in name:
                nn.init.ones_(parameter)
            else:
                into_residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(parameter, std=residual_std if into_residual else INITIAL_STD)


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
