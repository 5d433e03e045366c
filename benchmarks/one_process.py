"""Training in one process with the real codecs: a model whose parameters are planes, its data, its servers' halves.

What the simulations of `codec_defaults.py` and `frontier.py` share. Planes are [blocks, 4096] float32; the model's
parameters are views of x̂, its gradients views of one plane. One block range a server, `SHARDS` of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sparsync.lm.corpus import Prepared
from sparsync.lm.dataset import TokenDataset, validation_batches, validation_loss
from sparsync.lm.model import GPT
from wire.codec.base import Blocks, Plane
from wire.layout import BLOCK, BlockRange, Layout, Parameter

SHARDS = 2


@dataclass(frozen=True)
class Workload:
    """What all settings train: a model and how much of it."""

    layers: int
    width: int
    heads: int
    seq_len: int
    batch_size: int
    steps: int


class Model:
    """A model in planes, the order of its samples, its held-out text.

    Attributes:
        published: x̂; what the parameters are views of.
        gradient: what the parameters' gradients are views of.
    """

    def __init__(self, work: Workload, text: Prepared, *, seed: int, windows: int) -> None:
        self._work = work
        self._dataset = TokenDataset(text.train, work.seq_len)
        self._order = np.random.default_rng(seed).permutation(len(self._dataset))
        self._held_out = validation_batches(text.val, work.seq_len, windows=windows)
        torch.manual_seed(seed)
        self.net = GPT(work.layers, work.width, work.heads, context=work.seq_len)
        self.layout = Layout(
            tuple(Parameter(name, tuple(p.shape), "float32", 0) for name, p in self.net.named_parameters())
        )
        cuts = np.linspace(0, self.layout.blocks, SHARDS + 1).astype(int).tolist()
        self.shards = [Blocks.of(self.layout, [BlockRange(a, b)]) for a, b in itertools.pairwise(cuts)]
        self.published, self.gradient = self.plane(), self.plane()
        for p, view in zip(self.net.parameters(), self.views(self.published), strict=True):
            view.copy_(p.detach())
        self.bind(self.published)

    def plane(self) -> Plane:
        return np.zeros((self.layout.blocks, BLOCK), np.float32)

    def views(self, plane: Plane) -> Iterator[Tensor]:
        """Of each parameter, in the layout's order."""
        flat = torch.from_numpy(plane).view(-1)
        for p, start in zip(self.layout.parameters, self.layout.first_block, strict=False):
            yield flat[start * BLOCK : start * BLOCK + p.numel].view(p.shape)

    def bind(self, plane: Plane) -> None:
        """Make the parameters views of `plane`."""
        for p, view, slope in zip(
            self.net.parameters(), self.views(plane), self.views(self.gradient), strict=True
        ):
            p.data, p.grad = view, slope

    def batch(self, number: int, units: int = 1) -> tuple[Tensor, Tensor]:
        """The samples of `units` units from number `number` on, in the order of the data."""
        first = number * self._work.batch_size
        chosen = self._order[np.arange(first, first + units * self._work.batch_size) % len(self._order)]
        xs, ys = zip(*(self._dataset[int(i)] for i in chosen), strict=True)
        return torch.stack(xs), torch.stack(ys)

    def backward(self, number: int, *, units: int = 1, clip_norm: float) -> None:
        """The clipped gradient of these units, on the plane that is bound, into `gradient`."""
        self.gradient[:] = 0
        self.net(*self.batch(number, units))[1].backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), clip_norm)

    def loss(self) -> float:
        """On the held-out text, of the plane that is bound."""
        return validation_loss(self.net, self._held_out)


def adamw(
    model: Model, plane: Plane, gradient: Plane, *, lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """Torch's fused AdamW on `plane`, whose gradients are `gradient`; weight decay for matrices only."""
    own = [nn.Parameter(view) for view in model.views(plane)]
    for p, view in zip(own, model.views(gradient), strict=True):
        p.grad = view
    groups = [
        {"params": [p for p in own if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in own if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
