"""The identities that every process agrees on (docs: ARCHITECTURE.md, "Words")."""

from __future__ import annotations

from typing import NamedTuple, NewType

RunId = NewType("RunId", str)
Timeline = NewType("Timeline", int)
Incarnation = NewType("Incarnation", int)
Stream = NewType("Stream", int)
Step = NewType("Step", int)
Attempt = NewType("Attempt", int)
Shard = NewType("Shard", int)

PROTOCOL_VERSION = 7
"""Version of the contract in `proto/`. Raised when two sides of different builds would misunderstand each other."""


class UnitId(NamedTuple):
    """One contribution: the identity of everything that is counted."""

    timeline: int
    step: int
    stream: int

    def number(self, streams: int) -> int:
        """Its place in the order of all units of a run of so many streams."""
        return self.step * streams + self.stream

    @classmethod
    def of(cls, timeline: int, number: int, streams: int) -> UnitId:
        """The unit of that number."""
        return cls(timeline, *divmod(number, streams))

    def __str__(self) -> str:
        return f"unit t{self.timeline}/s{self.step}/r{self.stream}"


class Term(NamedTuple):
    """What fences an old coordinator: a number, and a nonce that tells two holders of one number apart."""

    number: int
    nonce: bytes


HANDED_OVER = 2**32 - 1
"""No stream's number: the place, among their deposits, of what a worker hands over in an elastic segment."""
