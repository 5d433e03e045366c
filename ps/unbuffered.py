"""Files that are written past the page cache: large, seldom read again, and written beside a training.

Filling the kernel's cache costs several times the processor time of handing the same bytes to the disk, and what
others read again is pushed out of it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path

from wire.codec.base import Buffer

STAGE_BYTES = 1 << 20
"""What goes to the disk at once: a multiple of every disk's block, in memory that begins at a page."""
PAST_CACHE = getattr(os, "O_DIRECT", 0)


class Unbuffered:
    """A file that is written from its beginning; one that is there is emptied.

    Where the file system or the disk takes nothing past the cache, it is written as any other file is.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._stage = mmap.mmap(-1, STAGE_BYTES)
        self._filled = 0
        self._open = True
        self._go_past_cache()

    def write(self, data: Buffer) -> None:
        """The next bytes. Raises: OSError, as where the disk is full; the file is of no use then."""
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        while view:
            fits = min(len(view), STAGE_BYTES - self._filled)
            self._stage[self._filled : self._filled + fits] = view[:fits]
            self._filled += fits
            view = view[fits:]
            if self._filled == STAGE_BYTES:
                self._flush()

    def seal(self) -> None:
        """All bytes are here: make them durable and close the file. Raises: OSError."""
        self._go_through_cache()  # what is left is no whole number of blocks
        self._flush()
        os.fsync(self._descriptor)
        self.close()

    def close(self) -> None:
        """No more bytes come; what was staged is left out. A repeat changes nothing."""
        if self._open:
            self._open = False
            os.close(self._descriptor)
            self._stage.close()

    def _flush(self) -> None:
        with memoryview(self._stage) as stage:
            written = 0
            while written < self._filled:
                try:
                    written += os.write(self._descriptor, stage[written : self._filled])
                except OSError as error:
                    if error.errno != errno.EINVAL or not self._past_cache:
                        raise
                    self._go_through_cache()
        self._filled = 0

    def _go_past_cache(self) -> None:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | PAST_CACHE)
        except OSError:  # as on some network and in-memory file systems
            self._past_cache = False
        else:
            self._past_cache = bool(PAST_CACHE)

    def _go_through_cache(self) -> None:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~PAST_CACHE)
        self._past_cache = False
