"""What happened in a run, folded out of its events: who was in it when, how fast it went, what went wrong. Pure.

Time is `s` of the events: seconds that a coordinator was at work. A resume on a new timeline begins at 0 there; here it
goes on where the one before ended, and so do the byte counters. An event that is not known is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsync.quantities import show_number

Event = Mapping[str, Any]

COORDINATOR = "coordinator"
HERE, AWAY, STANDBY = "in the run", "away", "stands by"
MANY = 8
"""Streams that are named; of more only their number is told."""
BYTES = ("bytes_pushed", "bytes_pulled", "bytes_state")


@dataclass
class Stretch:
    """Some seconds of a process in one state."""

    state: str
    begin_s: float
    end_s: float | None = None


@dataclass
class Process:
    """One name in the run, over all its incarnations; `last`: what was last said of it."""

    name: str
    role: str
    stretches: list[Stretch] = field(default_factory=list)
    last: str = ""
    joins: int = 0

    def turn(self, state: str | None, at_s: float) -> None:
        """From now on it is in `state`; None: it is out of the run."""
        if self.stretches and self.stretches[-1].end_s is None:
            if self.stretches[-1].state == state:
                return
            self.stretches[-1].end_s = at_s
        if state is not None:
            self.stretches.append(Stretch(state, at_s))

    @property
    def present(self) -> bool:
        return bool(self.stretches) and self.stretches[-1].end_s is None


@dataclass(frozen=True)
class Mishap:
    """Something that a report should tell."""

    at_s: float
    kind: str
    who: str
    words: str


@dataclass(frozen=True)
class Stage:
    """A stretch of the run in one mode."""

    at_s: float
    step: int
    mode: str


@dataclass
class History:
    """A run as its events tell it.

    Attributes:
        steps: (seconds, step, tokens) of each closed step.
        figures: totals at intervals, bytes summed over timelines; without them (older runs) there are no such plots.
        workers: what each incarnation of a worker did, told at the end.
        crew: (seconds, workers in the run) after each change.
    """

    run: str = ""
    timelines: int = 0
    end_s: float = 0.0
    began_at: str = ""
    ended: str = ""
    begun_s: float | None = None
    steps: list[tuple[float, int, int]] = field(default_factory=list)
    processes: dict[str, Process] = field(default_factory=dict)
    mishaps: list[Mishap] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    checkpoints: list[tuple[float, int]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    workers: list[Event] = field(default_factory=list)
    crew: list[tuple[float, int]] = field(default_factory=list)


def read_history(events: Iterable[Event]) -> History:
    """The history that `events` tell, in their order."""
    reader = _Reader()
    for event in events:
        reader.read(event)
    return reader.history


class _Reader:
    """Takes one event after the other."""

    def __init__(self) -> None:
        self.history = History()
        self._offset_s = 0.0
        self._over = False
        """Behind the end of a run everybody leaves: that is no mishap."""
        self._before: dict[str, int] = dict.fromkeys(BYTES, 0)
        self._acts: dict[str, Callable[[Event, float], None]] = {
            "began": self._began,
            "reopened": self._reopened,
            "joined": self._joined,
            "rejoined": self._joined,
            "begun": self._begun,
            "step": self._step,
            "segment": self._segment,
            "checkpoint": self._checkpoint,
            "totals": self._totals,
            "contributed": lambda event, _: self.history.workers.append(event),
            "server_away": lambda event, s: self._turn(event, AWAY, s),
            "server_back": lambda event, s: self._turn(event, HERE, s),
            "standby": lambda event, s: self._turn(event, STANDBY, s),
            "promoted": lambda event, s: self._turn(event, HERE, s),
            "died": self._gone,
            "left": self._gone,
            "straggled": self._gone,
            "ended": self._ended,
        }

    def read(self, event: Event) -> None:
        kind, s = str(event.get("event")), event.get("s")
        if not isinstance(s, int | float):
            return
        if kind == "began" and self.history.timelines:
            self._offset_s = self.history.end_s
        at_s = self._offset_s + float(s)
        self.history.end_s = max(self.history.end_s, at_s)
        if act := self._acts.get(kind):
            act(event, at_s)
        if (tell := MISHAPS.get(kind)) and not self._over:
            who = str(event.get("name") or event.get("worker") or "")
            self.history.mishaps.append(Mishap(at_s, kind.replace("_", " "), who, tell(event)))

    def _process(self, event: Event, role: str = "") -> Process | None:
        name = event.get("name")
        if not isinstance(name, str):
            return None
        return self.history.processes.setdefault(name, Process(name, role))

    def _began(self, event: Event, at_s: float) -> None:
        history = self.history
        if history.timelines:  # whoever was there is not there any more, though nobody said so
            for process in history.processes.values():
                process.turn(None, at_s)
            self._count(at_s)
            history.mishaps.append(Mishap(at_s, "resumed", "", f"on timeline {event.get('timeline')}"))
        if history.figures:
            self._before = {key: history.figures[-1][key] for key in BYTES}
        history.timelines += 1
        history.run = str(event.get("run") or history.run)
        history.began_at = history.began_at or str(event.get("t") or "")
        history.ended, self._over = "", False
        coordinator = history.processes.setdefault(COORDINATOR, Process(COORDINATOR, COORDINATOR))
        coordinator.turn(HERE, at_s)
        coordinator.joins += 1

    def _reopened(self, event: Event, at_s: float) -> None:
        coordinator = self.history.processes.setdefault(COORDINATOR, Process(COORDINATOR, COORDINATOR))
        coordinator.turn(None, at_s)
        coordinator.turn(HERE, at_s)
        coordinator.joins += 1

    def _joined(self, event: Event, at_s: float) -> None:
        if (process := self._process(event, str(event.get("role") or ""))) is None:
            return
        process.turn(None, at_s)
        process.turn(HERE, at_s)
        process.joins += 1
        process.last = ""
        self._count(at_s)

    def _turn(self, event: Event, state: str, at_s: float) -> None:
        if (process := self._process(event, "ps")) is not None:
            process.turn(state, at_s)

    def _gone(self, event: Event, at_s: float) -> None:
        if (process := self._process(event)) is None:
            return
        process.turn(None, at_s)
        process.last = str(event.get("event"))
        self._count(at_s)

    def _count(self, at_s: float) -> None:
        there = sum(p.present for p in self.history.processes.values() if p.role == "worker")
        self.history.crew.append((at_s, there))

    def _begun(self, event: Event, at_s: float) -> None:
        if self.history.begun_s is None:
            self.history.begun_s = at_s

    def _step(self, event: Event, at_s: float) -> None:
        step, tokens = event.get("step"), event.get("tokens")
        if isinstance(step, int):
            self.history.steps.append((at_s, step, tokens if isinstance(tokens, int) else 0))

    def _segment(self, event: Event, at_s: float) -> None:
        self.history.stages.append(Stage(at_s, int(event.get("step") or 0), str(event.get("mode"))))

    def _checkpoint(self, event: Event, at_s: float) -> None:
        self.history.checkpoints.append((at_s, int(event.get("step") or 0)))

    def _totals(self, event: Event, at_s: float) -> None:
        figures = self.history.figures
        summed = {key: self._before[key] + int(event.get(key) or 0) for key in BYTES}
        if figures:  # a coordinator that was started again hears only by and by what workers had counted
            summed = {key: max(value, figures[-1][key]) for key, value in summed.items()}
        figures.append({**event, **summed, "at_s": at_s})

    def _ended(self, event: Event, at_s: float) -> None:
        self.history.ended, self._over = str(event.get("reason") or ""), True
        for process in self.history.processes.values():
            process.turn(None, at_s)


# ── what a report tells of ────────────────────────────────────────────────────────────────────────


def _reason(event: Event) -> str:
    return str(event.get("reason") or "")


def _gone_words(event: Event) -> str:
    carried = event.get("streams") or []
    if len(carried) > MANY:  # in elastic segments these are units
        return f"{_reason(event)}; {len(carried)} units go to others"
    streams = " ".join(str(stream) for stream in carried)
    return _reason(event) + (f"; streams {streams} go to others" if streams else "")


def _shard_words(event: Event) -> str:
    return f"shard {event.get('shard')}" + (f": {_reason(event)}" if _reason(event) else "")


def _back_words(event: Event) -> str:
    return f"shard {event.get('shard')}, after {event.get('seconds')} s"


def _unit_words(event: Event) -> str:
    return f"step {event.get('step')}, stream {event.get('stream')}: {_reason(event)}"


MISHAPS: dict[str, Callable[[Event], str]] = {
    "reopened": lambda event: f"the coordinator is back, at {event.get('address')}",
    "died": _gone_words,
    "straggled": _gone_words,
    "left": _gone_words,
    "join_refused": _reason,
    "server_away": _shard_words,
    "server_back": _back_words,
    "promoted": _shard_words,
    "parted": _shard_words,
    "diverged": _shard_words,
    "stalled": _shard_words,
    "goes_on": _shard_words,
    "waiting": _reason,
    "bad_unit": _unit_words,
    "failed": lambda event: f"{event.get('error')}: {event.get('message')}",
    "mass_lost": lambda event: f"a residual of norm {show_number(event.get('residual_norm'))}",
    "late_units": lambda event: (
        f"{event.get('steps')} steps late in the mean: {event.get('workers')} workers, "
        f"{event.get('units_per_step')} units a step"
    ),
    "heir_lost": lambda event: f"what streams {event.get('streams')} held back as the mode changed",
    "checkpoint_failed": lambda event: f"of step {event.get('step')}: {event.get('error')}",
    "retention_failed": lambda event: str(event.get("error") or _reason(event)),
}
"""Event -> what is said of it."""
