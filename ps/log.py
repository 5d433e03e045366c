"""The durable log of one shard: appends records, tells from when on they are safe.

| thread             | owns                                | blocks on                     |
|--------------------|-------------------------------------|-------------------------------|
| the caller's       | positions, what is handed in        | nothing                       |
| `log` (one a log)  | the files, what is durable          | the disk; 0.5 s while it is full |

Group commit: the log's thread writes what has gathered, at level `disk` fsyncs it once, and tells how far the log is
durable. A full disk is waited for, with everything kept in order; after a failed write or fsync nothing is ever
written again, and the process ends. Format and promises: docs/log.md.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ps.log_files import LogFile, prepare
from ps.log_files import read_tail as read_tail
from ps.log_format import Buffer
from ps.log_tail import Disk, Pending, Shelf, SyncFailed, Tail
from wire.clock import Deadline, monotonic_clock
from wire.crash import crash_point
from wire.errors import DamagedFile, SparsyncError
from wire.metrics import Distribution
from wire.trace import span

log = logging.getLogger(__name__)
RETRY_S = 0.5
RESTOCK_S = 10.0
"""Between two tries to make a spare that is not needed yet."""
BATCH_BYTES = 32 << 20
"""Of records at most between two times that the log tells how far it is."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""No space, no quota, read-only, a limit on the size of files."""


def may_pass(error: OSError) -> bool:
    """Whether the disk is only full: nothing was lost, and the same again may succeed."""
    return error.errno in FULL and not isinstance(error, SyncFailed)


def end_process(error: Exception) -> None:
    """What a broken log does by default: nothing that is not durable may be told, and a restart recovers the rest."""
    log.critical(
        "the shard's log cannot be written (%s); this process ends, check the disk and start it again", error
    )
    logging.shutdown()
    os._exit(DamagedFile.exit_code)


