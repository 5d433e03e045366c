"""Steps of an exact segment: what is accepted, when the open one closes (design: rule 1).

The coordinator alone closes a step; between two closes it decides whether the next version is
the last, whether stream state is deposited there, and holds the close back while a checkpoint
of the open step's boundary is being written.

Where units lag (delayed), those of the step after the open one arrive while it is open. At a boundary nothing may
be under way, so the pipeline *drains* before it: the close two steps before announces it, and units of the step that
begins there wait for all before them. What is asked for too late for that happens a step later.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from coordinator import events as e
from coordinator.boundary import NOTHING, Boundary, Kind
from coordinator.clipping import bound_of, counted, norms_of, returned
from coordinator.desk import Desk, every
from coordinator.pace import Pace, Standing
from coordinator.records import Closed, Stopping
from wire.messages import BAD_UNIT, Commit


@dataclass
class Heard:
    """Of one step: stream -> the shards that hold its unit; stream -> the commit that was told first."""

    accepted: dict[int, set[int]] = field(default_factory=dict)
    commits: dict[int, Commit] = field(default_factory=dict)
    _torn: int | None = None

    def accept(self, stream: int, shard: int, commit: Commit) -> None:
        self.accepted.setdefault(stream, set()).add(shard)
        first = self.commits.setdefault(stream, commit)
        if _rates(first) != _rates(commit) or first.contributes != commit.contributes:
            self._torn = stream

    def torn(self, step: int) -> str:
        """Why the step must not close, or nothing."""
        if self._torn is not None:
            return (
                f"step {step}: two attempts at the unit of stream {self._torn} stand on different shards and disagree "
                "(learning rates, or whether it is empty); expected the same of every worker: data, code and machines "
                "alike"
            )
        filled = [(s, _rates(c)) for s, c in sorted(self.commits.items()) if c.contributes]
        for stream, rates in filled[1:]:
            if rates != filled[0][1]:
                return (
                    f"step {step}: the unit of stream {filled[0][0]} carries learning rates {list(filled[0][1])}, that "
                    f"of stream {stream} {list(rates)}; expected equal ones in one step: make the schedule a function "
                    "of session.clock, or hand the scheduler to sparsync.join"
                )
        return ""


def _rates(commit: Commit) -> tuple[float, ...]:
    """The learning rates that whoever ran the user's optimizer took."""
    return commit.inner_rates or commit.learning_rates


class Steps:
    """What was heard of the steps that are not closed. Decisions are in the journal."""

    def __init__(self, desk: Desk, boundary: Boundary, pace: Pace) -> None:
        self._desk = desk
        self._boundary = boundary
        self._pace = pace
        self._heard: defaultdict[int, Heard] = defaultdict(Heard)
        self.waits_for = ""

    def accept(self, event: e.UnitAccepted) -> None:
        """A shard holds a unit."""
        unit, opened = event.unit, self._desk.state.open_step
        if opened <= unit.step <= opened + self._pace.lag:
            self._heard[unit.step].accept(unit.stream, event.shard, event.commit)

    def standing_on(self, shard: int) -> set[int]:
        """The units of steps that are not closed which a shard was heard to hold."""
        streams = len(self._desk.state.lanes)
        return {
            step * streams + stream
            for step, heard in self._heard.items()
            for stream, shards in heard.accepted.items()
            if shard in shards
        }

    def disagreement(self) -> str:
        """Why a step must not close: commits whose learning rates differ, a torn unit, or nothing."""
        return next((found for step in sorted(self._heard) if (found := self._heard[step].torn(step))), "")

    def owed(self) -> set[int]:
        """The streams that keep the run waiting: without their unit, or without the deposit that is due."""
        state, due = self._desk.state, self._boundary.due
        undeposited = {lane.stream for lane in state.lanes if due is not None and lane.deposit != due}
        if state.paused:
            return {lane.stream for lane in state.lanes if lane.deposit != state.open_step}
        if state.final:
            return undeposited
        return undeposited | set(range(len(state.lanes))) - set(self._standing().complete)

    def _standing(self) -> Standing:
        state = self._desk.state
        accepted = self._heard[state.open_step].accepted
        return Standing(state.open_step, len(state.lanes), len(state.placement), accepted)

    def advance(self) -> None:
        """Close the open step if its time has come."""
        state = self._desk.state
        if state.dataset is None or state.ended is not None:
            return
        if not state.final and self._boundary.open:
            streams, self.waits_for = self._pace.decide(self._standing())
            if self._hurries:
                self.waits_for = (
                    f"step {state.open_step} waits until the one before it is closed on every shard"
                )
            elif streams is not None:
                self._close(streams)

    @property
    def _hurries(self) -> bool:
        """Whether a shard may not have heard of the last close, as the units of the open step came before it.

        One at most may be missed with a broken line: it is told again on the next. Where nothing lags, the units of
        the open step tell that it was heard.
        """
        state = self._desk.state
        first = state.open_step == state.segment.step
        return self._pace.lag > 0 and not first and not self._boundary.reached(state.open_step)

    @property
    def _first_of_many(self) -> bool:
        """Whether streams began with what their holders had from another segment, which nobody else could replay."""
        return self._desk.state.anew and self._desk.state.open_step == self._desk.state.segment.step

    def _deposits(self, following: int, kind: Kind) -> bool:
        """Whether streams' state is kept as `following` opens: for a checkpoint, heirs, the segment behind it."""
        planned = every(following, self._desk.rules.stream_state_every)
        return kind.checkpoint or kind.pause or planned or self._first_of_many

    def _close(self, streams: tuple[int, ...]) -> None:
        desk, state, rules = self._desk, self._desk.state, self._desk.rules
        heard = self._heard.pop(state.open_step)
        commits = [heard.commits[stream] for stream in streams]
        bad = [c.empty_reason for c in commits if c.empty_reason.startswith(BAD_UNIT)]
        if bad and rules.on_bad_unit == "stop" and state.stopping is None:
            step = desk.rounds.first_step(state.open_step)
            desk.decide(Stopping(f"step {step}: {bad[0].removeprefix(BAD_UNIT)}", "BadUnit"))
        following = state.open_step + 1
        drained = desk.drained(following)
        kind = self._boundary.kind(following) if drained else NOTHING
        late = self._boundary.wanted and not drained
        stale = 0 if desk.drained(state.open_step) else self._pace.lag
        filled = [c for c in commits if c.contributes]
        loss = sum(c.loss for c in filled) / len(filled) if filled else None
        norms, bound = norms_of(filled), bound_of(state.norms, clip=rules.clip, streams=state.streams)
        record = Closed(
            step=state.open_step,
            streams=streams,
            deposit=self._deposits(following, kind),
            final=kind.final,
            retain_from=state.retain_from,
            empty=len(commits) - len(filled),
            samples=sum(c.samples for c in commits),
            tokens=sum(c.tokens for c in commits),
            loss=loss,
            pause=kind.pause,
            staleness=((stale, len(filled)),) if filled else (),
            checkpoint=kind.checkpoint,
            drain=self._pace.lag > 0 and (late or desk.planned(following + 1)),
            returned=returned(norms, bound),
            bound=bound,
            norms=counted(norms, bound) if rules.clip else (),
        )
        desk.decide(record)
        desk.close(record)
        desk.note("step", step=record.step, loss=loss, samples=record.samples, tokens=record.tokens)
        for stream, commit in zip(streams, commits, strict=True):
            if commit.empty_reason.startswith(BAD_UNIT):
                desk.note("bad_unit", step=record.step, stream=stream, reason=commit.empty_reason)
