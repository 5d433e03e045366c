"""Where this worker keeps its planes: in numpy on the host, or as tensors on the device that the model is on.

One device for all of them (`cluster.planes`). On the host they are worked on by the kernels, elsewhere by torch, to the
same bits (`wire.codec.device`); frames, deposits and uploads are bytes of the host either way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from wire.codec.base import Blocks
from wire.codec.device import device_of
from wire.layout import BLOCK

Plane = NDArray[np.float32] | torch.Tensor
"""float32 [blocks, 4096]. All of one worker are of one kind."""
HOST = None
"""In place of a device: in numpy."""


def place_of_planes(choice: str, device: torch.device) -> torch.device | None:
    """What `cluster.planes` means for a worker that computes on `device`."""
    on_device = choice == "device" or (choice == "auto" and device.type == "cuda")
    return device if on_device else HOST


def plane_of(flat: torch.Tensor, place: torch.device | None) -> Plane:
    """A plane in the memory of float32[blocks * 4096], which is at that place."""
    if place is HOST:
        return flat.numpy().reshape(-1, BLOCK)
    return flat.view(-1, BLOCK)


def zeros_like(plane: Plane) -> Plane:
    """New, at the same place."""
    return np.zeros_like(plane) if isinstance(plane, np.ndarray) else torch.zeros_like(plane)


def copy_of(plane: Plane) -> Plane:
    """New, at the same place."""
    return plane.copy() if isinstance(plane, np.ndarray) else plane.clone()


def set_to(plane: Plane, into: Plane, blocks: Blocks | None = None) -> None:
    """into = plane: all of it, or the real elements of some blocks."""
    source, target = (cast(Any, p).reshape(-1) for p in (plane, into))
    for first, size in ((0, len(target)),) if blocks is None else blocks.segments:
        target[first : first + size] = source[first : first + size]


def add(plane: Plane, into: Plane) -> None:
    """into += plane."""
    into += cast(Any, plane)


def norm(plane: Plane, shards: Sequence[Blocks]) -> float:
    """L2 norm of these blocks of every shard."""
    square_sum = device_of(plane).square_sum
    return math.sqrt(sum(square_sum(plane, blocks) for blocks in shards))