class Log:
    """Appends records to the files in `directory`; one thread of its own writes what has gathered.

    Args:
        after: position of the last record that is there already (0: none), as `read_tail` and snapshots tell.
        level: `os` (a record is durable when it is written) or `disk` (when it is fsynced).
        on_durable: called from the log's thread: every record up to this position is at the level.
        on_stalled: called from the log's thread: why nothing can be written; "": it goes on.
        on_broken: called from the log's thread, once and last: nothing will be written any more. Ends the process.

    Raises:
        DamagedFile: the last file is damaged.
        ValueError: there are records behind `after`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        after: int,
        level: str,
        on_durable: Callable[[int], None],
        on_stalled: Callable[[str], None],
        on_broken: Callable[[Exception], None] = end_process,
        segment_bytes: int = 64 << 20,
        disk: Disk = Disk(),  # noqa: B008
    ) -> None:
        if level not in ("os", "disk"):
            raise ValueError(f"level {level!r}, expected os or disk")
        self._directory = directory
        self._fsync = level == "disk"
        self._on_durable, self._on_stalled, self._on_broken = on_durable, on_stalled, on_broken
        files = prepare(directory, after, durable=self._fsync)
        self._sizes = {file: file.path.stat().st_size for file in files}
        self._shelf = Shelf(directory, segment_bytes, disk, durable=self._fsync)
        self._tail: Tail | None = None
        self._position = self._durable = after
        self._queue: deque[Pending] = deque()
        self._changed = threading.Condition()
        self._retry = threading.Event()
        self.appended_bytes = 0
        self.write_s, self.sync_s = Distribution(), Distribution()
        """Of batches: until they were with the operating system, and from there to the disk."""
        self._restock_pause = Deadline(monotonic_clock, 0.0)
        self._closing = False
        self._stalled = ""
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    # --- the caller's threads ---------------------------------------------------------------------

    def append(self, pieces: Sequence[Buffer]) -> int:
        """Hand in one record, from one thread; returns its position at once. `pieces` must not change any more.

        Raises: SparsyncError when the log is broken.
        """
        if self._broken is not None:
            raise SparsyncError(
                f"the log in {self._directory} is broken ({self._broken}); check the disk and start this server again"
            )
        assert not self._closing, "append after close"
        views = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
        length = sum(view.nbytes for view in views)
        with self._changed:
            self._position += 1
            self.appended_bytes += length
            self._queue.append(Pending(self._position, views, length))
            self._changed.notify()
        return self._position

    @property
    def position(self) -> int:
        """Of the newest appended record."""
        return self._position

    @property
    def durable(self) -> int:
        """Every record up to this one is at the level."""
        return self._durable

    def bytes_after(self, position: int) -> int:
        """Bytes of the files that have records behind `position`."""
        with self._changed:
            return sum(size for file, size in self._sizes.items() if self._last_of(file) > position)

    def trim(self, before: int) -> None:
        """Remove the files that hold only records before `before`."""
        with self._changed:
            old = [file for file in self._sizes if self._last_of(file) < before][: len(self._sizes) - 1]
            for file in old:
                del self._sizes[file]
        for file in old:
            file.path.unlink(missing_ok=True)
        self._retry.set()

    def _last_of(self, file: LogFile) -> int:
        """Position of the last record in `file`: the one before the next file."""
        return min(
            (other.first - 1 for other in self._sizes if other.first > file.first), default=self._position
        )

    def close(self) -> None:
        """Write what was appended, and end the thread. A full disk is not waited for; that is logged."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._retry.set()
        self._thread.join()

    # --- the log's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._wait():
                self._write_next()
            if self._tail is not None:
                self._tail.close()
            self._shelf.close()
        except Exception as error:
            self._break(error)

    def _wait(self) -> bool:
        """Whether there is something to write; False when this ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
        return bool(self._queue)

    def _write_next(self) -> None:
        """One batch, in a new file if there is no room for its first record."""
        first = self._queue[0]
        if self._tail is None or not self._tail.takes(first.bytes):
            self._patiently(partial(self._begin_file, first))
        self._commit(self._gather())
        self._restock()

    def _begin_file(self, first: Pending) -> None:
        """What was written is durable already; from here on it is another file's turn."""
        tail = self._shelf.take(first)
        with self._changed:
            self._sizes[tail.file] = tail.end
        if self._tail is not None:
            self._tail.close()
        self._tail = tail

    def _gather(self) -> list[Pending]:
        """What waits, as far as the file has room."""
        assert self._tail is not None
        batch: list[Pending] = []
        total = 0
        while self._queue and total < BATCH_BYTES and self._tail.takes(total + self._queue[0].bytes):
            batch.append(self._queue.popleft())
            total += batch[-1].bytes
        return batch

    def _commit(self, batch: Sequence[Pending]) -> None:
        """Bring one batch to the level, and tell it."""
        with span("log", records=len(batch), bytes=sum(record.bytes for record in batch)):
            self._make_durable(batch)
        self._durable = batch[-1].position
        self._on_durable(self._durable)

    def _make_durable(self, batch: Sequence[Pending]) -> None:
        tail = self._tail
        assert tail is not None
        crash_point("ps.append.before")
        began = monotonic_clock.now()
        self._patiently(lambda: tail.write(batch, durable=self._durable))
        written = monotonic_clock.now()
        self.write_s.observe(written - began)
        crash_point("ps.append.after")
        if self._fsync:
            crash_point("ps.fsync.before")
            tail.sync()
            self.sync_s.observe(monotonic_clock.now() - written)
            crash_point("ps.fsync.after")
        self._patiently(lambda: tail.mark(batch[-1].position))
        with self._changed:
            self._sizes[tail.file] = tail.end

    def _restock(self) -> None:
        """Have a spare ready, if there is room for one: the disk may be full for long before that matters."""
        if not self._restock_pause.passed:
            return
        try:
            self._shelf.restock()
        except OSError as error:
            if not may_pass(error):
                raise
            self._restock_pause = Deadline(monotonic_clock, RESTOCK_S)
            log.warning("%s: no spare file (%s); make room on that disk", self._directory, error.strerror)

    def _patiently(self, act: Callable[[], None]) -> None:
        """Do it, again and again while the disk is full. Raises: OSError when it is something else, or at `close`."""
        while True:
            self._retry.clear()
            last = self._closing  # `close` sets it before it ends the wait
            try:
                act()
            except OSError as error:
                if last or not may_pass(error):
                    raise
                self._tell_stalled(f"{self._directory}: {error.strerror}; make room on that disk")
                self._retry.wait(RETRY_S)
            else:
                self._tell_stalled("")
                return

    def _tell_stalled(self, why: str) -> None:
        if why != self._stalled:
            self._stalled = why
            log.warning("the log stands still: %s", why) if why else log.warning("the log goes on")
            self._on_stalled(why)

    def _break(self, error: Exception) -> None:
        self._broken = error
        if self._closing and isinstance(error, OSError) and may_pass(error):
            log.error(
                "%s: closed while it stood still; some of the newest records are not written", self._directory
            )
        else:
            self._on_broken(error)


class MemoryLog:
    """The log of level `memory`: nothing is kept, and every record counts as durable at once."""

    def __init__(
        self,
        directory: Path,
        *,
        after: int,
        level: str,
        on_durable: Callable[[int], None],
        on_stalled: Callable[[str], None],
        on_broken: Callable[[Exception], None] = end_process,
        segment_bytes: int = 64 << 20,
    ) -> None:
        self._position = after
        self._on_durable = on_durable

    def append(self, pieces: Sequence[Buffer]) -> int:
        """Counts the record; `on_durable` is called from here."""
        self._position += 1
        self._on_durable(self._position)
        return self._position

    @property
    def position(self) -> int:
        return self._position

    @property
    def durable(self) -> int:
        return self._position

    def bytes_after(self, position: int) -> int:
        return 0

    def trim(self, before: int) -> None:
        pass

    def close(self) -> None:
        pass
