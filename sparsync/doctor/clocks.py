"""The wall clock, on which certificates depend, and the monotonic one, on which everything else does."""

from __future__ import annotations

import ctypes
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from sparsync.doctor.finding import Finding, failure, ok, warning
from sparsync.doctor.node import Asked, Node

FAR = timedelta(minutes=5)
NEAR = timedelta(seconds=5)
READINGS = 20_000
CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
SLOW_SOURCES = frozenset({"hpet", "acpi_pm", "jiffies", "pit"})
UNSYNCHRONISED = 0x40
"""STA_UNSYNC of adjtimex(2)."""
SYNCHRONISE = "let systemd-timesyncd or chrony set it: timedatectl set-ntp true"


def wall_clock(node: Node) -> Finding:
    """How far ours is from the coordinator's."""
    what, asked = "clock", node.asked
    if asked is None or asked.build is None:
        return ok(what, "not compared: no coordinator has told its own")
    skew = skew_of(asked, datetime.fromisoformat(asked.build.at))
    seconds = skew.total_seconds()
    found = f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} the coordinator's"
    if abs(skew) > FAR:
        return failure(what, f"{found}: certificates may be not valid yet, or no more", SYNCHRONISE)
    if abs(skew) > NEAR:
        return warning(what, f"{found}: logs and events will not fit together", SYNCHRONISE)
    return ok(what, found if seconds else "as the coordinator's")


def skew_of(asked: Asked, theirs: datetime) -> timedelta:
    """How far ours is ahead; nothing where their moment lies between our two."""
    if asked.sent <= theirs <= asked.received:
        return timedelta()
    return asked.sent - theirs if theirs < asked.sent else asked.received - theirs


class _Timex(ctypes.Structure):
    """The beginning of struct timex, with room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )


def synchronised(node: Node) -> Finding:
    """Whether something keeps the wall clock right, as the kernel knows it."""
    what, state = "time service", kernel_time()
    if state is None:
        return ok(what, "not known: this system does not tell")
    status, worst_us = state
    if status & UNSYNCHRONISED:
        return warning(what, "nothing keeps this machine's clock right", SYNCHRONISE)
    return ok(what, f"synchronised, within {worst_us / 1e6:.2f} s")


def kernel_time() -> tuple[int, int] | None:
    """(status bits, largest error in µs) of adjtimex(2); None where it cannot be called."""
    timex = _Timex()
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else (timex.status, timex.maxerror)


def monotonic(node: Node) -> Finding:
    """Whether the monotonic clock never goes back, and how fine it is."""
    what = "monotonic clock"
    readings = [node.clock.now() for _ in range(READINGS)]
    steps = [after - before for before, after in pairwise(readings)]
    if min(steps) < 0:
        return failure(
            what, f"it went back by {-min(steps):.6f} s", "no time limit holds here: replace this machine"
        )
    finest = min((step for step in steps if step > 0), default=None)
    source = _source()
    if finest is None or finest > 1e-3:
        return warning(what, "it moves in steps of more than a millisecond", "time limits are coarse here")
    if source in SLOW_SOURCES:
        return warning(what, f"its source is {source}, which is slow to read", "boot with tsc or kvm-clock")
    return ok(
        what, f"never went back in {READINGS} readings" + (f"; its source is {source}" if source else "")
    )


def _source() -> str | None:
    try:
        return CLOCK_SOURCE.read_text(encoding="ascii").strip()
    except OSError:
        return None
