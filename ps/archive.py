"""What a shard keeps on its disk: its log, and images of its state that bound how much of the log is needed.

An image is due when the log behind the newest one is longer than `max(1 GiB, 4 x state)`, which bounds the disk, or
when applying what is in it took so long that a restart would (P11: 10 s a GB of state). It is taken at a mark in the
log, so that a standby saves the same state; written beside everything else; and the log before the older one of the
two that are kept goes. At level `memory` nothing is kept, and positions only count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

from ps.image import Tree, digest, encode
from ps.log import Log, MemoryLog
from ps.snapshots import Saved, Snapshots
from wire.codec.base import Buffer

LOG_BYTES = 1 << 30
LOG_STATES = 4
REPLAY_S = 2.0
REPLAY_S_A_GB = 2.5
"""Applying what a restart replays may have taken so long: at least, and by size of the state."""


class Archive:
    """The log and the images of one shard.

    Args:
        directory: of the server.
        level: `durability.ack`.
        on_durable, on_stalled, on_broken: as of ps/log.py.
    """

    def __init__(
        self,
        directory: Path,
        *,
        level: str,
        on_durable: Callable[[int], None],
        on_stalled: Callable[[str], None],
        on_broken: Callable[[Exception], None],
    ) -> None:
        self.directory = directory
        self.level = level
        self.snapshots = Snapshots(directory)
        self._on_durable, self._on_stalled, self._on_broken = on_durable, on_stalled, on_broken
        self._log: Log | MemoryLog | None = None
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self._saving: Future[Saved] | None = None
        self._closing = Event()
        self._spent_s = 0.0
        self._saved = 0

    @property
    def keeps(self) -> bool:
        """Whether anything survives this process."""
        return self.level != "memory"

    @property
    def begun(self) -> bool:
        """Whether records are logged: what is applied before is in the first image."""
        return self._log is not None

    @property
    def position(self) -> int:
        """Of the newest record; 0 before the first."""
        return self._log.position if self._log is not None else 0

    # --- what is known of it ---------------------------------------------------------------------

    @property
    def log(self) -> Log | None:
        """The log on the disk, once something is logged; None where nothing is kept."""
        return self._log if isinstance(self._log, Log) else None

    @property
    def replay_bytes(self) -> int:
        """Of the log behind the newest image: what a restart reads again."""
        return self._log.bytes_after(self._saved) if self._log is not None else 0

    @property
    def replay_s(self) -> float:
        """Seconds that applying what a restart replays took."""
        return self._spent_s

    # --- beginnings ------------------------------------------------------------------------------

    def begin(self, tree: Tree) -> None:
        """A new shard, whose state is `tree`: all that was here before is gone when this returns."""
        self.clear()
        if self.keeps:
            self.snapshots.save(0, tree)
        self.resume(0)

    def resume(self, position: int, *, image: int | None = None, spent_s: float = 0.0) -> None:
        """Append behind record `position`, which the images and the log that are here lead up to.

        image: the position of the image that was begun from, where that is another; spent_s: what applying the
        records behind it took. A server that dies again soon must not have more to replay each time.
        """
        if self._log is not None:
            self._log.close()
        make = Log if self.keeps else MemoryLog
        self._log = make(
            self.directory / "log",
            after=position,
            level=self.level,
            on_durable=self._on_durable,
            on_stalled=self._on_stalled,
            on_broken=self._on_broken,
        )
        self._saved, self._spent_s = position if image is None else image, spent_s

    def follow(self, position: int) -> None:
        """The image of `position`, which was received, is the state: the log goes on behind it."""
        self._drop_log()
        if not self.keeps:
            self.snapshots.clear()
        self.resume(position)

    def clear(self) -> None:
        """Forget everything."""
        self._drop_log()
        self.snapshots.clear()

    def _drop_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
        for path in (self.directory / "log").glob("*"):
            path.unlink()

    # --- going on --------------------------------------------------------------------------------

    def append(self, pieces: Sequence[Buffer], *, seconds: float) -> int:
        """Log a record whose application took `seconds`; its position."""
        assert self._log is not None, "nothing is logged before the initial model is in"
        self._spent_s += seconds
        return self._log.append(pieces)

    def image_is_due(self, state_bytes: int) -> bool:
        """Whether a mark is to be put into the log."""
        if not self.keeps or self._log is None or (self._saving is not None and not self._saving.done()):
            return False
        long = self._log.bytes_after(self._saved) > max(LOG_BYTES, LOG_STATES * state_bytes)
        return long or self._spent_s > REPLAY_S + REPLAY_S_A_GB * state_bytes / 1e9

    def save(self, position: int, tree: Tree) -> Future[Saved]:
        """Save the state at mark `position` in the background, then let go what it replaces. Its digest.

        At level `memory` only the digest is made: an image without a log behind it is less than was acknowledged.
        """
        self._saved, self._spent_s = position, 0.0
        self._saving = self._saver.submit(self._save, position, tree)
        return self._saving

    def _save(self, position: int, tree: Tree) -> Saved:
        if not self.keeps:
            header, blobs = encode(tree)
            return Saved(digest(header), len(header) + sum(map(len, blobs)))
        saved = self.snapshots.save(position, tree, rest=self._closing.wait)
        assert self._log is not None
        self._log.trim(self.snapshots.oldest + 1)
        return saved

    def close(self) -> None:
        """Write what was appended."""
        self._closing.set()
        self._saver.shutdown()
        if self._log is not None:
            self._log.close()
            self._log = None
