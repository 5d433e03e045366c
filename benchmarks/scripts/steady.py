"""A user script whose units take about as long as it is told; now and then it holds the GIL, or deadlocks.

    sparsync worker benchmarks/scripts/steady.py NAME DIRECTORY [--width W] [--unit-s S] [--hold-s S --hold-every-s S]

It holds the GIL inside a C function that does not release it (PyDLL), at random moments, and tells each hold in
DIRECTORY/holds-NAME.jsonl. Once DIRECTORY/deadlock-NAME exists it takes a lock twice, after writing the moment
into that file.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import threading
import time
from pathlib import Path

import torch
from torch import nn

import sparsync


def main() -> None:
    chosen = options()
    deadlock = chosen.directory / f"deadlock-{chosen.name}"
    holds = Holds(chosen)
    model = nn.Sequential(
        nn.Linear(chosen.width, chosen.width), nn.Tanh(), nn.Linear(chosen.width, chosen.width)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with sparsync.join(model, optimizer) as session:
        for _ in session.units():
            time.sleep(chosen.unit_s)
            holds.perhaps()
            if deadlock.exists():
                lock_forever(deadlock)
            x = torch.randn(8, chosen.width)
            loss = nn.functional.mse_loss(model(x), x)
            loss.backward()
            session.step(loss)


def options() -> argparse.Namespace:
    known = argparse.ArgumentParser()
    known.add_argument("name")
    known.add_argument("directory", type=Path)
    known.add_argument("--width", type=int, default=128, help="of the two square layers")
    known.add_argument("--unit-s", type=float, default=0.02)
    known.add_argument("--hold-s", type=float, default=0.0)
    known.add_argument("--hold-every-s", type=float, default=20.0)
    return known.parse_args()


class Holds:
    """Holds of the GIL, at intervals drawn evenly from half to one and a half times `hold_every_s`."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self._seconds, self._every_s = chosen.hold_s, chosen.hold_every_s
        self._draw = random.Random(chosen.name)
        self._path = chosen.directory / f"holds-{chosen.name}.jsonl"
        self._next = self._later()

    def _later(self) -> float:
        return time.monotonic() + self._every_s * self._draw.uniform(0.5, 1.5)

    def perhaps(self) -> None:
        """Hold it now, if it is time."""
        if not self._seconds or time.monotonic() < self._next:
            return
        began = time.monotonic()
        ctypes.PyDLL(None).usleep(round(self._seconds * 1e6))
        with self._path.open("a") as file:
            file.write(json.dumps({"seconds": round(time.monotonic() - began, 3)}) + "\n")
        self._next = self._later()


def lock_forever(told: Path) -> None:
    lock = threading.Lock()
    lock.acquire()
    told.write_text(str(time.time()))
    lock.acquire()


if __name__ == "__main__":
    main()
