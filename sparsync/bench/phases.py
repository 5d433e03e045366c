"""Where the time of a step goes, as a worker sees it.

The moments of a turn of its loop come from its script, those between from the bytes at its sockets: a push or pull
has begun with the first hundredth of the turn's bytes and is over with the last but one. Phases may overlap.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from sparsync.bench.figures import distribution

EDGE = 0.01
"""Share of a turn's bytes before its first and behind its last moment."""
PHASES = ("collect and encode", "push", "settle", "pull", "apply")

Span = tuple[float, float]


def of_a_step(workers: Sequence[Mapping[str, Any]], *, first: int) -> dict[str, dict[str, float]]:
    """Median begin and end of each phase, in seconds since the turn's begin, over all turns from `first` on.

    workers: each with `turns` (begin, gradients there, `step` returned) and `trace` (moment, sent, received).
    """
    found = [
        spans(worker["trace"], turn, following[0])
        for worker in workers
        for turn, following in zip(worker["turns"][first:], worker["turns"][first + 1 :], strict=False)
    ]
    whole = [each for each in found if each is not None]
    if not whole:
        return {}
    return {
        phase: {
            "begin_s": distribution(each[phase][0] for each in whole)["median"],
            "end_s": distribution(each[phase][1] for each in whole)["median"],
        }
        for phase in PHASES
    }


def spans(
    trace: Sequence[tuple[float, int, int]], turn: Sequence[float], following: float
) -> dict[str, Span] | None:
    """(begin, end) of each phase of one turn, from its begin; None where too few samples fell into it.

    turn: its begin, when its gradients are there, when `step` has returned. following: the next turn's begin.
    """
    begin, ready, stepped = turn
    times = [sample[0] for sample in trace]
    looks = trace[max(bisect_left(times, begin) - 1, 0) : bisect_left(times, following) + 1]
    if len(looks) < len(PHASES):
        return None
    push = _moved([(time, sent) for time, sent, _ in looks])
    pull = _moved([(time, received) for time, _, received in looks])
    moments = {
        "collect and encode": (ready, stepped),
        "push": push,
        "settle": (push[1], max(push[1], pull[0])),
        "pull": pull,
        "apply": (min(pull[1], following), following),
    }
    return {phase: (a - begin, b - begin) for phase, (a, b) in moments.items()}


def _moved(samples: Sequence[tuple[float, int]]) -> Span:
    """When the first and the last hundredth of the bytes were through."""
    low, high = samples[0][1], samples[-1][1]
    edge = EDGE * (high - low)
    began = next(time for time, moved in samples if moved >= low + edge)
    ended = next(time for time, moved in samples if moved >= high - edge)
    return began, ended
