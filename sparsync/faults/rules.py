"""What a fault proxy does to a connection: decided from rules and a seed alone, so that it replays.

A connection has a running number and two directions; `Faults.decide` makes a `Lane` of each, by the first rule
that fits. A lane says what becomes of the bytes at given offsets; it knows neither clock nor socket.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Direction(StrEnum):
    """Up: from the process that dialled to the target."""

    UP = "up"
    DOWN = "down"


BOTH = frozenset(Direction)


class Then(StrEnum):
    """What becomes of a connection after some bytes of one direction."""

    GOES_ON = "goes on"
    RESET = "is reset"
    SILENT = "falls silent"


@dataclass(frozen=True)
class Span:
    """A number of bytes, drawn for each connection from `low` to `high`, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"{self.low}..{self.high}: expected 0 or more bytes, the smaller number first")


@dataclass(frozen=True)
class Rule:
    """Faults of the connections and directions that it names.

    Attributes:
        latency_s: from the arrival of a byte to its departure; `jitter_s`: up to so much more, order kept.
        rate: bytes a second, of all connections under this rule together, in each direction.
        each: the rate is of each process that dials; needs a proxy that finds out who does.
        reset_after: the connection is reset after so many bytes.
        silent_after: all further bytes of that direction are swallowed, and the connection stays.
        flip_at: one bit of the byte at that offset is flipped.
        chance: that a connection is reset, falls silent, or has its bit flipped.
        lose_answers: the chance that a connection is reset just when a call is answered that has sent at least
            `answered_bytes`: the far end has done what it was asked, and who asked cannot know. Needs plain HTTP/2.
        connections: their numbers, from 0; None: all.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    rate: float | None = None
    each: bool = False
    reset_after: Span | None = None
    silent_after: Span | None = None
    flip_at: Span | None = None
    chance: float = 1.0
    lose_answers: float = 0.0
    answered_bytes: int = 1024
    directions: frozenset[Direction] = BOTH
    connections: frozenset[int] | None = None

    def fits(self, connection: int, direction: Direction) -> bool:
        chosen = self.connections is None or connection in self.connections
        return chosen and direction in self.directions


@dataclass(frozen=True)
class Lane:
    """One direction of one connection. Offsets are those of its bytes, from 0; None: never."""

    rule: Rule
    reset_at: int | None = None
    silent_at: int | None = None
    flip_at: int | None = None
    flip_bit: int = 0
    draw: random.Random = field(default_factory=random.Random, compare=False, repr=False)

    def delay_s(self) -> float:
        """Of the next piece."""
        return self.rule.latency_s + self.draw.random() * self.rule.jitter_s

    def pass_through(self, offset: int, data: bytes) -> tuple[bytes, Then]:
        """What goes on of `data`, whose first byte is at `offset`, and what becomes of the connection then."""
        end, then = offset + len(data), Then.GOES_ON
        for at, fault in ((self.silent_at, Then.SILENT), (self.reset_at, Then.RESET)):
            if at is not None and at <= end:
                end, then = max(at, offset), fault
        kept = data[: end - offset]
        if self.flip_at is not None and offset <= self.flip_at < end:
            kept = flip(kept, self.flip_at - offset, self.flip_bit)
        return kept, then


class Faults:
    """Rules and a seed: the same ones make the same lanes."""

    def __init__(self, rules: Sequence[Rule] = (), *, seed: int = 0) -> None:
        self.rules = tuple(rules)
        self.seed = seed

    def decide(self, connection: int, direction: Direction) -> Lane:
        """What happens to this direction of that connection."""
        rule = first(self.rules, connection, direction)
        draw = random.Random(f"{self.seed}/{connection}/{direction}")

        def at(span: Span | None) -> int | None:
            """Drawn whether it is wanted or not: a rule more changes nothing in the others."""
            happens, low, high = draw.random() < rule.chance, *((span.low, span.high) if span else (0, 0))
            offset = draw.randint(low, high)
            return offset if span is not None and happens else None

        reset_at, silent_at, flip_at = at(rule.reset_after), at(rule.silent_after), at(rule.flip_at)
        return Lane(rule, reset_at, silent_at, flip_at, draw.randrange(8), draw)

    def loses(self, connection: int, call: int, sent: int) -> bool:
        """Whether the answer to a call of this connection is lost that has sent so many bytes."""
        rule = first(self.rules, connection, Direction.DOWN)
        if sent < rule.answered_bytes:
            return False
        return random.Random(f"{self.seed}/{connection}/answer/{call}").random() < rule.lose_answers


def first(rules: Iterable[Rule], connection: int, direction: Direction) -> Rule:
    """The first rule that fits, or one that does nothing."""
    return next((rule for rule in rules if rule.fits(connection, direction)), Rule())


def flip(data: bytes, at: int, bit: int) -> bytes:
    """`data` with one bit of the byte `at` flipped."""
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)
