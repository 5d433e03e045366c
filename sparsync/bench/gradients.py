"""What codecs are measured on: real pseudo-gradients of the built-in language model, in whole blocks.

A pseudo-gradient is the way that a model goes in H steps of AdamW, Δ = before − after; what per-step modes push are
plain gradients. Both of matrices only: what has one dimension goes whole by policy. Planes are float32
[blocks, 4096]; a parameter's last block is left out where it is short.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sparsync.lm.corpus import prepare
from sparsync.lm.dataset import TokenDataset
from sparsync.lm.model import GPT
from sparsync.lm.train import CLIP_NORM, build_optimizer
from wire.codec.base import Plane
from wire.config import Config, complete
from wire.layout import BLOCK


@dataclass(frozen=True)
class Updates:
    """What successive rounds would push, each [blocks, 4096], and the first block of each parameter."""

    rounds: tuple[Plane, ...]
    first_blocks: tuple[int, ...]


def real_updates(
    *, rounds: int, warm_up: int, inner_steps: int, kind: str, seed: int, source: str
) -> Updates:
    """Trains the default model on `source` for `warm_up` steps, then for `rounds` times `inner_steps`.

    kind: "updates" for pseudo-gradients, "gradients" for the gradient of each round's last step.

    Adam's first steps are all of one length, whatever the gradient; it takes a warm-up for updates to have tails.
    """
    config = complete(Config())
    torch.manual_seed(seed)
    dataset = TokenDataset(prepare(source).train, config.data.seq_len)
    model = GPT(config.model.layers, config.model.width, config.model.heads, context=config.data.seq_len)
    optimizer = build_optimizer(model, config.optimizer)
    order = np.random.default_rng(seed).permutation(len(dataset))
    size, done = config.data.batch_size, list[Plane]()
    before = _blocks(p.detach() for p in _matrices(model))
    for step in range(warm_up + rounds * inner_steps):
        pairs = [dataset[int(i)] for i in order[step * size : (step + 1) * size]]
        x, y = (torch.stack(part) for part in zip(*pairs, strict=True))
        _, loss = model(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        counted = step + 1 - warm_up
        if counted >= 0 and counted % inner_steps == 0:
            after = _blocks(p.detach() for p in _matrices(model))
            if counted:
                done.append(_blocks(_gradients(model)) if kind == "gradients" else before - after)
            before = after
        optimizer.zero_grad(set_to_none=True)
    counts = [p.numel() // BLOCK for p in _matrices(model)]
    return Updates(tuple(done), tuple(int(n) for n in np.cumsum([0, *counts[:-1]])))


def _matrices(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.dim() >= 2]


def _gradients(model: nn.Module) -> Iterator[torch.Tensor]:
    for p in _matrices(model):
        assert p.grad is not None
        yield p.grad


def _blocks(tensors: Iterable[torch.Tensor]) -> Plane:
    """A copy of all tensors' whole blocks."""
    flat = (t.reshape(-1) for t in tensors)
    return np.concatenate([t[: t.numel() // BLOCK * BLOCK].numpy().reshape(-1, BLOCK) for t in flat])


def tiled(planes: Sequence[Plane], blocks: int) -> Plane:
    """A plane of so many blocks: all of `planes`, as often as it takes; evenly spaced ones where there are more."""
    whole = np.concatenate(planes)
    if blocks <= len(whole):
        return np.ascontiguousarray(whole[np.linspace(0, len(whole) - 1, blocks).astype(np.int64)])
    return np.concatenate([whole] * -(-blocks // len(whole)))[:blocks]


def gaussian(blocks: int, *, seed: int) -> Plane:
    """A plane of normal random numbers."""
    drawn: Plane = np.random.default_rng(seed).standard_normal((blocks, BLOCK), dtype=np.float32)
    return drawn
