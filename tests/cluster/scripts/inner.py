"""Trains a small net with the optimizer that its argument names, which the servers would not run, and its scheduler.

A second argument spoils one batch, once ("spoils"), or has the second worker leave its loop in mid-unit ("breaks").
"""

import os
import sys

import torch
from torch import nn

import sparsync

torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(12, 60), nn.BatchNorm1d(60), nn.ReLU(), nn.Dropout(0.1), nn.Linear(60, 90), nn.Linear(90, 5)
)
steps = sparsync.config().run.steps
if sys.argv[1] == "adafactor":
    inner = torch.optim.Adafactor(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(inner, 0.97)
else:
    inner = torch.optim.NAdam([{"params": [p]} for p in model.parameters()], lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(inner, 2e-2, total_steps=steps)

fault = "".join(sys.argv[2:])
with sparsync.join(model, inner, scheduler=scheduler) as session:
    session.evaluate(lambda: model(torch.ones(3, 12)).square().mean().item(), every=6)
    for turn in session.units(accumulate=2):
        loss = (model(torch.randn(16, 12)) - 1).square().mean()
        if fault == "spoils" and session.clock == 18:
            loss, fault = loss * float("nan"), ""
        loss.backward()
        if turn == 1:
            session.step(loss / 2)
            if fault == "breaks" and session.clock == 17 and os.environ["LOCAL_RANK"] == "1":
                break
