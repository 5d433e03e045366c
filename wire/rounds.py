"""Steps that people see, and rounds that are settled: the one place where the one becomes the other. Pure.

A *step* is one step of the optimizer in the user's loop. In a run with local steps a worker takes H of them for one
unit, so that what coordinator, servers and the wire count one by one is a *round* of H steps; elsewhere they are the
same. What belongs to a step (samples, learning rate, random numbers) never depends on how steps are cut into rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from wire.config.tree import Config


@dataclass(frozen=True)
class Rounds:
    """How the steps of a run are cut into rounds: a function of the configuration.

    Attributes:
        local_steps: of a round (H); 1: a round is a step.
        warmup_rounds, warmup_local_steps: so many rounds in the beginning have so many steps.
        origin: the first round, and the first step of it: both have this number.
        total: steps of the run, where the last round ends; None: not known.
    """

    local_steps: int = 1
    warmup_rounds: int = 0
    warmup_local_steps: int = 1
    origin: int = 0
    total: int | None = None

    @classmethod
    def of(cls, config: Config, *, origin: int = 0) -> Rounds:
        """Those of a run that counts both from `origin` on. The end is known where `run.epochs` is not given."""
        sync = config.sync
        total = None if config.run.epochs else config.run.steps
        return cls(sync.steps_a_round, sync.warmup_rounds, sync.warmup_local_steps, origin, total)

    def until(self, total: int | None) -> Rounds:
        """The same, ending with `total` steps."""
        return replace(self, total=total)

    def first_step(self, round_: int) -> int:
        """The step that a round begins with: how many steps are behind when it does."""
        past = max(round_ - self.origin, 0)
        warm = min(past, self.warmup_rounds)
        first = self.origin + warm * self.warmup_local_steps + (past - warm) * self.local_steps
        first = first if round_ >= self.origin else round_
        return first if self.total is None else min(first, self.total)

    def last_step(self, round_: int) -> int:
        """The step that a round ends with."""
        return max(self.first_step(round_ + 1) - 1, 0)

    def steps_of(self, round_: int) -> range:
        """The steps of a round, in order; the last round may be short."""
        return range(self.first_step(round_), self.first_step(round_ + 1))

    def rounds_of(self, steps: int) -> int:
        """The round that is open once at least so many steps are behind: that many rounds, from 0 on, take them."""
        past = steps - self.origin
        if past <= 0:
            return steps
        warm = self.warmup_rounds * self.warmup_local_steps
        if past <= warm:
            return self.origin - (-past // self.warmup_local_steps)
        return self.origin + self.warmup_rounds - (-(past - warm) // self.local_steps)

    def passed(self, interval: int, *, before: int, round_: int) -> int | None:
        """The newest multiple of `interval` steps behind the beginning of `before`, up to that of `round_`."""
        newest = self.first_step(round_) // interval * interval if interval > 0 else -1
        return newest if newest > self.first_step(before) else None
