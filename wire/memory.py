"""How the C library treats freed memory: kept for the next frame, not given back to the kernel at once.

By default glibc maps each large array anew and unmaps it when it is freed, so that every page of every gradient,
frame and delta is faulted in again: on a virtual machine that takes several times as long as writing it. What is
kept is bounded, and what a process needs at most does not change.

Frames are never of one length, so that pieces that are free, and too small, add up for hours. Therefore what has been
free for a while is given back, and threads share two arenas, whose free memory the others cannot use, in place of
eight a core.
"""

from __future__ import annotations

import ctypes
import threading
from typing import NamedTuple

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
NEVER = -1
"""The end of the heap goes back when all that is free does, and not between two steps, where it is a model or two."""
LARGEST_BYTES = 32 << 20
"""Larger pieces are mapped each for itself all the same; glibc takes no higher limit."""
ARENAS = 2
GIVEN_BACK_S = 60.0
"""So often all that is free goes back; what is used again at once costs a page fault once in that time."""


class Held(NamedTuple):
    """What malloc holds of this process's memory, in bytes: given out to somebody, and free between that."""

    used: int
    free: int


def held() -> Held | None:
    """As it is now, all arenas and large pieces counted; None where the C library cannot say."""
    if not hasattr(library := ctypes.CDLL(None), "mallinfo2"):
        return None
    library.mallinfo2.restype = _Mallinfo2
    told = library.mallinfo2()
    return Held(told.uordblks + told.hblkhd, told.fordblks)


class _Mallinfo2(ctypes.Structure):
    """glibc's, from 2.33 on."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def keep_freed_memory() -> bool:
    """Have this process keep freed memory for a while, in few arenas; whether its C library can be told so."""
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        return False
    wanted = {M_TRIM_THRESHOLD: NEVER, M_MMAP_THRESHOLD: LARGEST_BYTES, M_ARENA_MAX: ARENAS}
    if not all(library.mallopt(key, value) for key, value in wanted.items()):
        return False
    threading.Thread(target=_give_back, args=(library,), name="memory", daemon=True).start()
    return True


def _give_back(library: ctypes.CDLL) -> None:
    """For ever; pages in the middle of a heap, too."""
    never = threading.Event()
    while not never.wait(GIVEN_BACK_S):
        library.malloc_trim(0)
