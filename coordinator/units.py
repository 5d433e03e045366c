"""Streams to workers: who gets a vacant stream, and which one moves when a worker joins."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from itertools import cycle

WORTH = 0.9
"""A stream moves where the slowest worker is done within this share of the time it takes now."""


def heir(load: Mapping[int, int], unit_s: Mapping[int, float]) -> int | None:
    """The worker for one more stream: the one that is done with all of its own soonest, the oldest of those.

    Args:
        load: incarnation -> streams it carries, of those that can be given one.
        unit_s: incarnation -> seconds that a unit takes there.
    """
    done = [((count + 1) * unit_s[worker], worker) for worker, count in load.items()]
    return min(done)[1] if done else None


def first_deal(streams: int, workers: Sequence[int]) -> list[tuple[int, int]]:
    """(stream, worker) at the start: contiguous and even; workers beyond the streams stay spares.

    Without a worker the streams wait for the first one.
    """
    carriers = workers[:streams]
    if not carriers:
        return []
    return [(stream, carriers[stream * len(carriers) // streams]) for stream in range(streams)]


def spread(holders: Sequence[int], *, present: Container[int], others: Sequence[int]) -> tuple[int, ...]:
    """Who has each stream: its holder where that is there, else one of the others, of whom there are any, in turn."""
    turn = cycle(others)
    return tuple(holder if holder in present else next(turn) for holder in holders)


def giver(load: Mapping[int, int], unit_s: Mapping[int, float]) -> int | None:
    """The worker that should hand one stream over, or None when that would not end a step sooner."""
    if len(load) < 2:
        return None
    takes = {worker: count * unit_s[worker] for worker, count in load.items()}
    most = max(takes, key=lambda worker: (takes[worker], worker))
    to = heir({w: n for w, n in load.items() if w != most}, unit_s)
    assert to is not None
    after = max(takes[most] - unit_s[most], takes[to] + unit_s[to])
    return most if load[most] and after < WORTH * takes[most] else None
