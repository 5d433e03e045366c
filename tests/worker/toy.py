"""Two shards and a coordinator in one process, as far as one worker's driver meets them.

The shards run plain descent (x -= gradient sum) and publish x itself; what is accepted, closed,
settled in part or paused is for the test to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from wire.clock import Clock, monotonic_clock
from wire.codec.base import Blocks
from wire.codec.chain import codecs_of
from wire.codec.dense import pack
from wire.config import Config
from wire.errors import SparsyncError
from wire.ids import UnitId
from wire.layout import BLOCK, BlockRange, Layout
from wire.messages import Commit, ShardPlacement
from wire.metrics import Samples
from wire.notify import Notify
from worker.deltas import Delta, Outcome
from worker.driver import Driver
from worker.evaluation import Evaluation
from worker.links import Snapshot
from worker.mailbox import Mailbox
from worker.parameters import Parameters, specify
from worker.runtime import Attachment
from worker.state import Extras
from worker.vitals import Vitals

R = 2
CONFIG = Config().model_copy(
    update={
        "sync": Config().sync.model_copy(update={"units_per_step": R}),
        "push": Config().push.model_copy(update={"codec": "dense"}),
        "pull": Config().pull.model_copy(update={"codec": "dense"}),
    }
)


@dataclass
class Pushed:
    """One part of a unit, as it came to a shard."""

    shard: int
    unit: UnitId
    frame: bytes
    commit: Commit
    base: int


@dataclass
class ToyShard:
    """x̂ = x of some blocks, and the log that led there."""

    shard: int
    blocks: Blocks
    x: Any
    step: int = 0
    log: list[Delta] = field(default_factory=list)
    bases: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    @property
    def snapshot(self) -> Snapshot:
        clock = self.log[-1].clock if self.log else 0
        return Snapshot(self.step, len(self.log), max(self.step, clock), pack(self.x, self.blocks))


class Toy:
    """The shards, and all that the worker said."""

    def __init__(self, layout: Layout) -> None:
        half = layout.blocks // 2
        ranges = ((BlockRange(0, half),), (BlockRange(half, layout.blocks),))
        self.placement = tuple(ShardPlacement(i, "", 1, r) for i, r in enumerate(ranges))
        self.push, self.pull = codecs_of(CONFIG, layout, optimizer="sgd", elastic=True)
        x = np.zeros((layout.blocks, BLOCK), np.float32)
        self.shards = [ToyShard(i, Blocks.of(layout, r), x) for i, r in enumerate(ranges)]
        for shard in self.shards:
            shard.bases[0] = (0, pack(x, shard.blocks))
        self.pushes: list[Pushed] = []
        self.rests: list[FlushedRest] = []
        self.reports: list[tuple[str, Any]] = []
        self.listeners: list[Callable[[Delta], None]] = []
        self.deposits: dict[tuple[int, int], Sequence[Mapping[str, bytes]]] = {}

    def told(self, kind: str) -> list[Any]:
        return [what for name, what in self.reports if name == kind]

    def publish(self, shard: int, factors: Sequence[tuple[Pushed, float]] = (), **header: Any) -> None:
        """Settle pushes with a factor each, and publish x."""
        held = self.shards[shard]
        for pushed, factor in factors:
            if pushed.frame:
                self.push.add(pushed.frame, held.x, held.blocks, factor=-factor)
        outcomes = tuple(Outcome(p.unit, f) for p, f in factors)
        frame = self.pull.publish(held.x.copy(), np.zeros_like(held.x), held.blocks)
        told = {"step": held.step, "closes": False, **header}
        delta = Delta(shard, len(held.log), frame, outcomes=outcomes, **told)
        held.log.append(delta)
        if delta.closes:
            held.step = delta.step + 1
            held.bases[held.step] = (len(held.log), pack(held.x, held.blocks))
        for listener in self.listeners:
            listener(delta)

    def close(self, step: int, **header: Any) -> None:
        """Close a step on both shards, with all pushes of it that are not settled yet."""
        for shard in range(2):
            mine = [(p, 1.0) for p in self.pushes if p.shard == shard and p.unit.step == step]
            self.publish(shard, mine, step=step, closes=True, clock=step + 1, **header)


@dataclass
class FlushedRest:
    """What a leaver held back, as it came to a shard."""

    shard: int
    segment: int
    frame: bytes
    commit: Commit


class ToyTransfer:
    """What the driver asks of a transfer, answered by the toy at once."""

    def __init__(self, toy: Toy) -> None:
        self._toy = toy
        self.placement = toy.placement
        self.mailbox = Mailbox(2)
        self.attended = True
        self.refuse: SparsyncError | None = None

    def do_declare(self, layout: Layout, optimizer: object) -> bool:
        if self.refuse is not None:
            raise self.refuse
        return False

    def begin_attending(self) -> None:
        pass

    def report(self, **fields: Any) -> None:
        self._toy.reports += fields.items()

    def bytes_moved(self) -> tuple[int, int, int]:
        return (0, 0, 0)

    def socket_bytes(self) -> dict[str, tuple[int, int]]:
        return {"data": (7, 8)}

    def do_snapshot(
        self, plane: str, sizes: Sequence[int], *, step: int = 0, live: bool = False
    ) -> list[Snapshot]:
        if live or plane == "x":
            return [shard.snapshot for shard in self._toy.shards]
        at = [max(s for s in shard.bases if s <= step) for shard in self._toy.shards]
        bases = [shard.bases[s] for shard, s in zip(self._toy.shards, at, strict=True)]
        return [Snapshot(s, version, s, data) for s, (version, data) in zip(at, bases, strict=True)]

    def do_history(self, starts: Sequence[int], count: int) -> list[Sequence[Delta]]:
        lanes = [s.log[v : v + count] for s, v in zip(self._toy.shards, starts, strict=True)]
        return list(zip(*lanes, strict=True))

    def begin_following(
        self, versions: Sequence[int], steps: Sequence[int], opened: Callable[[Delta], Delta]
    ) -> None:
        number, mailbox = self.mailbox.begin_deltas(steps), self.mailbox
        for shard, version in zip(self._toy.shards, versions, strict=True):
            for delta in shard.log[version:]:
                mailbox.put_delta(opened(delta), number)
        self._toy.listeners.append(lambda delta: mailbox.put_delta(opened(delta), number))

    def begin_deposit(
        self, stream: int, step: int, attempt: int, parts: Sequence[Mapping[str, bytes]], *, released: bool
    ) -> None:
        self._toy.deposits[stream, step] = parts

    def do_withdraw(
        self, stream: int, step: int, expected: Callable[[int, str], int | range | None]
    ) -> Sequence[Mapping[str, bytes]]:
        parts = self._toy.deposits[stream, step]
        for shard, part in enumerate(parts):
            for name, data in part.items():
                allowed = expected(shard, name)
                assert len(data) == allowed or (isinstance(allowed, range) and len(data) in allowed), name
        return parts

    def begin_push(
        self,
        shard: int,
        unit: UnitId,
        attempt: int,
        pieces: Iterable[bytes],
        commit: Commit,
        *,
        base: int,
        most_bytes: int,
    ) -> None:
        frame = b"".join(pieces)
        assert len(frame) <= most_bytes
        self.mailbox.expect_answer(unit)
        self._toy.pushes.append(Pushed(shard, unit, frame, commit, base))
        self.mailbox.put_answer(unit, accepted=True)

    def begin_flush(self, shard: int, segment: int, frame: bytes, commit: Commit, *, limit_s: float) -> None:
        """The answer is the test's to give."""
        self._toy.rests.append(FlushedRest(shard, segment, frame, commit))


