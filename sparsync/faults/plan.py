"""Which fault strikes whom, when and for how long: drawn from a seed alone, so that it replays.

A plan knows roles and ranks, no processes: a rank is taken modulo the number of members that a role has when the
fault strikes. `Plan.faults` draws every fault from its own number, so that what is skipped changes nothing after it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

RANKS = 720_720
"""Divides by every number of members up to 16: each of them is as likely."""


class Kind(NamedTuple):
    """What a kind of fault does, whom it can strike, and from how many seconds to how many it lasts."""

    meaning: str
    roles: tuple[str, ...]
    lasts_s: tuple[float, float] = (0.0, 0.0)


COORDINATOR, SERVER, WORKER = "coordinator", "ps", "worker"
ROLES = (WORKER, SERVER, COORDINATOR)
KINDS = {
    "kill": Kind("SIGKILL", ROLES),
    "stop": Kind("SIGSTOP, then SIGCONT", ROLES, (1.0, 10.0)),
    "term": Kind("SIGTERM: the worker drains", (WORKER,)),
    "partition": Kind(
        "the `sparsync proxy` in front of it is cut, then mended", (SERVER, COORDINATOR), (1.0, 10.0)
    ),
    "slow": Kind("stopped for 80% of the time, in slices of 50 ms", ROLES, (2.0, 8.0)),
    "disk": Kind("the file system of its data directory is full", (SERVER,), (2.0, 10.0)),
}


@dataclass(frozen=True)
class Fault:
    """One fault of a plan. `after_s`: from the beginning of chaos."""

    number: int
    after_s: float
    kind: str
    role: str
    rank: int
    lasts_s: float

    def of(self, members: int) -> int:
        """Which of so many members it strikes."""
        return self.rank % members


class Plan:
    """The faults of a seed, one in every stretch of `every_s`, at a moment of it that is drawn."""

    def __init__(self, *, seed: int, kinds: Sequence[str], roles: Sequence[str], every_s: float) -> None:
        """Raises ValueError for a kind that can strike none of the roles."""
        for kind in kinds:
            if not set(KINDS[kind].roles) & set(roles):
                able = ", ".join(KINDS[kind].roles)
                raise ValueError(f"{kind} strikes {able} only, none of which is among {', '.join(roles)}")
        self.seed, self.every_s = seed, every_s
        self.kinds = [kind for kind in KINDS if kind in kinds]
        self.roles = [role for role in ROLES if role in roles]

    def fault(self, number: int) -> Fault:
        """The one of that number, from 0."""
        draw = random.Random(f"{self.seed}/{number}")
        after_s = (number + draw.random()) * self.every_s
        kind = draw.choice(self.kinds)
        role = draw.choice([role for role in self.roles if role in KINDS[kind].roles])
        rank, lasts_s = draw.randrange(RANKS), draw.uniform(*KINDS[kind].lasts_s)
        return Fault(number, round(after_s, 3), kind, role, rank, round(lasts_s, 3))

    def faults(self, for_s: float | None) -> Iterator[Fault]:
        """Those that begin within `for_s`; None: no end."""
        number = 0
        while for_s is None or number * self.every_s < for_s:
            fault = self.fault(number)
            if for_s is None or fault.after_s < for_s:
                yield fault
            number += 1
