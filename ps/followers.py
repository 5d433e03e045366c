"""Who waits for deltas: what may be seen of the delta log, and by when. On the event loop.

A delta may be seen once its record is safe; `show` says up to which version that is so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ps.publish import Delta
from ps.shard import Shard
from wire.errors import ProtocolMismatch, ServerLost


class Followers:
    """Readers of one shard's deltas.

    Args:
        shard: the shard, for those who may have it from this server. Raises: Unreachable where this is not its primary.
    """

    def __init__(self, shard: Callable[[], Shard]) -> None:
        self._shard = shard
        self._changed = asyncio.Condition()
        self._visible = 0
        self._open = self._over = False
        self._waking: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """The shard is there."""
        self._open = True
        self._wake()

    def show(self, version: int) -> None:
        """Deltas that lead up to `version` may be seen."""
        self._visible = max(self._visible, version)
        self._wake()

    def hide(self) -> None:
        """The shard is about to be another one: nothing may be seen."""
        self._visible = 0

    def end(self) -> None:
        """Let everybody go: this server ends."""
        self._over = True
        self._wake()

    def _wake(self) -> None:
        waking = asyncio.get_running_loop().create_task(self._notify())
        self._waking.add(waking)
        waking.add_done_callback(self._waking.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def delta(self, version: int) -> Delta | None:
        """The delta that starts at `version`, waiting until it may be seen.

        None once the final one is behind, or when this server ends.

        Raises: ProtocolMismatch when it is no longer retained.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._open or self._over)
            while not self._over:
                deltas = self._shard().deltas
                try:
                    delta = deltas.get(version)
                except KeyError as error:
                    raise ProtocolMismatch(str(error.args[0])) from None
                if delta is not None and version < self._visible:
                    return delta
                if deltas.final and version >= deltas.version:
                    return None
                await self._changed.wait()
            return None

    async def check_reached(self, version: int) -> None:
        """A follower holds `version`. Raises: ServerLost where this shard is behind it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._open or self._over)
        shard = self._shard()
        if version > shard.deltas.version:
            raise ServerLost(
                f"shard {shard.spec.shard} is at version {shard.deltas.version}, a worker holds version {version}: the "
                "server has lost what it had published (durability.ack is below disk?); resume the newest checkpoint"
            )

    async def reach(self, step: int) -> None:
        """Wait until every step before `step` is closed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._open and self._shard().ledger.step >= step)
