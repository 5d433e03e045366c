"""Mass in the small world: what a worker produced, holds back and flushes, one number a shard.

A frame takes half of what the lane holds; what the shard does not apply comes back. The farewell is the real one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import hypot
from typing import TYPE_CHECKING, Any, cast

from coordinator import events as e
from ps.ledger import Verdict
from worker.farewell import Farewell
from worker.mailbox import End, Flushed

if TYPE_CHECKING:
    from tests.coordinator.hand import Worker

ANSWER_LOST = 0.3
"""How often the answer to a flush is lost with its line: the same is sent again a little later."""


@dataclass
class Lane:
    """What a worker's codec holds; `frames`: sent and not settled, by (shard, unit)."""

    shards: int
    produced: list[float] = field(init=False)
    held: list[float] = field(init=False)
    dropped: list[float] = field(init=False)
    frames: dict[tuple[int, int], float] = field(default_factory=dict)
    _rest: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.produced, self.held, self.dropped = ([0.0] * self.shards for _ in range(3))

    def encode(self, shard: int, number: int) -> float:
        """The frame of one more unit, whose mass is 1."""
        self.produced[shard] += 1.0
        frame = (self.held[shard] + 1.0) / 2
        self.held[shard] += 1.0 - frame
        self.frames[shard, number] = frame
        return frame

    def settle(self, shard: int, number: int, factor: float) -> None:
        self.held[shard] += (1.0 - factor) * self.frames.pop((shard, number), 0.0)

    def drop(self) -> None:
        """The next segment has no place for what is held."""
        self.dropped = [d + h for d, h in zip(self.dropped, self.held, strict=True)]
        self.held = [0.0] * self.shards

    # --- what the farewell asks of it

    @property
    def unsettled(self) -> int:
        return len(self.frames)

    @property
    def holding(self) -> list[int]:
        return [shard for shard, held in enumerate(self.held) if held]

    @property
    def held_norm(self) -> float:
        return hypot(*self.held)

    def rest(self, shard: int) -> float:
        self._rest[shard] = self.held[shard]
        return self.held[shard]

    def flushed(self, shard: int) -> None:
        self.held[shard] -= self._rest.pop(shard)


class Courier:
    """The transfer and mailbox of a farewell, on lines that delay, send twice, and lose answers."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._answers: list[tuple[int, Flushed]] = []
        self.mailbox = self
        self.end: End | None = None

    def now(self) -> float:
        """As a clock."""
        return self._worker.world.now

    def report(self, *, flushed: dict[str, Any]) -> None:
        told = e.Flushed(self._worker.incarnation, flushed["segment"], flushed["residual_norm"])
        self._worker.report(told)

    @property
    def attended(self) -> bool:
        return not self._worker.world.away

    @property
    def flush_answered(self) -> bool:
        return bool(self._answers)

    def take_flushed(self) -> list[tuple[int, Flushed]]:
        taken, self._answers = self._answers, []
        return taken

    def begin_flush(self, shard: int, segment: int, frame: float, commit: object, *, limit_s: float) -> None:
        worker, world = self._worker, self._worker.world
        waiting, until = [True], worker.world.now + limit_s

        def arrive() -> None:
            if not worker.alive and world.random.random() < 0.5:
                return
            server = worker.calls.server(shard)
            if server is None or server.paused_until > world.now:
                again()
            else:
                server.flush(worker, segment, frame, judged)
                again(world.servers_die)

        def again(needed: bool = True) -> None:
            if waiting and needed and world.now < until:
                world.after(world.fate.uniform(0.5, 1.5), arrive)

        def judged(verdict: Verdict) -> None:
            answer = Flushed.REFUSED if verdict is Verdict.FENCED else Flushed.TAKEN
            if world.random.random() >= ANSWER_LOST:
                world.after(world.delay(), lambda: answered(answer), worker)
            elif waiting:
                world.after(world.random.uniform(0.2, 3.0), arrive)

        def answered(answer: Flushed) -> None:
            if waiting and waiting.pop():
                worker.unsure |= answer is Flushed.FAILED
                self._answers.append((shard, answer))
                worker.turn()

        world.after(world.delay(), arrive)
        world.after(limit_s, lambda: answered(Flushed.FAILED), worker)


def farewell(worker: Worker, number: int) -> Farewell:
    """Of one segment."""
    courier, make = Courier(worker), cast(Any, Farewell)
    made: Farewell = make(number, lane=worker.lane, transfer=courier, clock=courier)
    return made
