"""A small regression that goes wrong in the way that its argument names."""

import os
import sys

import torch

import sparsync

fault = sys.argv[1]
width = 8 + (int(os.environ["LOCAL_RANK"]) if fault == "differs" else 0)
model = torch.nn.Linear(8, width)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
if fault == "optimizer":
    optimizer = torch.optim.Adagrad(model.parameters())

with sparsync.join(model, optimizer) as session:
    turns = session.batches([], batch_size=2) if fault == "empty" else session.units()
    for _ in turns:
        loss = model(torch.randn(4, 8)).square().mean()
        if session.clock == 3 and fault == "nan":
            loss = loss * float("nan")
        loss.backward()
        if session.clock == 3 and fault == "gradient":
            model.bias.grad[0] = float("inf")
        if session.clock == 3 and fault == "raises":
            raise ValueError("a fault of the script")
        session.step(loss)
        if session.clock == 3 and fault == "twice":
            session.step(loss)
