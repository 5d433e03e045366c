"""Who goes by which incarnation in the run, as the coordinator tells it on its line.

Incarnations only grow and everybody is told of, so one below the newest that is not known was never handed out;
one above it may be on its way. Nobody is forgotten: what a process that is gone still sends is its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from wire.errors import StaleIncarnation


class Member(NamedTuple):
    """A process of the run."""

    incarnation: int
    role: str
    name: str


class Members:
    """All that were told of.

    Attributes:
        uploader: the worker that uploads the initial parameters; 0: none was asked.
        evaluators: the workers that were ever asked to evaluate x at the end.
        standby: of the shard that is served here; 0: it has none.
    """

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}
        self.uploader = 0
        self.evaluators: set[int] = set()
        self.standby = 0

    def meet(self, members: Iterable[Member], *, uploader: int, evaluator: int = 0, standby: int = 0) -> None:
        """More, or the same again."""
        self._members.update((member.incarnation, member) for member in members)
        self.uploader, self.standby = uploader, standby
        self.evaluators |= {evaluator} - {0}

    def find(self, incarnation: int) -> Member | None:
        """Who goes by it; None: nobody yet, as far as this server was told.

        Raises: StaleIncarnation where nobody ever will.
        """
        found = self._members.get(incarnation)
        if found is None and incarnation <= max(self._members, default=0):
            raise StaleIncarnation(f"incarnation {incarnation} never joined this run; join it")
        return found
