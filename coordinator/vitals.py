"""What the coordinator tells its service manager: that it serves, how the run stands, that it decides.

Proof of progress is a tick that the core has taken, its decisions durable (`Engine.tick`): then event loop, core and
journal are at work. While the disk is full nothing can be decided, and starting anew would change nothing: ticks
are taken all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wire.notify import Notify

STATUS_EVERY = 5
"""Looks at the run between two lines of status."""


class Vitals:
    """One coordinator's, from the moment that it serves.

    Args:
        workers: `cluster.workers`.
    """

    def __init__(self, notify: Notify, *, workers: int) -> None:
        self._notify = notify
        self._workers = workers
        self._looks = 0

    def begin(self, told: Mapping[str, Any]) -> None:
        """It serves."""
        self._notify.ready(status_line(told, self._workers))

    def decided(self) -> None:
        """The core has taken a tick."""
        self._notify.alive()

    @property
    def due(self) -> bool:
        """Whether this look at the run is one to tell of."""
        self._looks += 1
        return self._looks % STATUS_EVERY == 0

    def tell(self, told: Mapping[str, Any]) -> None:
        """`told`: as `report.status`."""
        self._notify.status(status_line(told, self._workers))


def status_line(told: Mapping[str, Any], workers: int) -> str:
    """`run abc step 12040 3/4 workers 18.2k tok/s staleness p99 3`, from the object that `sparsync status` shows.

    `workers`: that are meant to be there.
    """
    running = told["state"] == "running"
    present = sum(w["state"] not in ("dead", "left") for w in told["workers"])
    words = [
        f"run {told['run']}",
        f"step {told['step']}" if running else told["state"],
        f"{present}/{workers} workers",
    ]
    if told["tokens_per_s"]:
        words.append(f"{short(told['tokens_per_s'])} tok/s")
    if told["staleness"]:
        words.append(f"staleness p99 {percentile(told['staleness'], 0.99)}")
    if told["reason"] and not running:
        words.append(f"({told['reason']})")
    return " ".join(words)


def percentile(histogram: Mapping[str, int], share: float) -> int:
    """The least staleness that `share` of all units do not pass; the histogram counts units by staleness."""
    left = share * sum(histogram.values())
    for stale in sorted(map(int, histogram)):
        left -= histogram[str(stale)]
        if left <= 0:
            return stale
    return max(map(int, histogram), default=0)


def short(number: float) -> str:
    """In three digits: `18.2k`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"
