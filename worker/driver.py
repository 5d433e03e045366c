"""What happens between two turns of the user's loop: the driver does what the carrier says.

It takes over streams, replays and deposits them, moves x̂ from version to version, evaluates,
waits; and after a unit it compresses and pushes. The session puts the user's API on top.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from wire.clock import Clock
from wire.codec.base import PushCodec
from wire.codec.dense import pack, unpack
from wire.errors import Interrupted, by_name
from wire.ids import UnitId
from wire.messages import Commit
from worker.deltas import Delta
from worker.evaluation import Evaluation
from worker.mailbox import End
from worker.parameters import Parameters, learning_rates
from worker.replica import Replica
from worker.runtime import Attachment
from worker.state import USER_STREAM, Extras, StreamState
from worker.streams import Carrier, Kind, Task
from worker.transfer import EXTRA_BYTES

log = logging.getLogger(__name__)


class Driver:
    """One worker's way through a run.

    Attributes:
        task: the unit at hand (kind COMPUTE or REPLAY), or WAIT between units.
        total_steps: of the run, once the coordinator knows it.
        end: how the run ended, once it has.
    """

    def __init__(
        self,
        attached: Attachment,
        *,
        parameters: Parameters,
        replica: Replica,
        codec: PushCodec,
        extras: Extras,
        evaluation: Evaluation,
        inner: torch.optim.Optimizer,
        scheduler: Any,
        clock: Clock,
    ) -> None:
        self._attached = attached
        self._transfer = attached.transfer
        self._parameters = parameters
        self._replica = replica
        self._codec = codec
        self._extras = extras
        self._evaluation = evaluation
        self._inner = inner
        self._scheduler = scheduler
        self._clock = clock
        self._carrier = Carrier()
        self._states: dict[int, StreamState] = {}
        self._scheduled = 0
        self._leaving = False
        self._began = 0.0
        self._computed = self._replayed = 0
        self._compute_s = self._wait_s = 0.0
        self.task = Task(Kind.WAIT)
        self.total_steps: int | None = None
        self.end: End | None = None

    @property
    def streams(self) -> tuple[int, ...]:
        """The streams that this worker carries."""
        return self._carrier.streams

    @property
    def version(self) -> int:
        """The version of x̂ that the model holds."""
        return max(self._replica.step, 0)

    @property
    def unit(self) -> UnitId:
        """The unit at hand."""
        return UnitId(self._attached.timeline, self.task.step, self.task.stream)

    @property
    def following(self) -> tuple[int, int]:
        """(step, stream) of the unit after the one at hand, unless the plan changes."""
        step, stream = self.task.step, self.task.stream
        later = [s for s in self.streams if s > stream]
        if self.task.kind is Kind.REPLAY:
            return step + 1, stream
        return (step, later[0]) if later else (step + 1, min(self.streams, default=stream))

    # --- the way ---------------------------------------------------------------------------------

    def tasks(self) -> Iterator[Task]:
        """The units to compute or to replay, one after the other, until the run ends.

        Before each the model holds its version and its stream's state.

        Raises: the error that ended the run.
        """
        self._attached.training = True
        while not self._ended():
            self._listen()
            task = self._carrier.next()
            match task.kind:
                case Kind.LOAD:
                    self._load(task)
                case Kind.DEPOSIT | Kind.RELEASE:
                    self._deposit(task)
                case Kind.REPLAY | Kind.COMPUTE:
                    self._seek(task.step)
                    if task.kind is Kind.COMPUTE:
                        self._follow_schedule(task.step)
                        self._evaluate_if_due()
                    self._extras.load(task.stream, self._states[task.stream].extra)
                    self.task, self._began = task, self._clock.now()
                    yield task
                    self.task = Task(Kind.WAIT)
                case Kind.WAIT:
                    self._wait()
        self._finish()

    def _ended(self) -> bool:
        end = self._transfer.mailbox.end
        if end is None:
            return False
        self.end = end
        if end.error and end.error != Interrupted.__name__:
            raise by_name(end.error)(end.reason)
        return True

    def _listen(self) -> None:
        """Take in what has arrived, a plan or deltas; tell that this worker wants to go."""
        if self._attached.asked_to_end() and not self._leaving:
            self._leaving = True
            self._transfer.report(leaving={"reason": "asked to end"})
        plan = self._transfer.mailbox.take_plan()
        if plan is not None:
            self.total_steps = plan.total_steps or None
            self._carrier.take(plan.assignments)
            if not self._replica.held and plan.assignments:
                self._first_pull(min(a.deposit for a in plan.assignments))
        while deltas := self._transfer.mailbox.take_deltas():
            self._replica.receive(deltas)
            self._reached(deltas)

    def _first_pull(self, version: int) -> None:
        """Hold x̂ for the first time, and follow from there."""
        self._replica.seek(version)
        self._parameters.refresh()
        self._carrier.reached(version, deposit=False, final=False)
        self._transfer.begin_following(self._replica.versions, [version] * len(self._replica.versions))

    def _reached(self, deltas: Sequence[Delta]) -> None:
        header = deltas[0]
        self._carrier.reached(header.step + 1, deposit=header.deposit, final=header.final)

    def _seek(self, version: int) -> None:
        """Bring the model to `version`; a history that was fetched for it tells where deposits are due."""
        if self._replica.step == version:
            return
        for deltas in self._replica.seek(version):
            self._reached(deltas)
        self._parameters.refresh()
        if version == self._carrier.version:
            self._report_progress()

    def _follow_schedule(self, version: int) -> None:
        """The scheduler stands where the global clock stands."""
        if self._scheduler is not None:
            for _ in range(version - self._scheduled):
                self._scheduler.step()
        self._scheduled = version

    def _wait(self) -> None:
        """Nothing can be computed: bring x̂ forward, evaluate at the end, wait for news."""
        if 0 <= self._replica.step < self._carrier.version:
            self._seek(self._carrier.version)
        if self._carrier.final:
            self._evaluate_if_due()
        began = self._clock.now()
        self._transfer.mailbox.wait()
        self._wait_s += self._clock.now() - began

    def _finish(self) -> None:
        """The run is over: the model holds the newest x̂ received, and the first stream's buffers."""
        if self._replica.held:
            self._seek(self._carrier.version)
            self._follow_schedule(self.version)
        self._show_first_stream()

    def _show_first_stream(self) -> None:
        """Buffers, scaler and objects as the first stream left them, whichever was computed last."""
        if USER_STREAM in self.streams and USER_STREAM in self._states:
            self._extras.load(USER_STREAM, self._states[USER_STREAM].extra)

    # --- stream state ------------------------------------------------------------------------------

    def _load(self, task: Task) -> None:
        """Take over a stream: its newest deposit, or the state that every stream begins with."""
        planes = {name: np.zeros_like(self._parameters.gradient) for name in self._codec.state_planes}
        extra = self._extras.initial
        if task.has_deposit:
            log.info("taking over stream %d from its deposit at step %d", task.stream, task.step)
            parts = self._transfer.do_withdraw(task.stream, task.step, self._expected_of_deposit)
            for blocks, part in zip(self._replica.trainable, parts, strict=True):
                for name in planes:
                    unpack(part[name], planes[name], blocks)
                extra = part.get("extra", extra)
        self._states[task.stream] = StreamState(planes, extra)
        self._carrier.done(task)
        self._report_progress()

    def _expected_of_deposit(self, shard: int, name: str) -> int | range | None:
        if name == "extra":
            return range(EXTRA_BYTES + 1)
        return 4 * self._replica.trainable[shard].elements if name in self._codec.state_planes else None

    def _deposit(self, task: Task) -> None:
        """Save a stream's state on the servers, in the background."""
        state = self._states[task.stream]
        parts = [
            {name: pack(plane, blocks) for name, plane in state.planes.items()}
            for blocks in self._replica.trainable
        ]
        parts[0]["extra"] = state.extra
        released = task.kind is Kind.RELEASE
        self._transfer.begin_deposit(task.stream, task.step, task.attempt, parts, released=released)
        self._carrier.done(task)
        if released:
            del self._states[task.stream]

    # --- evaluation ----------------------------------------------------------------------------------

    def _evaluate_if_due(self) -> None:
        if 0 not in self.streams or not self._replica.held:
            return
        final = self._carrier.final
        if self._evaluation.due(self.version, "published", final=final):
            self._show_first_stream()
            self._evaluation.run_if_due(self.version, "published", final=final)
        if final and self._evaluation.due(self.version, "x", final=True):
            with self._replica.holding_x():
                self._parameters.refresh()
                self._evaluation.run_if_due(self.version, "x", final=True)
            self._parameters.refresh()

    # --- after a unit ----------------------------------------------------------------------------------

    def send(self, *, samples: int, tokens: int, loss: float, norm_sq: float) -> None:
        """Compress the collected gradient shard by shard and push it; a replayed unit is compressed only."""
        self._commit(Commit("", samples, tokens, loss, norm_sq, learning_rates(self._inner)))

    def send_empty(self, reason: str, *, samples: int = 0) -> None:
        """Commit the unit at hand as contributing nothing; the codec's state stays as it was."""
        self._commit(Commit(reason, samples, 0, 0.0, 0.0, learning_rates(self._inner)))

    def restore(self) -> None:
        """The stream's state as it was before the unit at hand: what a bad attempt left in buffers is undone."""
        self._extras.load(self.task.stream, self._states[self.task.stream].extra)

    def _commit(self, commit: Commit) -> None:
        """Each shard's frame leaves while the next one is being encoded."""
        task, state = self.task, self._states[self.task.stream]
        for shard, blocks in enumerate(self._replica.trainable):
            frame = b""
            if not commit.empty_reason:
                frame = self._codec.encode(self._parameters.gradient, state.planes, blocks)
            if task.kind is Kind.COMPUTE and (not task.send_to or shard in task.send_to):
                base = self._replica.versions[shard]
                self._transfer.begin_push(shard, self.unit, task.attempt, frame, commit, base=base)
        state.extra = self._extras.save(task.stream)
        self._carrier.done(task)
        seconds = self._clock.now() - self._began
        self._compute_s += seconds
        if task.kind is Kind.COMPUTE:
            self._computed += 1
        else:
            self._replayed += 1
        self._report_progress(unit_s=seconds)

    def _report_progress(self, *, unit_s: float = 0.0) -> None:
        pushed, pulled, state = self._transfer.bytes_moved()
        progress = {
            "version": self.version,
            "units": self._computed,
            "compute_s": self._compute_s,
            "wait_s": self._wait_s,
            "bytes_pushed": pushed,
            "bytes_pulled": pulled,
            "bytes_state": state,
            "pulls": self._replica.pulls,
            "unit_s": unit_s,
            "replayed": self._replayed,
        }
        self._transfer.report(progress=progress)
