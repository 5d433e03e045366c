"""What the parts of the small world share: a model, rules, commits, lines that delay and break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from coordinator import records as r
from coordinator.desk import Rules
from coordinator.state import State
from wire.layout import Layout, Parameter
from wire.messages import Commit, OptimizerSpec

LAYOUT = Layout((Parameter("w", (9 * 4096,), "float32", 0), Parameter("b", (5,), "float32", 0)))
SPEC = OptimizerSpec("sgd", ({"lr": 0.1, "momentum": 0.0},))
EXACT = r.Switching("sync", None, None, 1.0)


class Broken(AssertionError):
    """Something that must always hold does not."""


def rules(**changes: Any) -> Rules:
    """Rules of a small synchronous run."""
    base: dict[str, Any] = {
        "servers": 2,
        "workers_to_begin": 2,
        "units_per_step": 4,
        "steps": 10,
        "epochs": None,
        "checkpoint_every": 0,
        "stream_state_every": 3,
        "on_bad_unit": "skip",
        "suspect_s": 3.0,
        "dead_s": 5.0,
        "progress_timeout_s": 60.0,
        "straggler_s": 5.0,
        "mixed_fingerprints": False,
    }
    return Rules(**(base | changes))


def beginning(
    *, first_step: int = 0, checkpoint: str = "", mode: r.Switching = EXACT
) -> tuple[r.Record, ...]:
    """The records that a coordinator takes office with."""
    began = r.Began("run", 1, 1, "ab", first_step, checkpoint)
    return began, r.Segment(0, first_step, **vars(mode))


def began(streams: int, *, first_step: int = 0, checkpoint: str = "", mode: r.Switching = EXACT) -> State:
    """The state of a coordinator that just took office."""
    state = State(streams)
    for record in beginning(first_step=first_step, checkpoint=checkpoint, mode=mode):
        state.apply(record)
    return state


def commit_of(step: int, stream: int) -> Commit:
    """The same for every attempt at a unit; now and then an empty one."""
    empty = "epoch_end" if (7 * step + 3 * stream) % 11 == 0 else ""
    return Commit(empty, 0 if empty else 8, 64, 1.0 / (1 + step), 1.0, (0.1,))


class Owner(Protocol):
    """Who acts: nothing of it happens once it is dead, and later while it is paused."""

    alive: bool
    paused_until: float


class Events(Protocol):
    """The queue of what happens."""

    now: float

    def delay(self) -> float: ...

    def at(self, time: float, act: Callable[[], None], owner: Owner | None = None) -> None: ...


class Line:
    """One direction of a connection: in order, each message late by a random time; a cut line is silent."""

    def __init__(self, world: Events, deliver: Callable[[Any], None], owner: Owner | None = None) -> None:
        self._world, self._deliver, self._owner = world, deliver, owner
        self._last = 0.0
        self._until = float("inf")

    def send(self, message: Any) -> None:
        self._last = max(self._last, self._world.now + self._world.delay())
        self._world.at(self._last, lambda: self._arrive(message), self._owner)

    def _arrive(self, message: Any) -> None:
        if self._world.now <= self._until:
            self._deliver(message)

    def cut(self, after_s: float = 0.0) -> None:
        self._until = min(self._until, self._world.now + after_s)
