"""The servers' half of the simulations of `frontier.py`, and what all of their methods have in common."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.one_process import Model
from benchmarks.points import Point
from sparsync.lm import train
from wire.codec.base import Plane, frame_bytes
from wire.codec.chain import delta_codec, push_codec
from wire.codec.cut import Classes
from wire.config import OptimizerConfig

WEIGHT_DECAY, BETA2, CLIP_NORM = 0.1, 0.95, 1.0


class Servers:
    """x, x̂ and what becomes of pushes.

    Attributes:
        pushed: bytes of all pushes. pulled: of all deltas, each once.
        readers: of each delta. behind: units that all units together were behind.
    """

    def __init__(self, point: Point, model: Model) -> None:
        self.point, self.model = point, model
        layout = model.layout
        up, down = point.up, point.down
        self.push = push_codec(
            codec=up.kind,
            density=up.density,
            values=up.values,
            coarse=up.coarse,
            feedback=up.feedback,
            decay=up.decay,
            classes=Classes.by_policy(layout, up.policy),
        )
        self.pull = delta_codec(
            codec=down.kind,
            density=down.density,
            values=down.values,
            coarse=down.coarse,
            classes=Classes.by_policy(layout, down.policy),
        )
        self.x = model.published.copy()
        self.total, self.one, self.move = (model.plane() for _ in range(3))
        self.senders = model.plane() if point.gamma else None
        self.old = None if point.remembers else self.x.copy()
        self.pushed = self.pulled = 0
        self.readers, self.behind = point.streams, 0

    def take(self, update: Plane, state: dict[str, Plane], unit: int) -> list[list[bytes]]:
        """One unit's push: encoded, decoded, added; its frames."""
        frames = self.encode(update, state, unit)
        self.add(self.one)
        return frames

    def encode(self, update: Plane, state: dict[str, Plane], unit: int) -> list[list[bytes]]:
        """One unit's push; decoded it stands in `one`."""
        self.one[:] = 0
        frames = []
        for blocks in self.model.shards:
            frame = list(self.push.encode(update, state, blocks, unit=unit))
            self.push.add(b"".join(frame), self.one, blocks)
            self.pushed += frame_bytes(frame)
            frames.append(frame)
        return frames

    def add(self, one: Plane) -> None:
        """A push that has arrived, as far as it counts."""
        self.total += one
        if self.senders is not None:
            self.senders += one != 0

    def gather(self) -> Plane:
        """What the units of a round come to, into `move`; the sum begins anew unless it is one of estimates."""
        streams, gamma = self.point.streams, self.point.gamma
        np.divide(self.total, np.float32(streams), out=self.move)
        if self.senders is not None:
            self.move *= streams**gamma / np.maximum(self.senders, 1.0) ** gamma
            self.senders[:] = 0
        if not self.push.estimates:
            self.total[:] = 0
        return self.move

    def publish(self) -> None:
        published = self.model.published
        target = self.x if self.old is None else published + (self.x - self.old)
        for blocks in self.model.shards:
            self.pulled += frame_bytes(self.pull.publish(target, published, blocks))
        if self.old is not None:
            np.copyto(self.old, self.x)


def own_optimizer(point: Point, model: Model) -> torch.optim.Optimizer:
    """What a worker steps by itself, on whatever plane is bound: the built-in trainer's."""
    config = OptimizerConfig(
        name=point.optimizer, lr=point.lr, betas=(point.beta1, BETA2), weight_decay=WEIGHT_DECAY
    )
    return train.build_optimizer(model.net, config)


def share_of_peak(step: int, point: Point) -> float:
    schedule = OptimizerConfig(schedule="cosine", warmup_steps=point.warmup, min_lr_ratio=0.1)
    return train.share_of_peak(step, schedule, total_steps=point.work.steps)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
