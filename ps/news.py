"""What happens on a server unasked, and the coordinator must hear of."""

from __future__ import annotations

from dataclasses import dataclass

from ps.publish import Delta
from ps.records import Accepted
from wire.errors import SparsyncError


@dataclass(frozen=True)
class InSync:
    """The standby holds all that was ever revealed, and is waited for."""

    standby: int


@dataclass(frozen=True)
class Parted:
    """A standby that is waited for does not follow any more, or holds another state."""

    standby: int
    reason: str
    diverged: bool = False


News = Accepted | Delta | SparsyncError | InSync | Parted | str
"""A unit stands here; the shard published, or failed to; its standby came or went; or why the log cannot be written
(empty: it can again)."""
