"""Boundaries: the moments between two closes at which a run is whole.

Every unit of earlier steps is settled on every shard, none of later ones is begun or settled anywhere (in exact
segments: none is settled). A checkpoint is written there, a segment or the run ends there.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator import actions as a
from coordinator import events as e
from coordinator.desk import Desk
from coordinator.records import Checkpointed, Unwritten
from coordinator.wishes import Wishes
from wire.errors import NotWritten


@dataclass(frozen=True)
class Kind:
    """What happens once a close has settled everywhere."""

    final: bool
    checkpoint: bool
    pause: bool

    @property
    def any(self) -> bool:
        return self.final or self.checkpoint or self.pause


NOTHING = Kind(final=False, checkpoint=False, pause=False)


class Boundary:
    """How far the newest boundary has come; what is decided of it is in the state.

    Attributes:
        wishes: of operators, for a checkpoint.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._settled: dict[int, int] = {}
        self._writing = False
        self.wishes = Wishes(desk)

    @property
    def due(self) -> int | None:
        """The step whose checkpoint must be written before the run goes on, or None."""
        return self._desk.state.due

    def kind(self, following: int) -> Kind:
        """What a close that makes `following` the open step brings about."""
        state = self._desk.state
        assert state.dataset is not None
        final = state.stopping is not None or following >= state.dataset.total_steps
        return Kind(
            final=final,
            checkpoint=final or self.wishes.open or self._desk.passes_checkpoint(following - 1, following),
            pause=state.switching is not None and not final,
        )

    @property
    def wanted(self) -> bool:
        """Whether somebody asked for a boundary, wherever it comes next."""
        state = self._desk.state
        return state.stopping is not None or state.switching is not None or self.wishes.open

    def settle(self, shard: int, step: int) -> None:
        """A shard has closed every step before `step`."""
        self._settled[shard] = max(step, self._settled.get(shard, 0))

    def settled(self, shard: int) -> int:
        return self._settled.get(shard, 0)

    def reached(self, step: int) -> bool:
        """Whether every shard has closed all before `step`."""
        return all(self.settled(s.shard) >= step for s in self._desk.state.placement)

    @property
    def open(self) -> bool:
        """Whether steps may close and units be dealt: no boundary is under way."""
        return self.due is None and not self._desk.state.paused

    @property
    def segment_over(self) -> bool:
        """Whether the next segment can begin."""
        state = self._desk.state
        return state.paused and self.due is None and self.reached(state.closed)

    def write_if_due(self, *, deposited: bool) -> None:
        """Begin the checkpoint once every shard stands at its boundary and what belongs to it is deposited there."""
        if self.due is None or self._writing or not deposited or not self.reached(self.due):
            return
        if not self._desk.state.final or self._evaluated():
            self._writing = True
            self._desk.actions.append(a.WriteCheckpoint(self.due))

    def _evaluated(self) -> bool:
        """Whether the last evaluations are in; a run that is being stopped does not wait for them."""
        state = self._desk.state
        if state.stopping is not None or state.dataset is None or not state.dataset.evaluates:
            return True
        now = self._desk.rounds.first_step(state.open_step)
        have = {told.model for told in state.evaluations if told.step == now}
        return have >= {"published", "x"} or not any(
            m.incarnation in state.witnesses for m in state.present("worker")
        )

    def written(self, event: e.CheckpointWritten) -> None:
        self._desk.decide(Checkpointed(event.step, event.path, event.params_digest, event.published_digest))
        self._desk.note("checkpoint", step=event.step, path=event.path)
        self.wishes.answer(a.Saved(event.step, event.path))
        self._writing = False

    def failed(self, event: e.CheckpointFailed) -> None:
        """A checkpoint in mid-run that fails is told and passed over."""
        self._desk.decide(Unwritten(event.step, event.message))
        self._desk.note("checkpoint_failed", step=event.step, error=event.message)
        self.wishes.answer(NotWritten(f"the checkpoint of step {event.step} failed: {event.message}"))
        self._writing = False
