"""Token files as sequences: a map-style dataset for training and a fixed small set for validation.

The file is mapped, not read: workers of one machine share its pages. Windows do not overlap, so an epoch
sees each byte once as a target (the first of each window excepted).
Shapes: B sequences, T = seq_len positions; tokens are int64 once they leave the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from sparsync.lm.corpus import MANIFEST
from wire.errors import DataRefused, NoInput

Batch = tuple[Tensor, Tensor]


class TokenDataset(Dataset[Batch]):
    """Non-overlapping windows of seq_len + 1 tokens; item i is (x, y), each (T,) int64, y one position ahead.

    `windows` keeps only the first so many. `digest` names the content, for comparison between workers.
    Raises: NoInput where the file is absent; DataRefused where it is shorter than one window.
    """

    def __init__(self, path: Path | str, seq_len: int, windows: int | None = None) -> None:
        self.path, self.seq_len, self.windows = Path(path), seq_len, windows
        manifest = _manifest_beside(self.path)
        self.digest: str = manifest["digest"] if manifest else _file_digest(self.path)
        self.tokens = np.memmap(self.path, dtype=manifest["dtype"] if manifest else "uint8", mode="r")
        available = len(self.tokens) // (seq_len + 1)
        if not available:
            raise DataRefused(
                f"{self.path} has {len(self.tokens)} tokens; one window takes data.seq_len + 1 = {seq_len + 1}. "
                "Use more text or a smaller data.seq_len"
            )
        self._length = available if windows is None else min(windows, available)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < self._length:
            raise IndexError(f"window {index} of {self._length}")
        start = index * (self.seq_len + 1)
        window = torch.from_numpy(self.tokens[start : start + self.seq_len + 1].astype(np.int64))
        return window[:-1], window[1:]

    def __reduce__(self) -> tuple[Any, ...]:
        # A loader's process opens the file itself: a mapped array would travel there as a copy of all tokens.
        return TokenDataset, (self.path, self.seq_len, self.windows)


def validation_batches(
    path: Path | str, seq_len: int, windows: int = 32, batch_size: int = 16
) -> list[Batch]:
    """`windows` windows spread evenly over the file, as batches of (B, T); the same ones at every call."""
    dataset = TokenDataset(path, seq_len)
    count = min(windows, len(dataset))
    items = [dataset[i * len(dataset) // count] for i in range(count)]
    xs, ys = (torch.stack(column) for column in zip(*items, strict=True))
    return list(zip(torch.split(xs, batch_size), torch.split(ys, batch_size), strict=True))


@torch.no_grad()
def validation_loss(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Mean loss in nats a token over the batches, on the model's device; leaves the model's mode alone."""
    device = next(model.parameters()).device
    losses = [model(x.to(device), y.to(device))[1].item() for x, y in batches]
    tokens = [y.numel() for _, y in batches]
    return float(np.average(losses, weights=tokens))


def _manifest_beside(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        raise NoInput(f"no token file at {path}; `sparsync data prepare` writes one and says where")
    manifest = path.with_name(MANIFEST)
    return json.loads(manifest.read_text()) if manifest.is_file() else None


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
