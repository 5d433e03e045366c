"""How large a push may be: the bound on norms, a decision from what the commits of the newest steps say (rule 7).

    bound = clip * median of the newest norms, each as it counted
    a push of norm n counts with the factor min(1, bound / n); the rest goes back to its sender

The median is of single pushes, so that one stream of four that goes wild hardly moves it; and of norms as they counted,
so that it follows a scale that has changed for good by at most `clip` in the time that half of them are new.
Where the coordinator closes steps the bound is in the close; where units settle on arrival it is told when it moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wire.clipping import share_below
from wire.messages import Commit

RECENT_STEPS, LEAST_STEPS = 32, 8
"""Whose pushes are remembered, and must be known before anything is clipped."""
MOVED, MOVED_S = 0.05, 1.0
"""A bound that shards were told is told anew when it has moved by so much of itself, and no sooner than after this."""


def bound_of(norms: Sequence[float], *, clip: float, streams: int) -> float:
    """The bound that follows from the newest norms; 0: none. Of two in the middle the lower counts."""
    if clip == 0 or len(norms) < LEAST_STEPS * streams:
        return 0.0
    return clip * sorted(norms)[(len(norms) - 1) // 2]


def moved(told: float, bound: float) -> bool:
    """Whether a bound is to be told, after the one that was."""
    return bound > 0 and abs(bound - told) > MOVED * told


def newest(norms: Sequence[float], more: Sequence[float], *, streams: int) -> tuple[float, ...]:
    """The norms to remember, once there are more."""
    return (*norms, *more)[-RECENT_STEPS * streams :]


def norms_of(commits: Iterable[Commit]) -> list[float]:
    """The norms of the pushes that contribute."""
    return [commit.push_norm for commit in commits if commit.contributes]


def counted(norms: Iterable[float], bound: float) -> tuple[float, ...]:
    """Norms as they count under `bound`."""
    return tuple(norm * share_below(bound, norm) for norm in norms)


def returned(norms: Iterable[float], bound: float) -> float:
    """How many pushes' worth goes back under `bound`."""
    return sum(1.0 - share_below(bound, norm) for norm in norms)
