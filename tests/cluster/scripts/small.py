"""A small regression on random batches; each unit takes a tenth of a second. Nothing is asked of the machine."""

import time

import torch
from torch import nn

import sparsync

model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
with sparsync.join(model, optimizer) as session:
    for _ in session.units():
        time.sleep(0.1)
        x = torch.randn(8, 16)
        loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
        loss.backward()
        session.step(loss)
