"""The server's optimizer: torch's own fused kernels over runs of blocks of one parameter group.

A shard's blocks are cut where the parameter group changes; each run is one tensor, a view of
the plane x, and its moments are views of planes of their own, so that snapshots and
checkpoints read them as they read x. Element by element the fused kernels give the same bits
however a tensor is cut (tests/ps/test_optimizer.py), so the number of shards changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ps.records import ShardSpec
from ps.trees import State, copies, fill_all
from wire.errors import ModelMismatch
from wire.layout import BlockRange
from wire.messages import OptimizerSpec

Plane = NDArray[np.float32]

MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


class Optimizer:
    """Steps x in place.

    Args:
        spec: kind and hyperparameters, one mapping a parameter group.
        runs: (group, rows) in block order, rows as a range of the shard's own planes.
        x: plane [n, 4096], updated in place by `step`.
    """

    def __init__(self, spec: OptimizerSpec, runs: Sequence[tuple[int, BlockRange]], x: Plane) -> None:
        self._names = MOMENTS[spec.kind]
        if spec.kind == "sgd" and not any(g.get("momentum") for g in spec.groups):
            self._names = ()
        self._spec = spec
        self._taken = 0.0
        self._planes = {name: np.zeros_like(x) for name in self._names}
        self._steps: list[torch.Tensor] = []
        self._gradients: list[tuple[torch.nn.Parameter, BlockRange]] = []
        members: list[list[torch.nn.Parameter]] = [[] for _ in spec.groups]
        for group, rows in runs:
            parameter = torch.nn.Parameter(torch.from_numpy(x[rows.start : rows.stop]))
            members[group].append(parameter)
            self._gradients.append((parameter, rows))
        self._groups = [index for index, parameters in enumerate(members) if parameters]
        self._torch = _build(spec, [(members[i], spec.groups[i]) for i in self._groups]) if runs else None
        for parameter, rows in self._gradients:
            self._attach_state(parameter, rows)

    def _attach_state(self, parameter: torch.nn.Parameter, rows: BlockRange) -> None:
        assert self._torch is not None
        state: dict[str, torch.Tensor] = {
            name: torch.from_numpy(plane[rows.start : rows.stop]) for name, plane in self._planes.items()
        }
        if "exp_avg" in state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            self._steps.append(state["step"])
        if state:
            self._torch.state[parameter] = state

    def planes(self) -> dict[str, Plane]:
        """The moments, by torch's names."""
        return self._planes

    def scalars(self) -> dict[str, float]:
        """What else the state holds: the number of steps taken (AdamW's bias correction)."""
        return {"step": self._taken} if self._steps else {}

    def load_scalars(self, scalars: dict[str, float]) -> None:
        self._taken = scalars.get("step", 0.0)

    def image(self) -> State:
        return {"taken": self._taken, "planes": copies(self._planes)}

    def restore(self, tree: State) -> None:
        """In place: torch's state looks into the planes. Its options and step counts are set by each step anew."""
        self._taken = tree["taken"]
        fill_all(self._planes, tree["planes"])

    def step(
        self, gradient: Plane, learning_rates: Sequence[float], *, share: float = 1.0, averaged: float = 1.0
    ) -> None:
        """One step with `gradient` [n, 4096]; `learning_rates` has one entry a parameter group.

        With a `share` κ below 1 it is a part of a step: decay rates become their κ-th power, so that moments reach
        back over as many units, and 1/κ parts move the parameters as far as one step. AdamW divides by the size of
        the gradient, noise included; of a mean over a share a of a step's units that is larger by 1/√a, which the
        learning rate makes up for (scaling rules of Malladi et al., arXiv 2205.10287: there κ = a).
        """
        if self._torch is None:
            return
        for group, index in zip(self._torch.param_groups, self._groups, strict=True):
            options = self._spec.groups[index]
            group["lr"] = learning_rates[index]
            if share != 1.0:
                group.update(part_of_step(options, learning_rates[index], share, averaged))
            elif self._spec.kind == "adamw":
                group["betas"] = (options["beta1"], options["beta2"])
            else:
                group["momentum"] = options["momentum"]
        for step in self._steps:
            step.fill_(self._taken / share)
        for parameter, rows in self._gradients:
            parameter.grad = torch.from_numpy(gradient[rows.start : rows.stop])
        self._torch.step()
        self._taken += share


def local_runs(spec: ShardSpec) -> list[tuple[int, BlockRange]]:
    """A shard's parameter-group runs, as rows of its own planes."""
    runs: list[tuple[int, BlockRange]] = []
    offset = 0
    for owned in spec.ranges:
        for group, r in spec.layout.groups([owned]):
            start = offset + r.start - owned.start
            runs.append((group, BlockRange(start, start + r.blocks)))
        offset += owned.blocks
    return runs


def part_of_step(options: dict[str, float], rate: float, share: float, averaged: float) -> dict[str, object]:
    """Options of torch's for `share` of a step."""
    if "beta1" in options:
        betas = (options["beta1"] ** share, options["beta2"] ** share)
        return {"lr": rate * share / averaged**0.5, "betas": betas}
    momentum = options["momentum"]
    if not momentum:
        return {"lr": rate * share}
    kept = momentum**share
    return {"lr": rate * share * (1.0 - kept) / (1.0 - momentum), "momentum": kept}


def warm() -> None:
    """Have torch load what it loads on the first step of an optimizer (about a second)."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.AdamW([parameter], fused=True).step()


def _build(
    spec: OptimizerSpec, groups: Sequence[tuple[list[torch.nn.Parameter], dict[str, float]]]
) -> torch.optim.Optimizer:
    if spec.kind == "adamw":
        return torch.optim.AdamW([_adamw(p, g) for p, g in groups], fused=True)
    if spec.kind == "sgd":
        return torch.optim.SGD([_sgd(p, g) for p, g in groups], lr=0.0, fused=True)
    raise ModelMismatch(f"optimizer {spec.kind!r} is not one the servers run; expected sgd or adamw")


def _adamw(parameters: list[torch.nn.Parameter], options: dict[str, float]) -> dict[str, object]:
    return {
        "params": parameters,
        "lr": options["lr"],
        "betas": (options["beta1"], options["beta2"]),
        "eps": options["eps"],
        "weight_decay": options["weight_decay"],
        "maximize": bool(options["maximize"]),
    }


def _sgd(parameters: list[torch.nn.Parameter], options: dict[str, float]) -> dict[str, object]:
    return {
        "params": parameters,
        "lr": options["lr"],
        "momentum": options["momentum"],
        "weight_decay": options["weight_decay"],
        "nesterov": bool(options["nesterov"]),
        "maximize": bool(options["maximize"]),
    }
