"""The deciding core: `handle(event, now)` returns what is to be done. No sockets, threads or clock reads.

What each event means is here, and what a departure brings about; the parts decide: `admission` who enters,
`model` and `dataset` what is trained, `segments` in which mode, `work` who computes what and what settles,
`membership` and `patience` who is given up, `ending` how the run ends. Every decision is a record: applied to
the state and journaled before the message that reveals it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coordinator import actions as a
from coordinator import records as r
from coordinator.admission import admit
from coordinator.boundary import Boundary
from coordinator.crew import Crew
from coordinator.dataset import Data
from coordinator.desk import Desk, Rules, begin_of, close_of, error_of
from coordinator.ending import Ending
from coordinator.membership import Liveness
from coordinator.model import Model
from coordinator.patience import Patience
from coordinator.residuals import Residuals
from coordinator.retirements import Retirements
from coordinator.segments import Segments
from coordinator.state import State
from coordinator.work import Work
from wire.errors import UsageError

BEFORE_IT_BEGAN = a.End("it asked to leave before the run began", "")
HEARD_AFTER_THE_END = (
    a.Join
    | a.Declare
    | a.BeatsEnded
    | a.Attending
    | a.StopAsked
    | a.SetAsked
    | a.DrainAsked
    | a.ShardAttached
)


class Core:
    """One run's coordinator, as a function of events and times.

    Args:
        resumed: the data of the checkpoint that is being resumed (fields of `records.Dataset`).
    """

    def __init__(self, rules: Rules, state: State, *, resumed: Mapping[str, object] | None = None) -> None:
        self.desk = Desk(rules, state)
        self.model = Model(self.desk)
        self.data = Data(self.desk, resumed)
        self.liveness = Liveness(dead_s=rules.dead_s)
        self.patience = Patience(rules)
        self.residuals = Residuals(self.desk)
        self.crew = Crew()
        self.boundary = Boundary(self.desk)
        self.retirements = Retirements(self.desk)
        self.segments = Segments(self.desk, self.crew, self.boundary, self.retirements)
        self.ending = Ending(self.desk, self.boundary, self.model)
        self.recoveries = 0
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            a.Join: self._join,
            a.Declare: self._declare,
            a.Beat: lambda e, now: self.liveness.beat(e.incarnation, now, line=e.line),
            a.BeatsEnded: lambda e, now: self.liveness.close(e.incarnation, now, line=e.line),
            a.Attending: self._attending,
            a.Uploaded: self._uploaded,
            a.Ready: self._ready,
            a.Progressed: self._progressed,
            a.Announced: lambda e, now: self.patience.announced(e.incarnation),
            a.StreamDeposited: lambda e, now: self.work.deposited(e),
            a.Holding: lambda e, now: self.work.holding(e),
            a.Flushed: self._flushed,
            a.LossEvaluated: self._evaluated,
            a.WorkerFailed: self._failed,
            a.WorkerLeaving: lambda e, now: self._leave(e.incarnation, e.reason),
            a.ShardAttached: self._shard_attached,
            a.ShardConfigured: lambda e, now: self.model.configured(e.shard),
            a.ShardRestored: lambda e, now: self.model.restored(),
            a.SegmentBegun: lambda e, now: self.segments.begun_on(e.shard, e.segment, now),
            a.UnitAccepted: self._unit_accepted,
            a.FenceAnswered: lambda e, now: self.work.fenced(e),
            a.WorkerRetired: self._worker_retired,
            a.StepSettled: lambda e, now: self.boundary.settle(e.shard, e.step + 1),
            a.ShardRefused: lambda e, now: self.ending.end(f"server {e.shard} refuses: {e.message}", e.error),
            a.ShardLost: lambda e, now: self.ending.end(e.reason, "ServerLost"),
            a.CheckpointWritten: lambda e, now: self.ending.checkpoint_written(e),
            a.CheckpointFailed: lambda e, now: self.ending.checkpoint_failed(e),
            a.StopAsked: lambda e, now: self.ending.stop(e),
            a.SetAsked: lambda e, now: self.segments.set(e),
            a.DrainAsked: self._drain,
            a.Tick: self._tick,
        }

    @property
    def begun(self) -> bool:
        """Whether work was dealt: enough workers were ready at one moment."""
        return self.segments.begun

    @property
    def begun_at(self) -> float | None:
        """When work was first dealt, in monotonic seconds."""
        return self.segments.begun_at

    @property
    def work(self) -> Work:
        """What decides in the segment at hand."""
        return self.segments.work

    @property
    def state(self) -> State:
        return self.desk.state

    def handle(self, event: a.Event, now: float) -> list[a.Action]:
        """What is to be done about `event` at monotonic second `now`, in this order."""
        self.desk.actions = []
        if self.state.ended is None or isinstance(event, HEARD_AFTER_THE_END):
            self._handlers[type(event)](event, now)
            self.segments.advance(now)
            self.patience.renew(self.desk.actions, now)
        return self.desk.actions

    def lingering(self) -> bool:
        """Whether a worker of the ended run still beats."""
        return self.liveness.beating()

    @property
    def pure(self) -> bool:
        """Whether the result depends on configuration, data and seed alone: all exact, all workers compute alike."""
        if self.state.elastic:
            return False
        workers = [m for m in self.state.members.values() if m.role == "worker"]
        return len({m.fingerprint for m in workers}) <= 1

    # --- joining -------------------------------------------------------------------------

    def _join(self, event: a.Join, now: float) -> None:
        incarnation = admit(self.desk, event)
        if incarnation is None:
            return
        if event.role == "worker":
            self.liveness.expect(incarnation, now)
        self.model.place()

    def _declare(self, event: a.Declare, now: float) -> None:
        if self.model.declare(event):
            self.patience.heard(event.incarnation, now)

    def _uploaded(self, event: a.Uploaded, now: float) -> None:
        self.patience.heard(event.incarnation, now)
        self.model.uploaded(event.incarnation)

    # --- shards --------------------------------------------------------------------------

    def _shard_attached(self, event: a.ShardAttached, now: float) -> None:
        if self.state.ended is not None:
            self.desk.actions.append(a.Command(event.shard, a.FinishShard(self.state.ended.reason)))
            return
        placed = self.state.placement[event.shard]
        if event.incarnation != placed.incarnation:
            self.ending.end(
                f"server {event.shard} at {placed.address} was started anew and lost its shard", "ServerLost"
            )
            return
        if not event.configured:
            self.desk.actions.append(a.Command(event.shard, a.ConfigureShard()))
            self.retirements.again(event.shard)
            return
        self.model.configured(event.shard)
        self._say_again(event, now)

    def _say_again(self, event: a.ShardAttached, now: float) -> None:
        """What a shard may have missed while its line was broken, in the order in which it was decided."""
        last, segment = self.state.last_close, self.state.segment
        self.boundary.settle(event.shard, event.step)
        self.retirements.again(event.shard)
        if last is not None and self.boundary.settled(event.shard) <= last.step:
            self.desk.actions.append(a.Command(event.shard, close_of(last)))
        if event.segment < segment.number:
            self.desk.actions.append(a.Command(event.shard, begin_of(segment)))
        self.segments.begun_on(event.shard, event.segment, now)
        self.work.again(event)

    def _unit_accepted(self, event: a.UnitAccepted, now: float) -> None:
        self.work.accept(event)
        if problem := self.work.disagreement():
            self.ending.end(problem, "ModelMismatch")

    def _worker_retired(self, event: a.WorkerRetired, now: float) -> None:
        if self.retirements.answered(event.shard, event.incarnation):
            self.work.retired(event.incarnation)

    # --- workers at work -----------------------------------------------------------------

    def _attending(self, event: a.Attending, now: float) -> None:
        self.desk.worker(event.incarnation)
        if self.state.ended is not None:
            self.desk.tell(event.incarnation, a.End(self.state.ended.reason, self.state.ended.error))
        elif self.begun:
            self.work.remind(event.incarnation)
        elif event.incarnation in self.crew.leaving:
            self.desk.tell(event.incarnation, BEFORE_IT_BEGAN)

    def _ready(self, event: a.Ready, now: float) -> None:
        self.desk.worker(event.incarnation)
        self.patience.heard(event.incarnation, now)
        if self.state.dataset is None:
            if problem := self.data.take(event):
                self.ending.end(problem, "DataRefused")
                return
        elif problem := self.data.difference(event):
            self.desk.tell(event.incarnation, a.End(problem, "DataRefused"))
            return
        self.segments.welcome(event.incarnation, now)

    def _progressed(self, event: a.Progressed, now: float) -> None:
        self.desk.worker(event.incarnation)
        self.patience.progressed(event.incarnation, now, unit_s=event.unit_s)
        self.residuals.told(event)
        if event.unit_s > 0:
            self.crew.computed(self.desk.name_of(event.incarnation), event.unit_s, now)

    def _flushed(self, event: a.Flushed, now: float) -> None:
        self.desk.worker(event.incarnation)
        self.residuals.flushed(event)
        self.work.flushed(event)

    def _evaluated(self, event: a.LossEvaluated, now: float) -> None:
        self.patience.progressed(event.incarnation, now)
        known = {(e.step, e.model) for e in self.state.evaluations}
        if (event.step, event.model) not in known:
            self.desk.decide(r.Evaluated(event.step, event.model, event.loss))
            self.desk.note(
                "evaluated", step=event.step, model=event.model, loss=event.loss, seconds=event.seconds
            )

    # --- departures ----------------------------------------------------------------------

    def _leave(self, incarnation: int, reason: str) -> None:
        self.desk.worker(incarnation)
        if incarnation in self.crew.leaving:
            return
        self.desk.note("leaving", name=self.desk.name_of(incarnation), reason=reason)
        self.crew.leaving.add(incarnation)
        if self.begun:
            self.work.leave(incarnation)
        else:
            self.desk.tell(incarnation, BEFORE_IT_BEGAN)

    def _drain(self, event: a.DrainAsked, now: float) -> None:
        if self.state.ended is not None:
            self.desk.answer(event.key, error_of(self.state.ended))
            return
        named = [m for m in self.state.present("worker") if m.name == event.name]
        if not named:
            names = sorted(m.name for m in self.state.present("worker"))
            refusal = UsageError(
                f"no worker named {event.name!r} is in the run; there are {', '.join(names)}"
            )
            self.desk.answer(event.key, refusal)
            return
        self._leave(named[0].incarnation, "an operator asked")
        self.desk.answer(event.key, a.Done(named[0].incarnation))

    def _tick(self, event: a.Tick, now: float) -> None:
        if event.late_s:
            self.liveness.excuse(event.late_s, now)
            self.patience.excuse(event.late_s, now)
            return
        for incarnation, reason in self.liveness.dead(now):
            self._depart(incarnation, reason)
        if self.begun:
            self._give_up_the_slow(now)
        self.crew.forgive(now)

    def _give_up_the_slow(self, now: float) -> None:
        """A stuck worker is given up; a straggler too, where another one waits: it comes back by itself."""
        owing = self.work.owing()
        others_wait = self.segments.bounded and bool(self.crew.available - owing)
        for verdict in self.patience.verdicts(owing, now, others_wait=others_wait):
            if verdict.straggles:
                self.crew.straggled(self.desk.name_of(verdict.incarnation), verdict.idle_s, now)
            self._depart(verdict.incarnation, verdict.reason, dead=not verdict.straggles)

    def _depart(self, incarnation: int, reason: str, *, dead: bool = True) -> None:
        """A worker is out of the run: fence what it carried, give its other duties on."""
        self.liveness.forget(incarnation)
        self.patience.forget(incarnation)
        member = self.state.members.get(incarnation)
        if member is None or not member.present:
            return
        carried = self.work.carries(incarnation)
        straggles = not dead
        dead = dead and self.state.ended is None and not (incarnation in self.crew.leaving and not carried)
        self.desk.decide(r.Departed(incarnation, reason, dead))
        event = "straggled" if straggles else "died" if dead else "left"
        self.desk.note(event, name=member.name, reason=reason, streams=carried)
        self.recoveries += bool(carried)
        self.model.dismiss(incarnation, reason)
        stale = "StaleIncarnation" if dead or straggles else ""
        self.desk.tell(incarnation, a.End(f"given up: {reason}", stale))
        self.residuals.gone(incarnation)
        self.crew.dismiss(incarnation)
        if self.begun:  # before, nobody had anything to push
            self.retirements.begin(incarnation)
            self.work.abandon(incarnation, f"{member.name} is gone: {reason}")

    def _failed(self, event: a.WorkerFailed, now: float) -> None:
        name = self.desk.worker(event.incarnation).name
        self.desk.note("failed", name=name, error=event.error, message=event.message)
        if event.ends_run:
            self.ending.end(f"worker {name}: {event.message}", event.error)
        else:
            self._depart(event.incarnation, f"{event.error}: {event.message}")