class ToyAttachment:
    """A process's place in the toy's run; joins anew as often as it is asked to, unless `over` says otherwise."""

    def __init__(self, toy: Toy, config: Config = CONFIG) -> None:
        self._toy = toy
        self.config = config
        self.timeline = self.incarnation = 1
        self.origin = 0
        self.clock: Callable[[], int | None] = lambda: None
        self.samples: Callable[[], Samples] = lambda: ()
        self.training = False
        self.transfer = ToyTransfer(toy)
        self.over: SparsyncError | None = None
        self.rejoins = 0
        self.leaving = False
        self.vitals = Vitals(Notify({}), run="a run", least_s=60.0)
        self.waited = 0

    def waits(self) -> None:
        self.waited += 1

    def asked_to_end(self) -> bool:
        return self.leaving

    def report(self, **fields: Any) -> None:
        self.transfer.report(**fields)

    def rejoin(self) -> None:
        self.rejoins += 1
        if self.over is not None:
            raise self.over
        self._toy.listeners.clear()
        self.transfer = ToyTransfer(self._toy)


class Tiny(nn.Module):
    """Two parameters, one on each shard, and a buffer."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(4))
        self.b = nn.Parameter(torch.zeros(4))
        self.register_buffer("seen", torch.zeros(()))


@dataclass
class Worker:
    """A driver in a toy run."""

    toy: Toy
    attached: ToyAttachment
    model: Tiny
    driver: Driver
    scheduler: torch.optim.lr_scheduler.LambdaLR
    evaluation: Evaluation

    def compute(self, value: float = 1.0) -> None:
        """The unit at hand, with a gradient of `value` everywhere."""
        self.model.seen += 1
        for p in self.model.parameters():
            p.grad = torch.full_like(p, value)
        norm_sq = self.driver._parameters.collect()
        self.driver.send(samples=1, tokens=1, loss=0.0, norm_sq=norm_sq)


def worker(config: Config = CONFIG, *, toy: Toy | None = None, clock: Clock = monotonic_clock) -> Worker:
    """In a run of its own, or in that of `toy`."""
    torch.manual_seed(0)
    model = Tiny()
    inner = torch.optim.SGD(model.parameters(), lr=1.0)
    inner._opt_called = True  # type: ignore[attr-defined]
    scheduler = torch.optim.lr_scheduler.LambdaLR(inner, lambda step: 1.0 / (1 + step))
    parameters = Parameters(model, inner)
    toy = toy or Toy(parameters.layout)
    attached = ToyAttachment(toy, config)
    evaluation = Evaluation(model, attached.report, monotonic_clock)
    driver = Driver(
        cast(Attachment, attached),
        parameters=parameters,
        specification=specify(inner),
        extras=Extras(model, None, {}),
        evaluation=evaluation,
        inner=inner,
        scheduler=scheduler,
        clock=clock,
    )
    return Worker(toy, attached, model, driver, scheduler, evaluation)
