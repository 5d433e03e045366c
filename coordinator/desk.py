"""The desk that the deciding parts share: the state, the rules, and the actions of the event at hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator import actions as a
from coordinator.records import Record
from coordinator.state import State


@dataclass(frozen=True)
class Rules:
    """What of the configuration decides."""

    mode: str
    servers: int
    workers_to_begin: int
    units_per_step: int
    steps: int | None
    epochs: int | None
    checkpoint_every: int
    stream_state_every: int
    on_bad_unit: str
    dead_s: float
    progress_timeout_s: float
    mixed_fingerprints: bool


@dataclass
class Desk:
    rules: Rules
    state: State
    actions: list[a.Action] = field(default_factory=list)

    def decide(self, record: Record) -> None:
        """Make `record` part of the state, and durable before what follows."""
        self.state.apply(record)
        self.actions.append(a.Journal(record))

    def note(self, event: str, **fields: object) -> None:
        self.actions.append(a.Note(event, fields))

    def tell(self, incarnation: int, order: a.Plan | a.End) -> None:
        self.actions.append(a.Tell(incarnation, order))

    def answer(self, key: str, value: a.Joined | a.Declared | a.Stopped | Exception) -> None:
        self.actions.append(a.Answer(key, value))  # type: ignore[arg-type]

    def command_all(self, command: a.ConfigureShard | a.CloseStep | a.FenceStream | a.FinishShard) -> None:
        for shard in range(len(self.state.placement)):
            self.actions.append(a.Command(shard, command))

    def name_of(self, incarnation: int) -> str:
        member = self.state.members.get(incarnation)
        return member.name if member else f"#{incarnation}"
