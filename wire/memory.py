"""How the C library treats freed memory: kept for the next frame, not given back to the kernel at once.

By default glibc maps each large array anew and unmaps it when it is freed, so that every page of every gradient,
frame and delta is faulted in again: on a virtual machine that takes several times as long as writing it. What is
kept is bounded, and what a process needs at most does not change.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 256 << 20
"""Free memory at the end of the heap that is kept."""
LARGEST_BYTES = 32 << 20
"""Larger pieces are mapped each for itself all the same; glibc takes no higher limit."""


def keep_freed_memory() -> bool:
    """Have this process keep freed memory; whether its C library can be told so."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept: int = mallopt(M_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
    return bool(kept)
