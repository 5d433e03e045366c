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
from coordinator import events as e
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
from coordinator.servers import Servers
from coordinator.state import State
from coordinator.work import Work
from wire.errors import UsageError

BEFORE_IT_BEGAN = a.End("it asked to leave before the run began", "")
HEARD_AFTER_THE_END = (
    e.Join
    | e.Declare
    | e.Beat
    | e.BeatsEnded
    | e.Attending
    | e.StopAsked
    | e.CheckpointAsked
    | e.SetAsked
    | e.DrainAsked
    | e.ShardAttached
    | e.ServerAttached
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
        self.liveness = Liveness(suspect_s=rules.suspect_s, dead_s=rules.dead_s)
        self.patience = Patience(rules)
        self.residuals = Residuals(self.desk)
        self._figures: dict[int, tuple[tuple[str, float], ...]] = {}
        workers = state.present("worker")
        self.crew = Crew(
            ready={m.incarnation for m in workers if m.ready},
            leaving={m.incarnation for m in workers if m.leaving},
        )
        self.boundary = Boundary(self.desk)
        self.retirements = Retirements(self.desk)
        self.segments = Segments(self.desk, self.crew, self.boundary, self.retirements)
        self.ending = Ending(self.desk, self.boundary, self.model)
        self.abdicated = ""
        self._reopened = False
        self.servers = Servers(self.desk, self.model, self.patience, end=self.ending.end)
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            e.Join: self._join,
            e.Declare: self._declare,
            e.Beat: lambda event, now: self.liveness.beat(event.incarnation, now, line=event.line),
            e.BeatsEnded: lambda event, now: self.liveness.close(event.incarnation, now, line=event.line),
            e.Attending: self._attending,
            e.Uploaded: self._uploaded,
            e.Ready: self._ready,
            e.Progressed: self._progressed,
            e.Announced: lambda event, now: self.patience.announced(event.incarnation),
            e.Moving: lambda event, now: self.patience.heard(event.incarnation, now),
            e.StreamDeposited: lambda event, now: self.work.deposited(event),
            e.Holding: lambda event, now: self.work.holding(event),
            e.Flushed: self._flushed,
            e.HandedOver: self._handed_over,
            e.LossEvaluated: self._evaluated,
            e.WorkerFailed: self._failed,
            e.WorkerLeaving: lambda event, now: self._leave(event.incarnation, event.reason),
            e.ShardAttached: self._shard_attached,
            e.ServerAttached: self.servers.server_attached,
            e.ServerAlive: self.servers.alive,
            e.LineBroken: self.servers.broke,
            e.LineRefused: self.servers.refused,
            e.StandbyInSync: lambda event, now: self.servers.standbys.in_sync(event),
            e.StandbyParted: lambda event, now: self.servers.standbys.parted(event),
            e.StandbyLeft: lambda event, now: self.servers.standbys.left(event),
            e.ShardStalled: lambda event, now: self.servers.stalled(event),
            e.ShardConfigured: lambda event, now: self.model.configured(event.shard),
            e.ShardRestored: lambda event, now: self.model.restored(),
            e.SegmentBegun: lambda event, now: self.segments.begun_on(event.shard, event.segment, now),
            e.UnitAccepted: lambda event, now: self._unit_accepted(event),
            e.FenceAnswered: lambda event, now: self.work.fenced(event),
            e.WorkerRetired: self._worker_retired,
            e.StepSettled: lambda event, now: self.boundary.settle(event.shard, event.step + 1),
            e.ShardRefused: lambda event, now: self.ending.end(
                f"server {event.shard} refuses: {event.message}", event.error
            ),
            e.Fenced: self._fenced,
            e.CheckpointWritten: lambda event, now: self.ending.checkpoint_written(event),
            e.CheckpointFailed: lambda event, now: self.ending.checkpoint_failed(event),
            e.StopAsked: lambda event, now: self.ending.stop(event),
            e.CheckpointAsked: lambda event, now: self.boundary.wishes.ask(event.key, begun=self.begun),
            e.SetAsked: lambda event, now: self.segments.set(event),
            e.DrainAsked: self._drain,
            e.Tick: self._tick,
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

    def handle(self, event: e.Event, now: float) -> list[a.Action]:
        """What is to be done about `event` at monotonic second `now`, in this order.

        Of a thousand workers nearly all that is heard are heartbeats by which nobody's standing changes. They reveal
        nothing that a part decides by; what time alone decides, the next tick does.
        """
        self.desk.actions = []
        if self.abdicated or (isinstance(event, e.Beat) and self._goes_on(event, now)):
            return []
        if self.state.ended is None or isinstance(event, HEARD_AFTER_THE_END):
            self._handlers[type(event)](event, now)
            self.segments.advance(now)
            self.patience.renew(self.desk.actions, now)
        return self.desk.actions

    def _goes_on(self, beat: e.Beat, now: float) -> bool:
        """Whether a heartbeat of the run at hand was one like those before it, and is taken."""
        return self.state.ended is None and self.liveness.goes_on(beat.incarnation, now, line=beat.line)

    def reopen(self, now: float) -> list[a.Action]:
        """A coordinator came back to this run: what it does first.

        What is only heard is asked again. A worker that was not heard since is not dead for that, for a while; a
        shard's line begins with all that the shard knows; what was decided is said again to those who may not have
        heard it.
        """
        self.desk.actions = []
        self._reopened = True
        for member in self.state.present("worker"):
            self.liveness.expect(member.incarnation, now)
        if self.begun:
            self.segments.begun_at = now
            self.desk.untold = {placed.shard for placed in self.state.placement}
        self.servers.reopen(now)
        if self.state.ended is not None:
            self.desk.actions.append(a.Quit())
        return self.desk.actions

    def lingering(self) -> bool:
        """Whether a worker of the ended run still beats, or may not have heard yet that it is over."""
        return self.liveness.beating() or (self._reopened and self.liveness.unheard())

    @property
    def pure(self) -> bool:
        """Whether the result depends on configuration, data and seed alone: all exact, all workers compute alike."""
        if self.state.elastic:
            return False
        workers = [m for m in self.state.members.values() if m.role == "worker"]
        return len({m.fingerprint for m in workers}) <= 1

    # --- joining -------------------------------------------------------------------------

    def _join(self, event: e.Join, now: float) -> None:
        if event.role == "ps":
            self.servers.join(event, now)
            self.model.place()
        elif (incarnation := admit(self.desk, event)) is not None:
            self.liveness.expect(incarnation, now)

    def _declare(self, event: e.Declare, now: float) -> None:
        if self.model.declare(event):
            self.patience.heard(event.incarnation, now)

    def _uploaded(self, event: e.Uploaded, now: float) -> None:
        self.patience.heard(event.incarnation, now)
        self.model.uploaded(event.incarnation)

    # --- shards --------------------------------------------------------------------------

    def _shard_attached(self, event: e.ShardAttached, now: float) -> None:
        if self.state.ended is not None:
            self.desk.actions.append(a.Command(event.shard, a.FinishShard(self.state.ended.reason)))
            return
        if not self.servers.attached(event, now):
            return
        if problem := self.servers.lost(event, self.work.standing_on(event.shard)):
            self.ending.end(problem, "ServerLost")
            return
        if not event.configured:
            self.desk.actions.append(a.Command(event.shard, a.ConfigureShard()))
            self.retirements.again(event.shard)
            return
        self.model.configured(event.shard)
        for accepted in event.accepted:
            self._unit_accepted(accepted)
        self._told(event.shard, now)
        self._say_again(event, now)

    def _told(self, shard: int, now: float) -> None:
        """A shard has told what it holds. Work that waits for that goes on with the last one."""
        if shard in self.desk.untold:
            self.desk.untold.discard(shard)
            if not self.desk.untold:
                self.segments.resume(now)

    def _say_again(self, event: e.ShardAttached, now: float) -> None:
        """What a shard may have missed while its line was broken, in the order in which it was decided."""
        last, segment = self.state.last_close, self.state.segment
        self.boundary.settle(event.shard, event.step)
        self.retirements.again(event.shard)
        if last is not None and self.boundary.settled(event.shard) <= last.step:
            self.desk.actions.append(a.Command(event.shard, close_of(last)))
        if event.segment < segment.number:
            self.desk.actions.append(a.Command(event.shard, begin_of(self.state)))
        self.segments.begun_on(event.shard, event.segment, now)
        self.work.again(event)

    def _fenced(self, event: e.Fenced, now: float) -> None:
        """Another coordinator decides. Nothing is journaled of it: this journal counts no more."""
        self.abdicated = f"server {event.shard} refuses this coordinator: {event.message}"
        self.desk.actions.append(a.Abdicate(self.abdicated))

    def _unit_accepted(self, event: e.UnitAccepted) -> None:
        self.work.accept(event)
        if problem := self.work.disagreement():
            self.ending.end(problem, "ModelMismatch")

    def _worker_retired(self, event: e.WorkerRetired, now: float) -> None:
        if self.retirements.answered(event.shard, event.incarnation):
            self.work.retired(event.incarnation)

    # --- workers at work -----------------------------------------------------------------

    def _attending(self, event: e.Attending, now: float) -> None:
        self.desk.worker(event.incarnation)
        if self.state.ended is not None:
            self.desk.tell(event.incarnation, a.End(self.state.ended.reason, self.state.ended.error))
            return
        self.servers.standbys.remind(event.incarnation)
        if self.begun:
            self.work.remind(event.incarnation)
        elif event.incarnation in self.crew.leaving:
            self.desk.tell(event.incarnation, BEFORE_IT_BEGAN)

    def _ready(self, event: e.Ready, now: float) -> None:
        self.desk.worker(event.incarnation)
        self.patience.heard(event.incarnation, now)
        if self.state.dataset is None:
            if problem := self.data.take(event):
                self.ending.end(problem, "DataRefused")
                return
        elif problem := self.data.difference(event):
            self.desk.tell(event.incarnation, a.End(problem, "DataRefused"))
            return
        self.segments.welcome(event.incarnation, now, keeps=event.keeps)

    def _progressed(self, event: e.Progressed, now: float) -> None:
        self.desk.worker(event.incarnation)
        self.patience.progressed(event.incarnation, now, unit_s=event.unit_s)
        self.residuals.told(event)
        self._figures[event.incarnation] = event.figures
        if event.unit_s > 0:
            self.crew.computed(self.desk.name_of(event.incarnation), event.unit_s, now)

    def _flushed(self, event: e.Flushed, now: float) -> None:
        self.desk.worker(event.incarnation)
        self.residuals.flushed(event)
        self.work.flushed(event)

    def _handed_over(self, event: e.HandedOver, now: float) -> None:
        self.desk.worker(event.incarnation)
        self.patience.progressed(event.incarnation, now)
        if event.step > (
            -1 if self.state.handed is None else self.state.handed
        ):  # a repeat of an older one else
            self.desk.decide(r.HandedOver(event.step))
            self.desk.note("handed_over", name=self.desk.name_of(event.incarnation), step=event.step)

    def _evaluated(self, event: e.LossEvaluated, now: float) -> None:
        self.patience.progressed(event.incarnation, now)
        known = {(told.step, told.model) for told in self.state.evaluations}
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
        self.desk.decide(r.Leaving(incarnation))
        self.crew.leaving.add(incarnation)
        if self.begun:
            self.work.leave(incarnation)
        else:
            self.desk.tell(incarnation, BEFORE_IT_BEGAN)

    def _drain(self, event: e.DrainAsked, now: float) -> None:
        if self.state.ended is not None:
            self.desk.answer(event.key, error_of(self.state.ended))
            return
        named = [m for m in self.state.present("worker") if m.name == event.name]
        if not named:
            there = ", ".join(sorted(m.name for m in self.state.present("worker")))
            refusal = UsageError(f"no worker named {event.name!r} is in the run; there are {there or 'none'}")
            self.desk.answer(event.key, refusal)
            return
        self._leave(named[0].incarnation, "an operator asked")
        self.desk.answer(event.key, a.Done(named[0].incarnation))

    def _tick(self, event: e.Tick, now: float) -> None:
        if event.late_s:
            self.liveness.excuse(event.late_s, now)
            self.patience.excuse(event.late_s, now)
            self.servers.excuse(event.late_s, now)
            return
        self.servers.tick(now)
        for incarnation, reason in self.liveness.dead(now):
            self._depart(incarnation, reason)
        if self.begun:
            self._give_up_the_slow(now)
        self.crew.forgive(now)

    def _give_up_the_slow(self, now: float) -> None:
        """A stuck worker is given up; a straggler too, where another one waits: it comes back by itself.

        Who is silent is neither: it is dead in a moment, or beats again.
        """
        owing = self.work.owing()
        others_wait = self.segments.bounded and bool(self.crew.available - owing)
        heard = owing - self.liveness.suspects(now)
        for verdict in self.patience.verdicts(heard, now, others_wait=others_wait):
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
        told = self._figures.pop(incarnation, ())
        self.desk.decide(r.Departed(incarnation, reason, dead, bool(carried), told))
        event = "straggled" if straggles else "died" if dead else "left"
        self.desk.note(event, name=member.name, reason=reason, streams=carried)
        self.model.dismiss(incarnation, reason)
        stale = "StaleIncarnation" if dead or straggles else ""
        self.desk.tell(incarnation, a.End(f"given up: {reason}", stale))
        self.residuals.gone(incarnation)
        self.crew.dismiss(incarnation)
        if self.begun:  # before, nobody had anything to push
            self.retirements.begin(incarnation)
            self.work.abandon(incarnation, f"{member.name} is gone: {reason}")

    def _failed(self, event: e.WorkerFailed, now: float) -> None:
        name = self.desk.worker(event.incarnation).name
        self.desk.note("failed", name=name, error=event.error, message=event.message)
        self._depart(event.incarnation, f"{event.error}: {event.message}")
