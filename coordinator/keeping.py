"""The checkpoints of a run, written and read back: tasks beside the deciding, whose ends are events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from coordinator import events as e
from coordinator.checkpoints import load_checkpoint, take_checkpoint
from coordinator.core import Core
from coordinator.retention import Retention, Tell
from coordinator.shards import ShardLine
from wire.config import Config
from wire.errors import SparsyncError, StaleIncarnation

log = logging.getLogger(__name__)


class Keeping:
    """One coordinator's.

    Args:
        directory: of the checkpoints.
        primaries: the line to each shard's primary.
        spawn: begins a task.
        hear: takes what came of it.
        tell: writes events of older checkpoints that went.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        core: Core,
        *,
        primaries: Callable[[], Sequence[ShardLine]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        hear: Callable[[e.Event], None],
        tell: Tell,
    ) -> None:
        self._directory = directory
        self._config = config
        self._core = core
        self._primaries = primaries
        self._spawn = spawn
        self._hear = hear
        self._retention = Retention(directory, keep=config.run.keep_checkpoints, tell=tell)
        self._restoring: asyncio.Task[None] | None = None

    def begin_restore(self) -> None:
        """Restore all shards; if that is under way, anew: one of them has a server since then that holds nothing."""
        if self._restoring is not None:
            self._restoring.cancel()
        self._restoring = self._spawn(self._restore())

    def begin(self, step: int) -> None:
        """Write the checkpoint of this step, or round."""
        self._spawn(self._checkpoint(step))

    async def settled(self) -> None:
        """What is superfluous has gone."""
        await self._retention.settled()

    async def _restore(self) -> None:
        try:
            await load_checkpoint(
                Path(self._core.state.checkpoint),
                self._core.state,
                self._primaries,
                config=self._config,
            )
        except StaleIncarnation as error:
            self._hear(e.Fenced(0, str(error)))
            return
        except SparsyncError as error:
            self._hear(e.ShardRefused(0, type(error).__name__, str(error)))
            return
        self._hear(e.ShardRestored())

    async def _checkpoint(self, step: int) -> None:
        await self._retention.settled()
        try:
            path, digests = await take_checkpoint(
                self._directory,
                self._core.state,
                self._primaries,
                config=self._config,
                step=self._core.desk.rounds.first_step(step),
            )
        except StaleIncarnation as error:
            self._hear(e.Fenced(0, str(error)))
            return
        except (SparsyncError, OSError) as error:
            log.error("the checkpoint of step %d failed: %s", self._core.desk.rounds.first_step(step), error)
            self._hear(e.CheckpointFailed(step, str(error)))
            return
        self._hear(e.CheckpointWritten(step, str(path), digests["x"], digests["published"]))
        self._retention.begin(path)
