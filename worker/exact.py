"""An exact segment on this worker: streams that are loaded, replayed, computed step by step, deposited.

What the carrier says is done here: stream state is swapped in and out, x̂ stands at the step of
the unit at hand.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from wire.codec.base import PushCodec
from wire.codec.dense import pack, unpack
from wire.ids import UnitId
from wire.messages import Commit
from wire.rpc.planes import inner_bytes, pieces_of
from wire.trace import span
from worker.deltas import Delta
from worker.foresight import Course, Foresight
from worker.inner import Inner
from worker.mailbox import Plan
from worker.outgoing import keeping
from worker.parameters import Parameters
from worker.planes import Plane, add, norm, zeros_like
from worker.replica import Replica
from worker.returned import Returned
from worker.state import USER_STREAM, Extras, StreamState
from worker.streams import Carrier, Kind, Task
from worker.transfer import EXTRA_BYTES, Transfer

log = logging.getLogger(__name__)


class ExactSegment:
    """The streams that this worker carries.

    Args:
        number: of the segment.
        begins: its first step.
        lag: steps that units lag in it (`Carrier`).
        streams: units of a step (R).
        origin: gives the extra that a stream without a deposit begins with.
        held: what the segment before held back; the first stream without a deposit begins with it.
        inner: the optimizer that units step here; None: the servers do.
        clips: whether pushes may count in part.
        foresight: where units lag and look ahead; the replica remembers x̂'s last move.
    """

    elastic = False
    leaves = False

    def __init__(
        self,
        number: int,
        *,
        begins: int,
        lag: int,
        transfer: Transfer,
        parameters: Parameters,
        replica: Replica,
        codec: PushCodec,
        extras: Extras,
        streams: int,
        origin: Callable[[], bytes],
        held: Plane | None,
        inner: Inner | None = None,
        clips: bool = False,
        foresight: Foresight | None = None,
    ) -> None:
        self.number = number
        self._transfer = transfer
        self._parameters = parameters
        self._replica = replica
        self._codec = codec
        self._extras = extras
        self._inner = inner
        self._streams = streams
        self._origin = origin
        self._residual = "" if codec.estimates or not codec.state_planes else codec.state_planes[-1]
        self._inherited = held if self._residual else None
        self._carrier = Carrier(begins=begins, lag=lag)
        self._foresight = foresight
        self._states: dict[int, StreamState] = {}
        self._course = Course.of(b"", blocks=0)
        """Of the stream of the unit at hand, as the unit began."""
        self._returned = Returned(codec, replica.trainable, on=clips)
        if lag and replica.step > begins:
            self._pull_again(max(replica.step - 1 - lag, begins))
        elif replica.held:
            self._carrier.reached(replica.step, deposit=False, final=False)

    # --- what is to be done ------------------------------------------------------------------------

    @property
    def first(self) -> bool:
        """Whether this worker evaluates."""
        return USER_STREAM in self._carrier.streams

    @property
    def final(self) -> bool:
        """Whether the last step was reached."""
        return self._carrier.final

    @property
    def clock(self) -> int:
        """The step that x̂ holds."""
        return max(self._replica.step, 0)

    @property
    def lags(self) -> bool:
        """Whether x̂ may pass a step that no unit is computed on."""
        return self._carrier.lag > 0

    @property
    def residual_norm(self) -> float:
        """Streams are deposited; what is lost with this worker is what came from before and no stream has taken on."""
        return 0.0 if self._inherited is None else norm(self._inherited, self._replica.trainable)

    @property
    def holds_back(self) -> bool:
        """Whether the codec holds anything back for later pushes."""
        return bool(self._residual)

    def held_by(self, streams: Iterable[int], *, step: int) -> Plane | None:
        """What these streams hold back together as the segment ends, at `step`; a new plane.

        Streams that are elsewhere are taken from their deposits; what came from before, and no stream has taken on, is
        added.
        """
        if not self._residual:
            return None
        whole = zeros_like(self._parameters.gradient)
        if self._inherited is not None:
            add(self._inherited, whole)
        for stream in streams:
            add(self._state_at_end(stream, step)[self._residual], whole)
        return whole

    def _state_at_end(self, stream: int, step: int) -> Mapping[str, Plane]:
        if stream in self._states:
            return self._states[stream].planes
        planes, _ = self._withdrawn(stream, step)
        return planes

    def finish(self) -> float:
        """The next segment begins: what streams hold is known, once they have taken back what did not count."""
        for stream, state in self._states.items():
            self._returned.take_back(stream, state.planes, before=self._replica.step)
        return 0.0

    def take(self, plan: Plan) -> None:
        """Follow a plan; the first one with a stream has x̂ pulled."""
        self._carrier.take(plan.assignments, plan.drained)
        if not self._replica.held and plan.assignments:
            self._first_pull(min(self._carrier.need(a.deposit) for a in plan.assignments))

    def _first_pull(self, step: int) -> None:
        self._replica.seek(step)
        self._parameters.refresh()
        self._carrier.reached(step, deposit=False, final=False)
        versions = self._replica.versions
        self._transfer.begin_following(versions, [step] * len(versions), self._replica.opened)

    def _pull_again(self, step: int) -> None:
        """x̂ was pulled as it was, within this segment: what deltas before it told of steps to come was not heard."""
        self._replica.forget()
        self._first_pull(step)

    def enter(self, deltas: Sequence[Delta]) -> None:
        """A step was closed on every shard; x̂ follows when a unit needs it."""
        self._replica.receive(deltas)
        self._reached(deltas)

    def _reached(self, deltas: Sequence[Delta]) -> None:
        head = deltas[0]
        self._returned.hear(deltas, position=self._replica.step)
        if head.closes:
            self._carrier.reached(
                head.step + 1, deposit=head.deposit, final=head.final, pause=head.pause, drain=head.drain
            )

    def next(self) -> Task:
        return self._carrier.next()

    def following(self, task: Task) -> tuple[int, int]:
        """(step, stream) of the unit after the one at hand, unless the plan changes."""
        streams = self._carrier.streams
        later = [s for s in streams if s > task.stream]
        if task.kind is Kind.REPLAY:
            return task.step + 1, task.stream
        return (task.step, later[0]) if later else (task.step + 1, min(streams, default=task.stream))

    # --- x̂ ------------------------------------------------------------------------------------------

    def catch_up(self) -> bool:
        """Bring x̂ to the newest step known; whether it moved there."""
        return self._replica.held and self._seek(self._carrier.version)

    def _seek(self, step: int) -> bool:
        """Bring x̂ to `step`; a history that was fetched for it tells where deposits are due."""
        if self._replica.step == step:
            return False
        for deltas in self._replica.seek(step):
            self._reached(deltas)
        self._parameters.refresh()
        return step == self._carrier.version

    # --- units --------------------------------------------------------------------------------------

    def pass_by(self, task: Task) -> bool:
        """Where the pipeline drains before a unit, x̂ passes a step that no unit is computed on; whether it is there."""
        steps = self._carrier.need(task.step) - self._replica.step
        if not 1 < steps <= 1 + self._carrier.lag:
            return False
        self._seek(self._replica.step + 1)
        return True

    def stand_at(self, task: Task) -> bool:
        """Bring x̂ to what the unit at hand is computed on; whether that is the newest step, just entered."""
        return self._seek(self._carrier.need(task.step))

    def begin(self, task: Task) -> None:
        """Buffers, scaler, objects and inner optimizer as the stream left them.

        What did not count of its units, as far as x̂ tells, goes back first.
        """
        state = self._states[task.stream]
        self._show(task)
        self._returned.take_back(task.stream, state.planes, before=self._replica.step)
        self._extras.load(task.stream, state.extra)
        if self._inner is not None:
            self._inner.begin(state.moments)

    def _show(self, task: Task) -> None:
        """Have the model show what the unit is computed on: x̂, or where it is going."""
        self._course = self._states[task.stream].course
        if self._foresight is None:
            self._parameters.show()
        elif not self._carrier.lags(task.step):
            self._course = self._course.arrived()
            self._parameters.show()
        else:
            before = self._replica.before if self._carrier.saw_move(task.step) else None
            assert before is None or self._replica.moved, (task, self._replica.step)
            now, offset = self._parameters.published, self._parameters.gradient
            with span("foresee", step=task.step, stream=task.stream):
                self._course = self._foresight.look(self._course, now, before, offset)
                self._parameters.look_ahead()

    def restore(self, task: Task) -> None:
        """As before the unit at hand: what a bad attempt, or one that nobody goes on with, has changed is undone."""
        state = self._states[task.stream]
        self._extras.load(task.stream, state.extra)
        if self._inner is not None:
            state.moments = self._inner.restore()
            self._parameters.show()

    def show_first(self) -> None:
        """Buffers, scaler and objects as the first stream left them, whichever was computed last."""
        if self.first and USER_STREAM in self._states:
            self._extras.load(USER_STREAM, self._states[USER_STREAM].extra)

    def commit(self, task: Task, unit: UnitId, commit: Commit) -> None:
        """Compress the collected gradient and push it, piece by piece; a replayed unit is compressed only."""
        state = self._states[task.stream]
        frames = self._frames(state, unit) if commit.contributes else [()] * len(self._replica.trainable)
        if self._returned.on and commit.contributes:
            whole = [tuple(pieces) for pieces in frames]
            frames = whole
            self._returned.keep(task.stream, task.step, whole)
            commit = replace(
                commit, push_norm=self._codec.norm(zip(whole, self._replica.trainable, strict=True))
            )
        if self._foresight is not None:
            kept: list[list[bytes]] = [[] for _ in frames]
            frames = [keeping(pieces, into) for pieces, into in zip(frames, kept, strict=True)]
            state.course = self._course.sent(kept)
        for shard, (blocks, pieces) in enumerate(zip(self._replica.trainable, frames, strict=True)):
            if task.kind is not Kind.COMPUTE or (task.send_to and shard not in task.send_to):
                deque(pieces, maxlen=0)  # the state moves on all the same
                continue
            self._transfer.begin_push(
                shard,
                unit,
                task.attempt,
                pieces,
                commit,
                base=self._replica.versions[shard],
                most_bytes=self._codec.max_frame_bytes(blocks) if commit.contributes else 0,
            )
        state.extra = self._extras.save(task.stream)
        if self._inner is not None:
            state.moments = self._inner.state
        self._carrier.done(task)

    def _frames(self, state: StreamState, unit: UnitId) -> Sequence[Iterable[bytes]]:
        """The pieces of the unit's frame for each shard, made when they are asked for."""
        gradient, number = self._parameters.gradient, unit.number(self._streams)
        return [
            self._codec.encode(gradient, state.planes, blocks, unit=number)
            for blocks in self._replica.trainable
        ]

    # --- stream state ---------------------------------------------------------------------------------

    def manage(self, task: Task) -> None:
        """Do a task that is no unit: LOAD, DEPOSIT or RELEASE."""
        if task.kind is Kind.LOAD:
            self._take_over(task)
        else:
            self._deposit(task)

    def _take_over(self, task: Task) -> None:
        """A stream's newest deposit, or the state that every stream begins with."""
        inner, course = self._inner.origin if self._inner is not None else b"", b""
        if task.has_deposit:
            planes, parts = self._withdrawn(task.stream, task.step)
            extra = parts[0].get("extra", b"")
            inner, course = (b"".join(part.get(name, b"") for part in parts) for name in ("inner", "course"))
        else:
            planes, extra = self._empty_planes(), self._origin()
            if self._inherited is not None:
                planes[self._residual], self._inherited = self._inherited, None
        moments = self._inner.load(inner) if self._inner is not None else None
        self._states[task.stream] = StreamState(
            planes, extra, moments, Course.of(course, blocks=len(self._parameters.gradient))
        )
        self._returned.forget(task.stream)
        self._carrier.done(task)

    def _empty_planes(self) -> dict[str, Plane]:
        return {name: zeros_like(self._parameters.gradient) for name in self._codec.state_planes}

    def _withdrawn(self, stream: int, step: int) -> tuple[dict[str, Plane], list[dict[str, bytes]]]:
        """A stream's deposit: the codec's planes, and all of it by shard."""
        log.info("taking over stream %d from its deposit at step %d", stream, step)
        planes = self._empty_planes()
        parts = self._transfer.do_withdraw(stream, step, self._expected_of_deposit)
        for blocks, part in zip(self._replica.trainable, parts, strict=True):
            for name in planes:
                unpack(part[name], planes[name], blocks)
        return planes, parts

    def _expected_of_deposit(self, shard: int, name: str) -> int | range | None:
        if name == "extra":
            return range(EXTRA_BYTES + 1)
        if name in ("inner", "course"):
            return inner_bytes(self._replica.trainable[shard].elements)
        return 4 * self._replica.trainable[shard].elements if name in self._codec.state_planes else None

    def _deposit(self, task: Task) -> None:
        """Save a stream's state on the servers, in the background."""
        state = self._states[task.stream]
        self._returned.take_back(task.stream, state.planes, before=task.step)
        parts = [
            {name: pack(plane, blocks) for name, plane in state.planes.items()}
            for blocks in self._replica.trainable
        ]
        parts[0]["extra"] = state.extra
        blobs: dict[str, bytes] = {}
        if self._inner is not None:
            blobs["inner"] = self._inner.dump(state.moments)
        if self._foresight is not None:
            lags = self._carrier.lags(task.step)
            blobs["course"] = bytes(state.course if lags else state.course.arrived())
        elements = [blocks.elements for blocks in self._replica.trainable]
        for name, blob in blobs.items():
            for part, piece in zip(parts, pieces_of(blob, elements), strict=True):
                part[name] = piece
        released = task.kind is Kind.RELEASE
        self._transfer.begin_deposit(task.stream, task.step, task.attempt, parts, released=released)
        self._carrier.done(task)
        if released:
            del self._states[task.stream]
