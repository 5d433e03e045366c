"""`async` in the simulation of `frontier.py`: workers of different speeds, each on the newest x̂, none waits.

How much a unit counts, how many units make a step, how far one step goes and how far ahead units look is the product's
own code. Time is simulated: a unit takes 1 / speed, give or take, messages take none, or just enough to come after the
begin of their worker's next unit (`late`), and nothing is published for its age. With local steps a unit is a round.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from benchmarks.one_process import Model, adamw
from benchmarks.points import Point
from benchmarks.servers import BETA2, CLIP_NORM, WEIGHT_DECAY, Servers, share_of_peak
from benchmarks.streams import Stream
from ps.optimizer import part_of_step
from ps.publication import Backlog, Publication
from ps.staleness import Staleness
from wire.codec.base import Plane
from wire.config import SyncConfig
from wire.ids import UnitId
from worker.deltas import Delta, Outcome
from worker.drift import Drift

JITTER = 0.05
"""Standard deviation of a unit's time, as a share of it."""
PACE = SyncConfig(mode="async")


class Method(Protocol):
    """What a unit computes, and what becomes of pushes."""

    steps_a_unit: int

    def compute(self, worker: int, unit: int, base: Plane) -> tuple[Plane, dict[str, Plane]]:
        """What a unit comes to, and the codec state of its worker."""

    def step(self, settled: int, count: int) -> None:
        """Step x by the sum of `count` units, which is emptied; so many were settled before."""


