"""How much of a push counts whose norm is above a bound: the same to who decides it, who applies it, who takes back."""

from __future__ import annotations


def share_below(bound: float, norm: float) -> float:
    """min(1, bound / norm): the factor that brings a norm down to the bound. A bound of 0 is none."""
    return bound / norm if 0 < bound < norm else 1.0
