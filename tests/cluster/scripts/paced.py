"""A small classifier whose bits depend on stream state: residuals, batch norm, dropout; it takes its time.

Each unit takes `--pause` seconds until the file `hurry` is in the run directory; none is finished while the file
is there that DROWSY names in this worker's environment. How long a unit takes changes no bit.
"""

import argparse
import os
import time
from pathlib import Path

import torch
from torch import nn

import sparsync

parser = argparse.ArgumentParser()
parser.add_argument("--pause", type=float, default=0.0)
parser.add_argument("--hidden", type=int, default=256)
args = parser.parse_args()

drowsy = Path(os.environ.get("DROWSY", "no such file"))
SAMPLES, WIDTH, CLASSES = 4000, 48, 7


class Points:
    """Sample i is drawn from i alone."""

    digest = "points"

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        generator = torch.Generator().manual_seed(index)
        return torch.randn(WIDTH, generator=generator), index % CLASSES


def take_time(hurry: Path) -> None:
    began = time.monotonic()
    while drowsy.exists() or (time.monotonic() - began < args.pause and not hurry.exists()):
        time.sleep(0.005)


model = nn.Sequential(
    nn.Linear(WIDTH, args.hidden),
    nn.BatchNorm1d(args.hidden),
    nn.ReLU(),
    nn.Dropout(0.2),
    nn.Linear(args.hidden, CLASSES),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
with sparsync.join(model, optimizer) as session:
    assert session.out is not None
    x, target = zip(*(Points()[i] for i in range(64)), strict=True)
    held_out = torch.stack(x), torch.tensor(target)
    session.evaluate(lambda: nn.functional.cross_entropy(model(held_out[0]), held_out[1]).item())
    for x, target in session.batches(Points(), batch_size=16):
        take_time(session.out / "hurry")
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        session.step(loss)
