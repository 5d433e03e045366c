"""Stream state: all beside x̂ that computing a unit reads or writes.

The codec's planes, and an *extra* blob (safetensors, no pickle): the model's persistent
buffers, the loss scaler and, with stream 0, the user's objects. A worker that carries several
streams swaps the extra in before a unit and out after it; the planes are simply those of the
stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import nn

from wire.errors import UsageError
from worker.parameters import plain_name
from worker.planes import Plane

USER_STREAM = 0
"""The stream that the objects of `join(state=…)` travel with."""
TENSOR = "__tensor__"
TREE = "tree.json"


class Stateful(Protocol):
    """What `join(state=…)` takes: state of tensors and JSON."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@dataclass
class StreamState:
    """One stream's state. planes: [blocks, 4096] by the codec's names. moments: of the inner optimizer, if it runs.

    course: where units look ahead (worker/foresight.py).
    """

    planes: dict[str, Plane]
    extra: bytes
    moments: Any = None
    course: Any = None


class Extras:
    """Saves and restores what of a stream's state is no plane."""

    def __init__(self, model: nn.Module, scaler: Any, state: Mapping[str, Stateful]) -> None:
        self._buffers = dict(_persistent_buffers(model))
        """Where they are, not what they are: many a module assigns its buffers anew."""
        self._scaler = scaler
        self._state = state
        self.initial = self.save(USER_STREAM)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to swap."""
        return not (self._buffers or self._scaler or self._state)

    def save(self, stream: int) -> bytes:
        """The extra blob now, with the user's objects if `stream` carries them."""
        if self.empty:
            return b""
        tree: dict[str, Any] = {
            "buffers": {name: owner._buffers[key] for name, (owner, key) in self._buffers.items()}
        }
        if self._scaler is not None:
            tree["scaler"] = self._scaler.state_dict()
        if stream == USER_STREAM:
            tree["state"] = {name: thing.state_dict() for name, thing in self._state.items()}
        return dump(tree)

    def load(self, stream: int, blob: bytes) -> None:
        """Bring model, scaler and objects to what `save` saw."""
        if self.empty or not blob:
            return
        tree = parse(blob)
        with torch.no_grad():
            for name, (owner, key) in self._buffers.items():
                buffer, saved = owner._buffers[key], tree["buffers"][name]
                assert buffer is not None
                if buffer.shape == saved.shape and buffer.dtype == saved.dtype:
                    buffer.copy_(saved)
                else:
                    owner._buffers[key] = saved.to(buffer.device)
        if self._scaler is not None:
            self._scaler.load_state_dict(tree["scaler"])
        if stream == USER_STREAM:
            for name, thing in self._state.items():
                thing.load_state_dict(tree["state"][name])


def _persistent_buffers(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    """(name, its module and its name there) of each buffer that a checkpoint of the model would hold."""
    for path, module in model.named_modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and key not in module._non_persistent_buffers_set:
                yield plain_name(f"{path}.{key}" if path else key), (module, key)


def dump(tree: Mapping[str, Any]) -> bytes:
    """A tree of mappings, lists, tensors and JSON values as safetensors bytes.

    Raises: UsageError for a value that is none of those.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_strip(tree, "", tensors))
    tensors[TREE] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    return safetensors.torch.save(tensors)


def parse(blob: bytes) -> dict[str, Any]:
    """The tree that `dump` wrote."""
    tensors = safetensors.torch.load(blob)
    tree = json.loads(tensors.pop(TREE).numpy().tobytes())
    restored: dict[str, Any] = _fill(tree, tensors)
    return restored


def _strip(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().cpu().clone().contiguous()
        return {TENSOR: path}
    if isinstance(value, Mapping):
        pairs = [[k, _strip(v, f"{path}/{k}", tensors)] for k, v in value.items()]
        return {"pairs": pairs}
    if isinstance(value, list | tuple):
        return [_strip(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UsageError(
        f"state at {path or '/'} holds a {type(value).__name__}; expected tensors, numbers, strings, lists, mappings"
    )


def _fill(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if TENSOR in value:
            return tensors[value[TENSOR]]
        return {k: _fill(v, tensors) for k, v in value["pairs"]}
    if isinstance(value, list):
        return [_fill(v, tensors) for v in value]
    return value
