"""The codecs' own count of bytes: the frames that a worker of `bench wire` pushes and pulls in a step.

They are made again in this process, by the codecs of the same configuration from the same gradients. Every stream
has the same gradients, so the mean that the servers step by is what one frame decodes to.
"""

from __future__ import annotations

import numpy as np

from coordinator.placement import place
from sparsync.bench import load
from wire.codec.base import Blocks
from wire.codec.chain import codecs_of
from wire.config import Config
from wire.layout import BLOCK

STEPS = 4
"""After the warm-up, over which the mean is taken."""


def frame_bytes(config: Config, *, elements: int) -> tuple[float, float]:
    """(pushed, pulled): mean bytes of one worker's frames to or from all servers, a step."""
    layout = load.layout(elements)
    shards = [Blocks.of(layout, ranges) for ranges in place(layout, config.cluster.servers)]
    push, pull = codecs_of(config, layout, optimizer="sgd")
    gradient, x, published, mean = (np.zeros((layout.blocks, BLOCK), np.float32) for _ in range(4))
    state = {name: np.zeros_like(gradient) for name in push.state_planes}
    numbers = load.numbers(elements)
    pushed = pulled = 0
    for step in range(load.WARM_UP + STEPS):
        begin = load.offset(step)
        gradient.reshape(-1)[:] = numbers[begin : begin + elements]
        if not push.estimates:
            mean[:] = 0.0
        for blocks in shards:
            frame = b"".join(push.encode(gradient, state, blocks, unit=step * config.sync.units_per_step))
            push.add(frame, mean, blocks)
            x[blocks.rows] -= np.float32(load.LEARNING_RATE) * mean[blocks.rows]
            delta = b"".join(pull.publish(x, published, blocks, step=step))
            if step >= load.WARM_UP:
                pushed, pulled = pushed + len(frame), pulled + len(delta)
    return pushed / STEPS, pulled / STEPS
