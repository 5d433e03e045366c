"""Steps of an exact segment: what is accepted, when the open one closes (design: rule 1).

The coordinator alone closes a step; between two closes it decides whether the next version is
the last, whether stream state is deposited there, and holds the close back while a checkpoint
of the open step's boundary is being written.
"""

from __future__ import annotations

from coordinator import events as e
from coordinator.boundary import Boundary, every
from coordinator.desk import Desk
from coordinator.pace import Pace, Standing
from coordinator.records import Closed, Stopping
from wire.messages import BAD_UNIT, Commit


class Steps:
    """What was heard of the open step. Decisions are in the journal."""

    def __init__(self, desk: Desk, boundary: Boundary, pace: Pace) -> None:
        self._desk = desk
        self._boundary = boundary
        self._pace = pace
        self._accepted: dict[int, set[int]] = {}
        self._commits: dict[int, Commit] = {}
        self._torn: int | None = None
        self.waits_for = ""

    def accept(self, event: e.UnitAccepted) -> None:
        """A shard holds a unit."""
        if event.unit.step != self._desk.state.open_step:
            return
        self._accepted.setdefault(event.unit.stream, set()).add(event.shard)
        first = self._commits.setdefault(event.unit.stream, event.commit)
        if (
            first.learning_rates != event.commit.learning_rates
            or first.contributes != event.commit.contributes
        ):
            self._torn = event.unit.stream

    def standing_on(self, shard: int) -> set[int]:
        """The open step's units that a shard was heard to hold."""
        state = self._desk.state
        first = state.open_step * len(state.lanes)
        return {first + stream for stream, shards in self._accepted.items() if shard in shards}

    def disagreement(self) -> str:
        """Why the open step must not close: commits whose learning rates differ, a torn unit, or nothing."""
        if self._torn is not None:
            return (
                f"step {self._desk.state.open_step}: two attempts at the unit of stream {self._torn} stand on "
                "different shards and disagree (learning rates, or whether it is empty); expected the same of every "
                "worker: data, code and machines alike"
            )
        filled = [(s, c.learning_rates) for s, c in sorted(self._commits.items()) if c.contributes]
        for stream, rates in filled[1:]:
            if rates != filled[0][1]:
                return (
                    f"step {self._desk.state.open_step}: the unit of stream {filled[0][0]} carries learning rates "
                    f"{list(filled[0][1])}, that of stream {stream} {list(rates)}; expected equal ones in one step: "
                    "make the schedule a function of session.clock, or hand the scheduler to sparsync.join"
                )
        return ""

    def owed(self) -> set[int]:
        """The streams that keep the run waiting: without their unit, or without the deposit that is due."""
        state, due = self._desk.state, self._boundary.due
        undeposited = {lane.stream for lane in state.lanes if due is not None and lane.deposit != due}
        if state.final:
            return undeposited
        return undeposited | set(range(len(state.lanes))) - set(self._standing().complete)

    def _standing(self) -> Standing:
        state = self._desk.state
        return Standing(state.open_step, len(state.lanes), len(state.placement), self._accepted)

    def advance(self) -> None:
        """Close the open step if its time has come."""
        state = self._desk.state
        if state.dataset is None or state.ended is not None:
            return
        if not state.final and self._boundary.open:
            streams, self.waits_for = self._pace.decide(self._standing())
            if streams is not None:
                self._close(streams)

    @property
    def _first_of_many(self) -> bool:
        """Whether streams began with what their holders had from another segment, which nobody else could replay."""
        segment = self._desk.state.segment
        return segment.number > 0 and self._desk.state.open_step == segment.step

    def _close(self, streams: tuple[int, ...]) -> None:
        desk, state, rules = self._desk, self._desk.state, self._desk.rules
        commits = [self._commits[stream] for stream in streams]
        bad = [c.empty_reason for c in commits if c.empty_reason.startswith(BAD_UNIT)]
        if bad and rules.on_bad_unit == "stop" and state.stopping is None:
            desk.decide(Stopping(f"step {state.open_step}: {bad[0].removeprefix(BAD_UNIT)}", "BadUnit"))
        following = state.open_step + 1
        kind = self._boundary.kind(following)
        filled = [c for c in commits if c.contributes]
        loss = sum(c.loss for c in filled) / len(filled) if filled else None
        record = Closed(
            step=state.open_step,
            streams=streams,
            deposit=kind.checkpoint or every(following, rules.stream_state_every) or self._first_of_many,
            final=kind.final,
            retain_from=state.retain_from,
            empty=len(commits) - len(filled),
            samples=sum(c.samples for c in commits),
            tokens=sum(c.tokens for c in commits),
            loss=loss,
            pause=kind.pause,
            staleness=((0, len(filled)),) if filled else (),
            checkpoint=kind.checkpoint,
        )
        desk.decide(record)
        desk.close(record)
        desk.note("step", step=record.step, loss=loss, samples=record.samples, tokens=record.tokens)
        for stream, commit in zip(streams, commits, strict=True):
            if commit.empty_reason.startswith(BAD_UNIT):
                desk.note("bad_unit", step=record.step, stream=stream, reason=commit.empty_reason)
        self._accepted.clear()
        self._commits.clear()
