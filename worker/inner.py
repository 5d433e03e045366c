"""The worker's own optimizer, where a unit takes local steps: its state belongs to a stream as the residual does.

State is swapped by reference, and kept apart before a unit, since a bad one is computed anew. As bytes (safetensors
and JSON, no pickle) it is deposited, in pieces on the shards; `load` of them is the same state bit for bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from wire.config import OptimizerConfig
from wire.errors import ModelMismatch, UsageError
from wire.messages import OptimizerSpec
from worker.state import dump, parse

Moments = defaultdict[Any, dict[str, Any]]
"""State of an optimizer as torch has it, by parameter."""
ON_DEVICE = "on_device"


def outer(inner: torch.optim.Optimizer, config: OptimizerConfig) -> OptimizerSpec:
    """What the servers run on the differences: SGD as DiLoCo has it (arXiv 2311.08105), alike for inner's groups.

    Raises: ModelMismatch for an optimizer that cannot be stepped by the session.
    """
    if isinstance(inner, torch.optim.LBFGS):
        raise ModelMismatch(
            "LBFGS computes the loss again by itself; expected an optimizer that steps without a closure"
        )
    options = {
        "lr": config.outer_lr,
        "momentum": config.outer_momentum,
        "weight_decay": 0.0,
        "nesterov": float(config.outer_nesterov),
        "maximize": 0.0,
    }
    return OptimizerSpec("sgd", tuple(dict(options) for _ in inner.param_groups))


class Inner:
    """An optimizer and whose state it holds.

    Attributes:
        origin: what a stream without a deposit begins with.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._before: Moments = defaultdict(dict)
        self.origin = self.save()

    @property
    def state(self) -> Moments:
        """What it holds now."""
        return self._optimizer.state

    def begin(self, state: Moments) -> None:
        """Hold `state`, whose copy is kept for `restore`."""
        self._before = defaultdict(dict, {key: _copied(value) for key, value in state.items()})
        self._optimizer.state = state

    def restore(self) -> Moments:
        """As it was when `begin` was called last: the state that it holds now."""
        self.begin(self._before)
        return self.state

    def begin_here(self) -> None:
        """From now on streams begin with what it holds."""
        self.origin = self.save()

    def save(self) -> bytes:
        """What it holds. Raises: UsageError, naming what is neither tensors nor JSON."""
        return self.dump(self.state)

    def dump(self, state: Moments) -> bytes:
        """Raises: UsageError, naming what is neither tensors nor JSON."""
        places = {id(p): i for i, p in enumerate(self._parameters)}
        entries = []
        for key, values in state.items():
            if id(key) not in places:
                raise UsageError(
                    f"{type(self._optimizer).__name__} keeps state under {type(key).__name__} {key!r}; expected its "
                    "parameters, so that the state can go to another worker"
                )
            entries.append([places[id(key)], _packed(values)])
        return dump({_name(self._optimizer): entries})

    def load(self, blob: bytes) -> Moments:
        """The state that `dump` saw. Raises: UsageError where it is that of another optimizer."""
        (name, entries), *_ = parse(blob).items()
        if name != _name(self._optimizer):
            raise UsageError(
                f"the state of a stream is that of {name}, this script trains with {_name(self._optimizer)}; "
                "train on with the same optimizer"
            )
        state: Moments = defaultdict(dict)
        for place, values in entries:
            parameter = self._parameters[place]
            state[parameter] = _unpacked(values, parameter.device)
        return state


def _name(optimizer: torch.optim.Optimizer) -> str:
    """Its type, or what it calls itself where it is made of several (sparsync/optim.py)."""
    return str(getattr(optimizer, "name", type(optimizer).__name__))


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def _packed(value: Any) -> Any:
    """With a mark at the tensors that are on the parameter's device, if that is no CPU."""
    if isinstance(value, torch.Tensor):
        return value if value.device.type == "cpu" else {ON_DEVICE: value}
    if isinstance(value, Mapping):
        return {k: _packed(v) for k, v in value.items()}
    return [_packed(v) for v in value] if isinstance(value, list) else value


def _unpacked(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        if ON_DEVICE in value:
            return value[ON_DEVICE].to(device)
        return {k: _unpacked(v, device) for k, v in value.items()}
    return [_unpacked(v, device) for v in value] if isinstance(value, list) else value
