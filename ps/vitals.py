"""What a server tells its service manager: that it serves, what it holds, that its shard is at work.

Proof of progress is a question that went through the shard's own thread and came back, and a log that holds by now
what the question before it found applied: a kernel that hangs, or a disk that takes no byte and gives no error,
starves the watchdog. A full disk does not: it is waited for, and a restart would change nothing.
"""

from __future__ import annotations

import asyncio

from ps.owner import Owner
from wire.notify import Notify

ASK_EVERY_S = 1.0
STATUS_EVERY = 5
"""Questions between two lines of status."""


async def watch(owner: Owner, notify: Notify, run: str) -> None:
    """Ask and tell until cancelled."""
    known, asked = 0, 0
    while True:
        applied = await owner.read(lambda: owner.archive.position)
        if owner.watermark.own >= min(known, applied) or owner.stalled:
            notify.alive()
        known, asked = applied, asked + 1
        if asked % STATUS_EVERY == 0:
            notify.status(status_line(owner, run))
        await asyncio.sleep(ASK_EVERY_S)


def status_line(owner: Owner, run: str) -> str:
    """`run abc shard 0 primary version 120, 2.1 MB of pushes held`."""
    if not owner.configured:
        return f"run {run}, a spare: no shard yet"
    shard = owner.shard
    part = "primary" if owner.serves else "standby"
    words = f"run {run} shard {shard.spec.shard} {part} version {shard.deltas.version}"
    return (
        f"{words}, {owner.stalled}"
        if owner.stalled
        else f"{words}, {shard.held_bytes / 1e6:.1f} MB of pushes held"
    )
