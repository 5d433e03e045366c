"""An elastic segment on this worker: units off leases, x̂ as new as it can be, codec state of its own.

Buffers, scaler and the user's objects simply stay in the model. Whatever has arrived is applied
before a unit begins; the versions that it then begins from travel with its pushes. A worker that leaves
pushes what its lane holds back before it goes (worker/farewell.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from wire.clock import Clock, monotonic_clock
from wire.codec.base import PushCodec
from wire.codec.device import device_of
from wire.ids import UnitId
from wire.messages import Commit
from wire.trace import span
from worker.deltas import Delta
from worker.drift import Drift
from worker.farewell import Farewell
from worker.inner import Inner
from worker.lane import Lane
from worker.leases import LeaseWork
from worker.mailbox import Plan
from worker.parameters import Parameters
from worker.planes import Plane, set_to
from worker.replica import Replica
from worker.state import USER_STREAM, Extras
from worker.streams import WAIT, Kind, Task
from worker.transfer import Transfer

UNITS_UNDER_WAY = 2
"""With so many units that are not acknowledged, none is begun: a slow link holds its worker back, not its memory."""


class ElasticSegment:
    """The leases that this worker works off.

    Args:
        number: of the segment.
        streams: units of a step (R).
        held: what the segment before held back, for the pushes of this one.
        inner: the optimizer that units step here; its state stays with this worker. None: the servers do.
        reach: how far one push moves x̂, as a share of it: units that step here begin where this worker's own pushes
            will have brought x̂.
        clips: whether pushes may count in part for their norm.
        look_ahead: how much of the way that x̂ is expected to go before a unit counts the unit is computed ahead; times
            `Drift`. The replica remembers the last move.
    """

    elastic = True
    lags = False

    def __init__(
        self,
        number: int,
        *,
        transfer: Transfer,
        parameters: Parameters,
        replica: Replica,
        codec: PushCodec,
        extras: Extras,
        streams: int,
        held: Plane | None,
        inner: Inner | None = None,
        reach: float = 0.0,
        clips: bool = False,
        look_ahead: float = 0.0,
        clock: Clock = monotonic_clock,
    ) -> None:
        self.number = number
        self._transfer = transfer
        self._parameters = parameters
        self._replica = replica
        self._extras = extras
        self._inner = inner
        self._reach = reach
        self._streams = streams
        self._clips = clips
        self._work = LeaseWork(streams)
        self._look_ahead = look_ahead
        self._drift = Drift(len(replica.trainable), streams=streams)
        self._lane = Lane(codec, parameters.gradient, replica.trainable, streams=streams)
        if held is not None and self._lane.held is not None:
            set_to(held, self._lane.held)
        self._farewell = Farewell(number, lane=self._lane, transfer=transfer, clock=clock)
        self.leaves = False
        self._extras_before = b""
        self._handed = -1
        self._shown_versions: list[int] = []
        self._news = False
        self.first = False
        self.final = False
        if replica.held:
            self._work.reached(replica.clock)

    # --- what is to be done ------------------------------------------------------------------------

    @property
    def clock(self) -> int:
        """The slowest shard's, as far as x̂ tells."""
        return self._work.clock

    @property
    def residual_norm(self) -> float:
        """L2 norm of what the lane holds back for later pushes, or has pushed last without an answer."""
        return math.hypot(self._lane.held_norm, self._farewell.lost_norm)

    @property
    def holds_back(self) -> bool:
        """Whether the codec holds anything back for later pushes."""
        return self._lane.held is not None

    @property
    def held(self) -> Plane | None:
        """What the lane holds back, if its codec does."""
        return self._lane.held

    def finish(self) -> float:
        """The next segment begins: `held` is final from now on. L2 norm of what may be lost."""
        self._farewell.wait()
        return self._farewell.lost_norm

    def take(self, plan: Plan) -> None:
        """Follow a plan, and answer how far each lease has come; the first one with work has x̂ pulled."""
        self.first, self.leaves = plan.first, plan.leave
        self._work.take(plan.leases, plan.ahead)
        if not self._replica.held and (plan.leases or plan.first):
            self._first_pull()
        leases = [{"lease": lease, "next": unit} for lease, unit in self._work.holding.items()]
        self._transfer.report(holding={"plan": plan.number, "leases": leases})
        if plan.hand_over is not None and plan.hand_over > self._handed:
            self._hand_over(plan.hand_over)

    def _hand_over(self, step: int) -> None:
        """Nothing is computed anywhere: what this worker keeps now is what the run has before `step`."""
        self._handed = step
        self._transfer.report(announce={"activity": "handing over"})
        self._transfer.begin_hand_over(step, self._extras.save(USER_STREAM))

    def _first_pull(self) -> None:
        steps = self._replica.pull()
        self._work.reached(self._replica.clock)
        self._transfer.begin_following(self._replica.versions, steps, self._replica.opened)

    def enter(self, deltas: Sequence[Delta]) -> None:
        """Apply what has arrived; take back what of this worker's pushes was not applied."""
        self._replica.receive(deltas)
        self._replica.catch_up()
        self._drift.hear(deltas)
        came_back = [self._lane.settle(delta) for delta in deltas]
        self.final = self.final or deltas[0].final
        if deltas[0].pause or self.final:
            self._farewell.end()
        self._news = self._news or any(came_back) or self.final
        self._work.reached(self._replica.clock)

    def next(self) -> Task:
        if self.final or self._transfer.mailbox.units_under_way >= UNITS_UNDER_WAY:
            return WAIT
        task = self._work.next()
        return Task(Kind.FLUSH) if task == WAIT and self._flush_due else task

    @property
    def _flush_due(self) -> bool:
        idle = not self._work.open and not self._transfer.mailbox.units_under_way
        return self.leaves and self._farewell.due(idle=idle)

    def following(self, task: Task) -> tuple[int, int]:
        """(step, stream) of the unit after the one at hand, unless a plan changes it."""
        return self._work.following(task)

    def flush(self, learning_rates: Sequence[float]) -> None:
        """Do what is due of the last push (FLUSH). `learning_rates`: one a parameter group, as of the next unit."""
        self._farewell.go_on(learning_rates)

    # --- units --------------------------------------------------------------------------------------

    def catch_up(self) -> bool:
        """Show the newest x̂ to the model; deltas were applied as they came.

        Whether there is news of what is held back: pushes came back since the last call, or none will any more.
        """
        if self._shown_versions != self._replica.versions:
            self._shown_versions = list(self._replica.versions)
            self._parameters.refresh()
        news, self._news = self._news, False
        return news

    def stand_at(self, task: Task) -> bool:
        """The newest x̂, whatever the unit."""
        return self.catch_up()

    def begin(self, task: Task) -> None:
        """Show where x̂ is going, and keep what a bad attempt at the unit might change."""
        with span("foresee", step=task.step, stream=task.stream):
            self._show()
        shards = task.send_to or range(len(self._replica.trainable))
        self._drift.began(task.step * self._streams + task.stream, shards)
        self._extras_before = self._extras.save(USER_STREAM)
        if self._inner is not None:
            self._inner.begin(self._inner.state)

    def _show(self) -> None:
        """Have the model show what the unit is computed on: where x̂ is going, so far as that is known."""
        if self._inner is not None:
            self._show_with_own()
        else:
            self._show_ahead()

    def _show_with_own(self) -> None:
        """x̂, and what this worker has pushed itself since: its next steps go on from its last ones."""
        offset = self._parameters.gradient
        if self._lane.on_its_way(offset):
            offset *= float(np.float32(-self._reach))
            self._parameters.look_ahead()
        else:
            self._parameters.show()

    def _show_ahead(self) -> None:
        """x̂, moved on by what is expected until the unit counts."""
        moves = [self._look_ahead * self._drift.moves(shard) for shard in range(len(self._replica.trainable))]
        if not any(moves):
            self._parameters.show()
            return
        assert self._replica.before is not None
        now, into = self._parameters.published, self._parameters.gradient
        gains, go_on = np.zeros(len(now), np.float32), device_of(now).go_on
        for blocks, factor in zip(self._replica.trainable, moves, strict=True):
            go_on(now, self._replica.before, np.full_like(gains, factor), gains, blocks.rows, into)
        self._parameters.look_ahead()

    def restore(self, task: Task) -> None:
        """Buffers, scaler, objects, inner optimizer and its steps as they were before the unit at hand."""
        self._extras.load(USER_STREAM, self._extras_before)
        if self._inner is not None:
            self._inner.restore()
            self._show()

    def show_first(self) -> None:
        """There is one set of buffers."""

    def commit(self, task: Task, unit: UnitId, commit: Commit) -> None:
        """Compress the collected gradient and push it to the shards that need it."""
        gradient, number = self._parameters.gradient, unit.number(self._streams)
        shards = task.send_to or range(len(self._replica.trainable))
        frames: list[Iterable[bytes]] = [() for _ in shards]
        if commit.contributes:
            frames = [self._lane.encode(shard, number, gradient) for shard in shards]
        if commit.contributes and self._clips:
            whole = [tuple(pieces) for pieces in frames]
            frames = [*whole]
            commit = replace(commit, push_norm=self._lane.norm(dict(zip(shards, whole, strict=True))))
        for shard, pieces in zip(shards, frames, strict=True):
            self._transfer.begin_push(
                shard,
                unit,
                task.attempt,
                pieces,
                commit,
                base=self._replica.versions[shard],
                most_bytes=self._lane.most_bytes(shard) if commit.contributes else 0,
            )
        self._work.done(task)