class Gradients:
    """Per step: the gradient; AdamW on the servers."""

    steps_a_unit = 1

    def __init__(self, point: Point, model: Model, servers: Servers) -> None:
        self._point, self._model, self._servers = point, model, servers
        self._states = [{name: model.plane() for name in servers.push.state_planes} for _ in point.speeds]
        self._optimizer = adamw(
            model, servers.x, servers.move, lr=point.lr, betas=(point.beta1, BETA2), weight_decay=WEIGHT_DECAY
        )

    def compute(self, worker: int, unit: int, base: Plane) -> tuple[Plane, dict[str, Plane]]:
        self._model.bind(base)
        self._model.backward(unit, clip_norm=CLIP_NORM)
        return self._model.gradient, self._states[worker]

    def step(self, settled: int, count: int) -> None:
        point, servers = self._point, self._servers
        np.divide(servers.total, np.float32(count), out=servers.move)
        servers.total[:] = 0
        share = count / point.streams
        rate = point.lr * share_of_peak(settled // point.streams, point)
        for group in self._optimizer.param_groups:
            group.update(part_of_step({"beta1": point.beta1, "beta2": BETA2}, rate, share, min(share, 1.0)))
        for state in self._optimizer.state.values():
            state["step"].fill_(settled / count)
        self._optimizer.step()


class Rounds:
    """Local steps: what they moved; on the servers SGD."""

    def __init__(self, point: Point, model: Model, servers: Servers) -> None:
        if point.gamma or point.momentum:
            raise ValueError(
                f"gamma {point.gamma}, momentum {point.momentum}: on arrival only plain sums are simulated"
            )
        self._point, self._servers = point, servers
        self._workers = [Stream(point, model, servers) for _ in point.speeds]
        self.steps_a_unit = point.local_steps

    def compute(self, worker: int, unit: int, base: Plane) -> tuple[Plane, dict[str, Plane]]:
        number, stream = divmod(unit, self._point.streams)
        first = number * self.steps_a_unit
        last = min(first + self.steps_a_unit, self._point.work.steps)
        return self._workers[worker].work(base, stream, first, last), self._workers[worker].state

    def step(self, settled: int, count: int) -> None:
        self._servers.x -= np.float32(self._point.alpha / self._point.streams) * self._servers.total
        self._servers.total[:] = 0


@dataclass(order=True)
class Unit:
    """One under way: when it ends and whose it is, its number, what it is computed on, the version of that."""

    ends: float
    worker: int
    number: int = field(compare=False)
    base: Plane = field(compare=False)
    version: int = field(compare=False)


class Race:
    """One run. The servers are one shard here: their steps and deltas go together."""

    def __init__(self, point: Point, model: Model, servers: Servers) -> None:
        self._point, self._model, self._servers = point, model, servers
        self._method: Method = (Rounds if point.local_steps > 1 else Gradients)(point, model, servers)
        self._streams = point.streams
        self._units = -(-point.work.steps // self._method.steps_a_unit) * self._streams
        workers = range(len(point.speeds))
        servers.readers = len(workers)
        self._drifts = [Drift(1, streams=self._streams) for _ in workers]
        self._own: list[dict[int, Plane]] = [{} for _ in workers]
        self._staleness = Staleness(
            0,
            streams=self._streams,
            aggregate="mean",
            damping=PACE.damping,
            max_staleness=PACE.max_staleness,
        )
        self._publication = Publication()
        self._before = model.published.copy()
        self._version = self._begun = self._settled = 0
        self._pending: list[int] = []
        self._under_way: list[Unit] = []
        self._noise = np.random.default_rng(point.seed)

    def run(self, measure: Callable[[int], None]) -> None:
        for worker in range(len(self._point.speeds)):
            self._begin(worker, 0.0)
        while self._under_way:
            unit = heapq.heappop(self._under_way)
            push, state = self._push(unit)
            if self._point.late:
                self._begin(unit.worker, unit.ends)
            self._accept(unit, push, state)
            lanes = len(self._point.speeds)
            backlog = Backlog(
                len(self._pending),
                lanes,
                self._streams,
                clock_advanced=self._settled + len(self._pending) == self._units,
            )
            if self._publication.decide(backlog, 0.0).reason:
                self._publish()
                measure(self._settled // self._streams * self._method.steps_a_unit)
            if not self._point.late:
                self._begin(unit.worker, unit.ends)

    def _begin(self, worker: int, now: float) -> None:
        """The next unit, on x̂ as it is now, or where that is going."""
        if self._begun == self._units:
            return
        x, drift = self._model.published, self._drifts[worker]
        base = x + np.float32(self._point.ahead * drift.moves(0)) * (x - self._before)
        for push in self._own[worker].values():
            base -= np.float32(self._point.own * self._point.alpha / self._streams) * push
        drift.began(self._begun, [0])
        takes = (1.0 + JITTER * self._noise.standard_normal()) / self._point.speeds[worker]
        heapq.heappush(self._under_way, Unit(now + takes, worker, self._begun, base, self._version))
        self._begun += 1

    def _push(self, unit: Unit) -> tuple[Plane, dict[str, Plane]]:
        """What it sends, decoded, and its worker's state."""
        update, state = self._method.compute(unit.worker, unit.number, unit.base)
        self._servers.encode(update, state, unit.number)
        push = self._servers.one.copy()
        if self._point.own:
            self._own[unit.worker][unit.number] = push
        return push, state

    def _accept(self, unit: Unit, push: Plane, state: dict[str, Plane]) -> None:
        """Add as much of it as counts; the rest goes back into its worker's residual, where there is one."""
        servers = self._servers
        behind, factor = self._staleness.weigh(unit.version, unit.worker)
        servers.behind += behind
        self._staleness.note(self._version, unit.worker)
        servers.add(np.float32(factor) * push)
        if factor < 1.0 and servers.push.state_planes and self._point.returns:
            state[servers.push.state_planes[-1]] += np.float32(1.0 - factor) * push
        self._pending.append(unit.number)

    def _publish(self) -> None:
        """A part of a step with all that is pending, and its delta."""
        servers, count = self._servers, len(self._pending)
        self._method.step(self._settled, count)
        np.copyto(self._before, self._model.published)
        servers.publish()
        self._version += 1
        self._settled += count
        outcomes = tuple(Outcome(UnitId.of(0, number, self._streams), 1.0) for number in self._pending)
        for drift in self._drifts:
            drift.hear([Delta(0, self._version, b"", step=0, closes=False, outcomes=outcomes)])
        for own in self._own:
            for number in self._pending:
                own.pop(number, None)
        self._pending.clear()
