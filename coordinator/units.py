"""Streams to workers: who gets a vacant stream, and which one moves when a worker joins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def heir(load: Mapping[int, int], *, at_most: int) -> int | None:
    """The worker for one more stream: the one that carries fewest, the oldest of those.

    Args:
        load: incarnation -> streams it carries, ready workers only.
        at_most: a worker that carries this many gets none.
    """
    free = [(count, incarnation) for incarnation, count in load.items() if count < at_most]
    return min(free)[1] if free else None


def first_deal(streams: int, workers: Sequence[int]) -> list[tuple[int, int]]:
    """(stream, worker) at the start: contiguous and even; workers beyond the streams stay spares."""
    carriers = workers[:streams]
    return [(stream, carriers[stream * len(carriers) // streams]) for stream in range(streams)]


def giver(load: Mapping[int, int]) -> int | None:
    """The worker that should hand one stream over, or None when the load is even (within one)."""
    if len(load) < 2:
        return None
    most = max(load, key=lambda incarnation: (load[incarnation], incarnation))
    return most if load[most] - min(load.values()) >= 2 else None
