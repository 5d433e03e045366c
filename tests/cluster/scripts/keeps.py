"""A model that counts its batches in a buffer, and an object of the user's that counts them too.

What both were before each unit is written down, a line a unit, in the file that KEPT names: a worker, a timeline.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparsync


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
        return self.inner(batch).square().mean()


class Counter:
    """What `join(state=…)` takes."""

    def __init__(self) -> None:
        self.units = 0

    def state_dict(self) -> dict[str, Any]:
        return {"units": self.units}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.units = state["units"]


model, counter = Counting(), Counter()
kept = Path(os.environ["KEPT"])
with sparsync.join(
    model, torch.optim.SGD(model.parameters(), lr=0.01), state={"counter": counter}
) as session:
    session.evaluate(lambda: float(model.inner.weight.square().mean()))
    for _ in session.units():
        told = {
            "step": session.clock,
            "stream": session.stream,
            "seen": int(model.seen),
            "units": counter.units,
        }
        with kept.open("a") as file:
            file.write(json.dumps(told) + "\n")
        loss = model(torch.randn(4, 8))
        loss.backward()
        counter.units += 1
        session.step(loss)
