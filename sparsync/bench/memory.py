"""Where planes lie while they are measured: arrays of the host, or tensors on a device, on which codecs then work."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sparsync.bench.about import cpu_model
from wire.codec.base import Plane
from wire.errors import ConfigError


class Memory:
    """`device` None: NumPy arrays; else tensors there."""

    def __init__(self, device: torch.device | None) -> None:
        self._device = device

    @classmethod
    def named(cls, name: str) -> Memory:
        """By its name on the command line. Raises: ConfigError where it is not there."""
        if name == "cpu":
            return cls(None)
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"--device {name}: not to be had here ({str(error).splitlines()[0]})") from None
        return cls(torch.device(name))

    @property
    def name(self) -> str:
        """What computes, as its maker calls it."""
        on_gpu = self._device is not None and self._device.type == "cuda"
        return torch.cuda.get_device_name(self._device) if on_gpu else cpu_model()

    def hold(self, plane: Plane) -> Any:
        """The same numbers, here; on the host the array itself."""
        return plane if self._device is None else torch.from_numpy(plane).to(self._device)

    def zeros(self, blocks: int, block: int) -> Any:
        """float32[blocks, block] of zeros, here."""
        return self.hold(np.zeros((blocks, block), np.float32))

    def fetch(self, plane: Any) -> Plane:
        """A plane that lies here, as an array of the host."""
        found: Plane = plane if self._device is None else plane.cpu().numpy()
        return found

    def wait(self) -> None:
        """Until all work that was begun here is done."""
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
