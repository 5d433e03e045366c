"""What a process of a case writes while it trains: how its time went, its bytes, and copies of the model.

The same for a worker of a cluster and for a rank of a baseline. Time is one of five: `computed_s` (forward, backward,
clipping), `slept_s` (made slow), `sent_s` (handing the unit over: encoding, or the optimizer), `waited_s` (until the
next batch is there: for others, for the network, applying what came), `kept_s` (copies). Nobody evaluates while the
clock runs: the copies are evaluated afterwards.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from sparsync.bench.modes.stragglers import Pattern
from wire.clock import monotonic_clock
from wire.rpc.meter import SocketMeter

LOOK_EVERY_S = 0.25
"""Between two lines; each takes a look at the sockets, under a millisecond."""
DATA, STATE = "data", "state"
"""Classes of sockets: pushes and deltas; deposits and the upload. All others are told as `control`."""
COPY = "copy-{}.safetensors"
MOST_COPIES = 100_000
"""Of one worker: what parts their numbers."""


@dataclass(frozen=True)
class Pace:
    """What makes this worker slow: a pattern, who this is, and the seed."""

    pattern: Pattern
    worker: int
    seed: int
    unit_s: float


class Recorder:
    """Lines of cumulative figures in DIRECTORY/worker-N.jsonl.

    Args:
        meter: of this process.
    """

    def __init__(self, directory: Path, pace: Pace, meter: SocketMeter) -> None:
        self._file = (directory / f"worker-{pace.worker}.jsonl").open("a", buffering=1)
        self._pace, self._meter = pace, meter
        self._mark = self._looked = monotonic_clock.now()
        self._begun = False
        self._batch_s = 0.0
        self.units = self.tokens = self.tokens_pushed = 0
        self.spent = {"computed_s": 0.0, "slept_s": 0.0, "sent_s": 0.0, "waited_s": 0.0, "kept_s": 0.0}

    def begin(self) -> None:
        """The batch is there."""
        if self._begun:
            self.pass_to("waited_s")
            if self._mark - self._looked >= LOOK_EVERY_S:
                self.look()
            return
        self._begun = True
        self._mark = monotonic_clock.now()
        self.look()

    def sleep(self, *, units: int = 1) -> None:
        """As the straggler that this is to be. units: that are computed together, as one batch."""
        pace = self._pace
        seconds = sum(
            pace.pattern.sleep_s(
                worker=pace.worker,
                unit=unit,
                seed=pace.seed,
                computed_s=self._batch_s / units or pace.unit_s,
                unit_s=pace.unit_s,
            )
            for unit in range(self.units, self.units + units)
        )
        if seconds > 0:
            threading.Event().wait(seconds)
        self.pass_to("slept_s")

    def computed(self, *, waited_s: float = 0.0) -> None:
        """The gradient is there. waited_s: of this time, for the network."""
        self._batch_s = self.pass_to("computed_s") - waited_s
        self.spent["computed_s"] -= waited_s
        self.spent["waited_s"] += waited_s

    def sent(self, tokens: int, *, units: int = 1, pushed: bool = True) -> None:
        """The unit, or several as one batch, is handed over. pushed: or was a local step that others hear of later."""
        self.pass_to("sent_s")
        self.units += units
        self.tokens += tokens
        if pushed:
            self.tokens_pushed = self.tokens

    def pass_to(self, kind: str) -> float:
        """The time since the last call was of that kind; its seconds."""
        now = monotonic_clock.now()
        seconds, self._mark = now - self._mark, now
        self.spent[kind] += seconds
        return seconds

    def look(self) -> None:
        """One more line."""
        self._looked = now = monotonic_clock.now()
        told = {"units": self.units, "tokens": self.tokens, "tokens_pushed": self.tokens_pushed}
        line = {"at": now, **told, **self.spent}
        self._file.write(json.dumps(line | by_way(self._meter.sample())) + "\n")

    def close(self) -> None:
        """With a last line."""
        self.look()
        self._file.close()


class Copies:
    """The parameters of a model now and then, in DIRECTORY/copy-ID.safetensors.

    When is counted in steps of the run, so that curves of all methods have as many points.

    Args:
        steps: of the run. count: of copies.
    """

    def __init__(self, directory: Path, *, worker: int, steps: int, count: int) -> None:
        self._directory = directory
        self._every = max(1, steps // count)
        self._due = 0
        self._id = MOST_COPIES * worker

    def due(self, step: int) -> bool:
        """Before each unit. step: at which it is."""
        return step >= self._due

    def keep(self, parameters: Mapping[str, Tensor], step: int) -> dict[str, float]:
        """Write them; the copy's number, and the moment before, in seconds of the monotonic clock."""
        told = {"copied_at": monotonic_clock.now()}
        self._due = (step // self._every + 1) * self._every
        while (path := self._directory / COPY.format(self._id)).exists():  # of a process before this one
            self._id += 1
        beside = path.with_suffix(".part")
        save_file(dict(parameters), beside)
        beside.replace(path)
        return told | {"copy": self._id}


def by_way(pools: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Of (sent, received) by class: `up` and `down` of the data, and both ways together of all else."""
    up, down = pools.get(DATA, (0, 0))
    control = sum(sum(moved) for pool, moved in pools.items() if pool not in (DATA, STATE))
    return {"up": up, "down": down, "state": sum(pools.get(STATE, (0, 0))), "control": control}


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """By name, tied ones once."""
    return {name: p.detach().clone().contiguous() for name, p in model.named_parameters()}


def loads(text: str) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
