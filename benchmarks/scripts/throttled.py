"""The built-in trainer on a machine of a chosen speed: each unit takes as long as it is told, by sleeping.

    sparsync worker benchmarks/scripts/throttled.py NAME DIRECTORY --unit-s S

Model, data, optimizer and schedule are those of `sparsync train`. What a unit computes is followed by the rest
of its time asleep, what `session.step` took the last time taken off. DIRECTORY/units-NAME.jsonl tells of each
unit when it began and ended (seconds of this machine's monotonic clock) and how long it slept: none where the
machine was too slow for the speed that it was to have.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from torch import nn

import sparsync
from sparsync.lm.corpus import prepare
from sparsync.lm.dataset import TokenDataset, validation_batches, validation_loss
from sparsync.lm.model import GPT
from sparsync.lm.train import CLIP_NORM, build_optimizer, build_scheduler, planned_steps


def main() -> None:
    chosen = options()
    config = sparsync.config()
    text = prepare(config.data.source, config.data.cache_dir)
    dataset = TokenDataset(text.train, config.data.seq_len)
    held_out = validation_batches(text.val, config.data.seq_len)
    model = GPT(config.model.layers, config.model.width, config.model.heads, context=config.data.seq_len)
    optimizer = build_optimizer(model, config.optimizer)
    scheduler = build_scheduler(optimizer, config.optimizer, total_steps=planned_steps(config, len(dataset)))
    throttle = Throttle(chosen.unit_s, chosen.directory / f"units-{chosen.name}.jsonl")

    with sparsync.join(model, optimizer, scheduler=scheduler) as session:
        session.evaluate(lambda: validation_loss(model, held_out), every=config.run.eval_every)
        for x, y in session.batches(dataset, batch_size=config.data.batch_size):
            throttle.begin()
            _, loss = model(x, y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            throttle.sleep()
            step, stream = session.clock, session.stream
            session.step(loss, tokens=y.numel())
            throttle.end(step, stream)


def options() -> argparse.Namespace:
    known = argparse.ArgumentParser()
    known.add_argument("name")
    known.add_argument("directory", type=Path)
    known.add_argument("--unit-s", type=float, required=True)
    return known.parse_args()


class Throttle:
    """Stretches units to `unit_s` seconds and keeps their times, one line a unit, in `path`."""

    def __init__(self, unit_s: float, path: Path) -> None:
        self._unit_s = unit_s
        self._file = path.open("a", buffering=1)
        self._began = self._slept = self._awake = self._sending_s = 0.0

    def begin(self) -> None:
        self._began = time.monotonic()

    def sleep(self) -> None:
        """What is left of the unit's time once it will have been sent."""
        before = time.monotonic()
        time.sleep(max(0.0, self._began + self._unit_s - self._sending_s - before))
        self._awake = time.monotonic()
        self._slept = self._awake - before

    def end(self, step: int, stream: int) -> None:
        now = time.monotonic()
        self._sending_s = now - self._awake
        unit = {
            "step": step,
            "stream": stream,
            "began": self._began,
            "ended": now,
            "slept": self._slept,
        }
        self._file.write(json.dumps(unit) + "\n")


if __name__ == "__main__":
    main()
