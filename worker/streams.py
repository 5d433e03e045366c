"""What a worker does next: the streams it carries and how far each has come. Pure; no sockets, no torch.

The session asks `next()` again and again and does what it says. A stream that was handed to
this worker is loaded from its newest deposit, the units since are *replayed* (computed
without pushing, so that its state becomes what it was), then it goes on with the others.

Where units *lag* (delayed), the unit of step t is computed on x̂ as step t - 1 began, while the units of that step are
still being settled; but where the pipeline *drains*, on x̂ as t begins. Which steps those are is told two steps ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Assignment:
    """One stream of the plan, as the coordinator sends it."""

    stream: int
    attempt: int
    step: int
    deposit: int
    has_deposit: bool
    send_to: tuple[int, ...]
    release: bool


class Kind(Enum):
    """What a task asks for."""

    LOAD = "take over the state of a stream"
    DEPOSIT = "save the state of a stream on the servers"
    RELEASE = "save it and carry the stream no more"
    REPLAY = "compute a unit without pushing it"
    COMPUTE = "compute a unit and push it"
    FLUSH = "push what is held back, before leaving"
    WAIT = "wait for the next version or the next plan"


@dataclass(frozen=True)
class Task:
    """`step` is the unit's, or the one before which the state is saved or loaded."""

    kind: Kind
    stream: int = -1
    step: int = -1
    attempt: int = 0
    send_to: tuple[int, ...] = ()
    has_deposit: bool = False


WAIT = Task(Kind.WAIT)


@dataclass
class _Carried:
    assignment: Assignment
    at: int = -1
    deposited: int = -1

    @property
    def loaded(self) -> bool:
        return self.at >= 0


class Carrier:
    """The streams of one worker.

    Args:
        begins: the segment's first step.
        lag: steps that units lag, but for those of steps that drain.

    Attributes:
        version: the open step: every shard's delta that closes the one before has arrived.
    """

    def __init__(self, *, begins: int = 0, lag: int = 0) -> None:
        self._begins, self.lag = begins, lag
        self._drained: set[int] = set()
        self.version = 0
        self.final = False
        self._paused = False
        self._deposit_at: set[int] = set()
        self._streams: dict[int, _Carried] = {}
        self._released: set[tuple[int, int]] = set()

    @property
    def streams(self) -> tuple[int, ...]:
        return tuple(sorted(self._streams))

    def need(self, step: int) -> int:
        """The step whose x̂ the unit of `step` is computed on: certain once x̂ is there."""
        drains = step <= self._begins or step in self._drained
        return step if drains else step - self.lag

    def lags(self, step: int) -> bool:
        """Whether the unit of `step` is computed while units of the step before are on their way."""
        return self.need(step) < step

    def saw_move(self, step: int) -> bool:
        """Whether it lags behind a move that everybody knows: one since the pipeline last drained."""
        need = self.need(step)
        return need < step and need > self._begins and need not in self._drained

    def take(self, plan: Sequence[Assignment], drained: Iterable[int] = ()) -> None:
        """Follow a plan: keep what it repeats, drop what it leaves out, take what is new."""
        self._drained.update(drained)
        carried: dict[int, _Carried] = {}
        for assignment in plan:
            if (assignment.stream, assignment.attempt) in self._released:
                continue  # told again before the coordinator heard of the release
            held = self._streams.get(assignment.stream)
            if held is not None and held.assignment.attempt == assignment.attempt:
                held.assignment = assignment
                carried[assignment.stream] = held
            else:
                carried[assignment.stream] = _Carried(assignment)
        self._streams = carried

    def reached(
        self, version: int, *, deposit: bool, final: bool, pause: bool = False, drain: bool = False
    ) -> None:
        """Step `version` is open; what the delta that closed the one before says of it, and of the one after.

        Behind a `pause` nothing is begun: what comes is another segment's.
        """
        self.version = max(self.version, version)
        self.final = self.final or final
        self._paused = self._paused or pause
        if deposit:
            self._deposit_at.add(version)
        if drain:
            self._drained.add(version + 1)

    def next(self) -> Task:
        """The next thing to do. Streams that are behind come first, one after the other; then x̂ goes one way."""
        for stream in sorted(self._streams, key=self._turn):
            task = self._task(stream, self._streams[stream])
            if task is not WAIT:
                return task
        return WAIT

    def _turn(self, stream: int) -> tuple[int, int]:
        return max(self._streams[stream].at - self.version, -1), stream

    def _task(self, stream: int, carried: _Carried) -> Task:
        a = carried.assignment
        if not carried.loaded:
            return Task(Kind.LOAD, stream, a.deposit, a.attempt, has_deposit=a.has_deposit)
        if a.release and a.step <= carried.at <= self.version:  # a deposit that may be due is this one
            return Task(Kind.RELEASE, stream, carried.at, a.attempt)
        if carried.at in self._deposit_at and carried.deposited < carried.at <= self.version:
            return Task(Kind.DEPOSIT, stream, carried.at, a.attempt)
        if self.need(carried.at) > self.version:
            return WAIT
        if carried.at < a.step:
            return Task(Kind.REPLAY, stream, carried.at, a.attempt)
        if a.release or self.final or self._paused:
            return WAIT
        send_to = a.send_to if carried.at == a.step else ()
        return Task(Kind.COMPUTE, stream, carried.at, a.attempt, send_to)

    def done(self, task: Task) -> None:
        """`task` was done."""
        carried = self._streams.get(task.stream)
        if carried is None or carried.assignment.attempt != task.attempt:
            return
        match task.kind:
            case Kind.LOAD:
                carried.at = task.step
                carried.deposited = task.step if task.has_deposit else -1
            case Kind.DEPOSIT:
                carried.deposited = task.step
            case Kind.RELEASE:
                del self._streams[task.stream]
                self._released.add((task.stream, task.attempt))
            case Kind.REPLAY | Kind.COMPUTE:
                carried.at = task.step + 1
            case Kind.WAIT:
                pass
