"""Every unit pushes the same mass: the gradient is positive, and the same for each unit, whoever computes it.

In SGD with learning rate 1, -R * parameter is therefore what was applied so far, and as many gradients as units
were settled is what was produced. At its end a worker writes what it still holds: `held-NAME.npy`, float32 of the
parameter's shape, and beside it how many of its pushes it knows no outcome of; not where it ends among streams, which
are handed over. A unit takes PAUSE seconds, by this
worker's environment; where that says HANGS=True, the first one does not end that it begins while it holds anything.
"""

import json
import os
import time
from typing import Any

import numpy as np
import torch

import sparsync

BLOCKS_A_SERVER, BLOCK = 2, 4096

config = sparsync.config()
generator = torch.Generator().manual_seed(1)
mass = torch.rand(BLOCKS_A_SERVER * config.cluster.servers, BLOCK, generator=generator) + 0.5
model = torch.nn.Module()
model.mass = torch.nn.Parameter(torch.zeros_like(mass))
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
name, pause_s, hangs = os.environ["NAME"], float(os.environ["PAUSE"]), os.environ["HANGS"] == "True"


def lane() -> Any:
    """What the worker's codec holds: only its norm is reported, and no API tells more."""
    return session._driver._segment._lane


def held() -> np.ndarray:
    (plane,) = lane().planes.values()
    return plane


with sparsync.join(model, optimizer) as session:
    for _ in session.units():
        while hangs and held().any():
            time.sleep(0.1)
        time.sleep(pause_s)
        loss = (model.mass * mass).sum()
        loss.backward()
        session.step(loss)

assert session.out is not None
np.save(session.out / "mass.npy", mass.numpy())
if session._driver._segment.elastic:
    np.save(session.out / f"held-{name}.npy", held())
    (session.out / f"held-{name}.json").write_text(json.dumps({"unsettled": lane().unsettled}))
