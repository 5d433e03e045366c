"""Every unit pushes the same mass, a few a hundred times of it: what is in the model, and what is held, is weighed.

In SGD with learning rate 1, -R * parameter is what was applied so far. The worker logs how far x̂ moved at each step,
and writes at its end what its streams, or its lane, still hold.
"""

import argparse
import os
import time
from typing import Any

import numpy as np
import torch

import sparsync

BLOCKS, BLOCK, WILD = 4, 4096, 100.0


def scale(step: int, stream: int) -> float:
    """How much of the mass a unit pushes."""
    return WILD if (step, stream) in ((12, 3), (14, 0)) else 1.0


def mass_of() -> torch.Tensor:
    return torch.rand(BLOCKS, BLOCK, generator=torch.Generator().manual_seed(1)) + 0.5


def held(session: Any, steps: int) -> np.ndarray:
    """What was produced and is not in the model: no API tells it."""
    segment = session._driver._segment
    if segment.elastic:
        assert segment._lane.unsettled == 0
        return segment._lane.held.copy()
    for stream, state in segment._states.items():
        segment._returned.take_back(stream, state.planes, before=steps)
    return segment.held_by(segment._states, step=steps)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pause", type=float, default=0.0)
    args = parser.parse_args()
    mass, model = mass_of(), torch.nn.Module()
    model.mass = torch.nn.Parameter(torch.zeros_like(mass))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before, at = model.mass.detach().clone(), 0
    with sparsync.join(model, optimizer) as session:
        for _ in session.units():
            time.sleep(args.pause)
            if session.clock > at:
                session.log(moved=float((model.mass.detach() - before).norm()))
                before, at = model.mass.detach().clone(), session.clock
            loss = scale(session.clock, session.stream) * (model.mass * mass).sum()
            loss.backward()
            session.step(loss)
    assert session.out is not None and session.total_steps is not None
    np.save(session.out / f"held-{os.getpid()}.npy", held(session, session.total_steps))


if __name__ == "__main__":
    main()
