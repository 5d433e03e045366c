"""The path of a gradient in one process: collect → compress → push → admit → log → aggregate → optimize → publish
→ follow → apply. Read this first."""

from __future__ import annotations

import numpy as np
import torch

from ps.records import Accept, Close, Record, Segment, ShardSpec
from ps.shard import Shard
from wire.codec.base import Blocks
from wire.codec.chain import delta_codec, push_codec
from wire.codec.dense import pack
from wire.ids import UnitId
from wire.layout import BLOCK, BlockRange, Layout, Parameter
from wire.messages import Commit, OptimizerSpec


def test_the_path_of_a_gradient() -> None:
    layout = Layout((Parameter("weight", (100, 100), "float32", 0),))  # a model: three blocks of 4,096
    whole = (BlockRange(0, layout.blocks),)
    blocks = Blocks.of(layout, whole)
    push = push_codec(codec="topk", density=0.25, feedback="ef", values="sign2")
    pull = delta_codec(codec="topk", density=0.25, values="sign2")
    sgd = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "nesterov": 0.0, "maximize": 0.0}
    optimizer = OptimizerSpec("sgd", (sgd,))
    shard = Shard(
        ShardSpec(0, 1, 1, layout, whole, optimizer, 1, "mean", Segment(0, 0)), push, pull
    )  # a server

    replica = np.zeros((layout.blocks, BLOCK), np.float32)  # a worker: x̂, and the residual of its stream
    state = {name: np.zeros_like(replica) for name in push.state_planes}
    target = torch.linspace(-1, 1, 10_000)
    weight = torch.from_numpy(replica.reshape(-1)[:10_000]).requires_grad_()
    log: list[Record] = []
    losses = []
    for step in range(40):
        weight.grad = None
        loss = ((weight - target) ** 2).sum() / 2
        loss.backward()  # collect: the gradient, in blocks
        gradient = np.zeros_like(replica)
        gradient.reshape(-1)[:10_000] = weight.grad.numpy()  # type: ignore[union-attr]
        frame = b"".join(push.encode(gradient, state, blocks))  # compress
        assert len(frame) < 4 * layout.numel / 8
        commit = Commit("", samples=1, tokens=1, loss=loss.item(), norm_sq=1.0, learning_rates=(0.5,))
        log.append(Accept(UnitId(1, step, 0), 0, 1, commit, frame))  # push: a frame and its commit
        shard.apply(log[-1])  # admit: once, whatever is sent again
        log.append(Close(step, (0,), deposit=False, final=False, retain_from=0))  # log: all that happens
        shard.apply(log[-1])  # aggregate, optimize, publish
        delta = shard.deltas.get(step)  # follow: the delta from version `step` on
        assert delta is not None
        pull.apply(delta.frame, replica, blocks)  # apply: the worker holds the next version
        losses.append(loss.item())

    assert losses[-1] < losses[0] / 100  # it learns, through a quarter of the elements each way
    assert pack(replica, blocks) == pack(shard.planes()["published"], shard.blocks)
    again = Shard(shard.spec, push, pull)  # a shard is its log: replayed, it is the same to the bit
    for record in log:
        again.apply(record)
    assert all(plane.tobytes() == again.planes()[name].tobytes() for name, plane in shard.planes().items())
