"""Which checkpoints stay: the newest `run.keep_checkpoints`, and whatever cannot be read.

Before anything goes, the newest one is read back from its files and checked: the newest good one always stays, which
after the end of a run is its last. The run does not wait for it: reading and removing happen in threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wire.checkpoint import Manifest, list_checkpoints, load_manifest, remove
from wire.errors import SparsyncError

log = logging.getLogger(__name__)

Tell = Callable[[str, Mapping[str, object]], None]
"""Writes an event: its name and fields."""


def surplus(newest_first: Sequence[Manifest], keep: int) -> list[Manifest]:
    """Those of `newest_first` that go where `keep` stay (0: all of them), the oldest one first."""
    return list(reversed(newest_first[keep:])) if keep else []


class Retention:
    """Thins the checkpoints in a directory out, each time that one more was written.

    Args:
        keep: how many stay; 0: all.
    """

    def __init__(self, directory: Path, *, keep: int, tell: Tell) -> None:
        self._directory = directory
        self._keep = keep
        self._tell = tell
        self._task: asyncio.Task[None] | None = None

    def begin(self, written: Path) -> None:
        """`written` is whole on disk: remove what it makes superfluous, in the background."""
        if self._keep:
            self._task = asyncio.create_task(self._thin_out(written))

    async def settled(self) -> None:
        """Wait until nothing is being removed."""
        if self._task is not None:
            await self._task

    async def _thin_out(self, written: Path) -> None:
        try:
            goes = await asyncio.to_thread(self._expendable, written)
            for manifest in goes:
                await asyncio.to_thread(remove, manifest.path)
                self._tell("checkpoint_removed", {"step": manifest.step, "path": str(manifest.path)})
        except (SparsyncError, OSError) as error:
            log.error("checkpoints stay that should have gone: %s", error)
            self._tell("retention_failed", {"error": str(error)})

    def _expendable(self, written: Path) -> list[Manifest]:
        """Raises: DamagedFile, NoInput when `written` cannot be read back, so that nothing may go."""
        goes = surplus(list_checkpoints(self._directory), self._keep)
        if goes:
            load_manifest(written)
        return [manifest for manifest in goes if manifest.path != written]
