"""The desk that the deciding parts share: the state, the rules, and the actions of the event at hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator import actions as a
from coordinator.entries import Member
from coordinator.pace import pace_of
from coordinator.records import Closed, Ended, Record
from coordinator.state import State
from wire.errors import RunOver, SparsyncError, StaleIncarnation, by_name
from wire.rounds import Rounds

PLANS_A_TERM_BITS = 32


@dataclass(frozen=True)
class Rules:
    """What of the configuration decides."""

    servers: int
    workers_to_begin: int
    units_per_step: int
    steps: int | None
    epochs: int | None
    checkpoint_every: int
    stream_state_every: int
    on_bad_unit: str
    suspect_s: float
    dead_s: float
    progress_timeout_s: float
    straggler_s: float
    mixed_fingerprints: bool
    ack: str = "memory"
    replicas: int = 0
    rounds: Rounds = field(default_factory=Rounds)
    clip: float = 0.0


@dataclass
class Desk:
    """`untold`: shards that have not told what they hold since this coordinator came back to a run at work."""

    rules: Rules
    state: State
    actions: list[a.Action] = field(default_factory=list)
    untold: set[int] = field(default_factory=set)
    _plans: int = 0

    def __post_init__(self) -> None:
        self._plans = (
            self.state.term - 1
        ) << PLANS_A_TERM_BITS  # an answer to an older term's plan is an old one

    @property
    def rounds(self) -> Rounds:
        """Which steps belong to a round; with the end of the run, once its data are known."""
        dataset = self.state.dataset
        return self.rules.rounds.until(dataset.steps or dataset.total_steps) if dataset else self.rules.rounds

    def decide(self, record: Record) -> None:
        """Make `record` part of the state, and durable before what follows."""
        self.state.apply(record)
        self.actions.append(a.Journal(record))

    def note(self, event: str, **fields: object) -> None:
        self.actions.append(a.Note(event, fields))

    def tell(self, incarnation: int, order: a.Plan | a.End | a.Redirect) -> None:
        self.actions.append(a.Tell(incarnation, order))

    def answer(
        self, key: str, value: a.Joined | a.Declared | a.Stopped | a.Saved | a.Done | Exception
    ) -> None:
        self.actions.append(a.Answer(key, value))  # type: ignore[arg-type]

    def close(self, record: Closed) -> None:
        """Have every shard settle what `record` says."""
        self.command_all(close_of(record))

    def drained(self, step: int) -> bool:
        """Whether the units of `step` are computed on all before it: no later unit is begun before it opens.

        A boundary can only be there. Where units lag, such a step was announced two closes before it. The second step
        of a segment is known to be one from the beginning, or is none.
        """
        state = self.state
        begins = state.segment.step
        if not pace_of(state.segment).lag or step <= begins or step in state.drained:
            return True
        return step == begins + 1 and (state.anew or self.planned(step))

    def planned(self, step: int) -> bool:
        """Whether the configuration alone has a boundary at `step`."""
        rules, dataset = self.rules, self.state.dataset
        over = dataset is not None and step >= dataset.total_steps
        return over or self.passes_checkpoint(step - 1, step) or every(step, rules.stream_state_every)

    def passes_checkpoint(self, before: int, following: int) -> bool:
        """Whether a checkpoint is due at a step between the beginnings of two rounds, or at the later one."""
        return self.rounds.passed(self.rules.checkpoint_every, before=before, round_=following) is not None

    def next_plan(self) -> int:
        """The number of one more plan; answers to older ones are told apart by it."""
        self._plans += 1
        return self._plans

    def command_all(self, command: a.ShardOrder) -> None:
        for shard in range(len(self.state.placement)):
            self.actions.append(a.Command(shard, command))

    def name_of(self, incarnation: int) -> str:
        member = self.state.members.get(incarnation)
        return member.name if member else f"#{incarnation}"

    def worker(self, incarnation: int) -> Member:
        """A worker that is in the run. Raises: StaleIncarnation."""
        member = self.state.members.get(incarnation)
        if member is None or not member.present:
            reason = f"it was given up: {member.gone}" if member else "it never joined this run"
            raise StaleIncarnation(f"incarnation {incarnation} is not in the run ({reason}); join anew")
        return member


def every(step: int, interval: int) -> bool:
    """Whether what happens every `interval` steps (0: never) happens at `step`."""
    return interval > 0 and step % interval == 0


def close_of(record: Closed) -> a.CloseStep:
    """The command that carries a decided close out."""
    return a.CloseStep(
        step=record.step,
        streams=record.streams,
        deposit=record.deposit,
        final=record.final,
        retain_from=record.retain_from,
        late=record.late,
        pause=record.pause,
        drain=record.drain,
        bound=record.bound,
    )


def begin_of(state: State) -> a.BeginSegment:
    """The command that tells a shard of the segment at hand."""
    segment, pace = state.segment, pace_of(state.segment)
    return a.BeginSegment(
        segment.number,
        segment.step,
        elastic=not pace.exact,
        arrival=pace.arrival,
        lag=pace.lag,
        owed=pace.owed(state.streams),
    )


def error_of(ended: Ended) -> SparsyncError:
    """What is answered to those that still wait when the run ends, or come after it."""
    return by_name(ended.error)(ended.reason) if ended.error else RunOver(f"the run is over: {ended.reason}")
