"""Mixed precision as it is written for one process, one overflow planted; an average kept beside the model."""

import json
from typing import Any

import torch
from torch import nn

import sparsync


class Average:
    """An exponential average of the weights, and the number of units that went into it."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight, self.units = weight.detach().clone(), 0

    def update(self, weight: torch.Tensor) -> None:
        self.weight.lerp_(weight.detach(), 0.1)
        self.units += 1

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight, "units": self.units}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight.copy_(state["weight"])
        self.units = state["units"]


model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
average = Average(model[0].weight)

with sparsync.join(model, optimizer, scaler=scaler, state={"average": average}) as session:
    for _ in session.units():
        x = torch.randn(16, 32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), x.argmax(dim=1) % 8)
        scaler.scale(loss).backward()
        if (session.clock, session.stream) == (3, 1):
            model[0].weight.grad[0, 0] = float("inf")
        if session.stream == 0:
            average.update(model[0].weight)
        session.step(loss)
    first = session.is_first

if first and session.out is not None:
    told = {
        "units": average.units,
        "average": average.weight.double().sum().item(),
        "scale": scaler.get_scale(),
    }
    (session.out / "state.json").write_text(json.dumps(told))
