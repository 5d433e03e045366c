"""A user script whose gradients cost nothing: it shows what the data path alone takes.

    sparsync worker synthetic.py BYTES DIRECTORY [--trace]

The model is `BYTES` of float32 matrices (`sparsync.bench.load`). Writes DIRECTORY/turns-PID.json: the moments of each
turn of the loop, and the bytes at the sockets at the begin of some; with `--trace` also every few milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from pathlib import Path

import torch
from torch import nn

import sparsync
from sparsync.bench import load
from wire.clock import monotonic_clock
from wire.rpc.meter import SocketMeter

METER_EVERY_S = 0.1
"""A look takes under a millisecond; more of them would show in short steps."""
TRACE_EVERY_S = 0.004


class Meter:
    """Bytes at the sockets of the data pool."""

    def __init__(self) -> None:
        self._meter = SocketMeter()
        self.samples: list[tuple[float, int, int]] = []

    def look(self, key: float) -> None:
        """One more sample (`key`, sent, received)."""
        self.samples.append((key, *self._meter.sample().get("data", (0, 0))))


class Trace(Meter):
    """Samples by time, from a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._end.wait(TRACE_EVERY_S):
            self.look(monotonic_clock.now())

    def end(self) -> None:
        self._end.set()
        self._thread.join()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("bytes", type=int)
    options.add_argument("directory", type=Path)
    options.add_argument("--trace", action="store_true")
    chosen = options.parse_args()
    elements = chosen.bytes // 4
    model = nn.ParameterList([nn.Parameter(torch.zeros(shape)) for shape in load.shapes(elements)])
    numbers = torch.from_numpy(load.numbers(elements))
    turns: list[tuple[float, float, float]] = []
    meter, looked = Meter(), 0.0
    trace = Trace() if chosen.trace else None
    optimizer = torch.optim.SGD(model.parameters(), lr=load.LEARNING_RATE)
    with sparsync.join(model, optimizer) as session:
        for _ in session.units():
            begin = monotonic_clock.now()
            # The sockets are gone when the loop is over, so the last look of those during it has to do.
            if len(turns) >= load.WARM_UP and begin >= looked + METER_EVERY_S:
                meter.look(len(turns))
                looked = begin
            give_gradients(model, numbers, load.offset(session.clock))
            ready = monotonic_clock.now()
            session.step(0.0)
            turns.append((begin, ready, monotonic_clock.now()))
        if trace is not None:
            trace.end()
    told = {"turns": turns, "meter": meter.samples, "trace": trace.samples if trace else []}
    (chosen.directory / f"turns-{os.getpid()}.json").write_text(json.dumps(told))


def give_gradients(model: nn.Module, numbers: torch.Tensor, offset: int) -> None:
    for parameter in model.parameters():
        parameter.grad = numbers[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()


if __name__ == "__main__":
    main()
