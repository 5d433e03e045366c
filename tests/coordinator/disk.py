"""A server's disk in the small world: the log with group commit, and images. A crash leaves what may be left of it.

At level `os` a crash is a kill: what was written stays. At level `disk` it is a loss of power: only what was fsynced
stays for sure. Of what was under way a part may be there in either case.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ps.records import Record
from ps.terms import TermGuard
from tests.coordinator.ground import Owner
from tests.coordinator.shard import Shard

if TYPE_CHECKING:
    from tests.coordinator.world import World

IMAGES_KEPT = 2


class Disk:
    """What outlives a process.

    Attributes:
        held: incarnation of the server whose shard is here; 0: none.
        guard: whom the server obeys.
        position: of the newest record, written or not.
    """

    def __init__(self, world: World, level: str) -> None:
        self._world, self.level = world, level
        self._slow = world.fate.choice([1.0, 1.0, 10.0])
        self.clear()

    def clear(self) -> None:
        """Nothing that is here is of this run any more."""
        self.guard = TermGuard(None)
        self.held = 0
        self._base = 0
        self._records: list[Record] = []
        self._images: list[tuple[int, dict[str, Any]]] = []
        self._written = self._synced = self._under_way = 0

    @property
    def position(self) -> int:
        return self._base + len(self._records)

    @property
    def loaded(self) -> bool:
        """Whether a shard is here."""
        return bool(self._images)

    def begin(self, position: int, image: dict[str, Any]) -> None:
        """The shard as it is behind `position` is safe; what was here before is gone."""
        self._base, self._records, self._images = position, [], [(position, image)]
        self._written = self._synced = self._under_way = position

    def save(self, position: int, image: dict[str, Any]) -> None:
        """One more image is safe."""
        self._images = [*self._images, (position, image)][-IMAGES_KEPT:]

    def append(self, record: Record, durable: Callable[[int], None], owner: Owner) -> int:
        """Log one more record; `durable` is called when it is safe, and others with it. The position of it."""
        self._records.append(record)
        if self.level == "memory":
            durable(self.position)
        elif self._under_way == self._written == self._synced:
            self._write(durable, owner)
        return self.position

    def _write(self, durable: Callable[[int], None], owner: Owner) -> None:
        """All that waits, in one batch."""
        self._under_way = end = self.position
        world = self._world

        def written() -> None:
            self._written = end
            if self.level == "disk":
                world.after(world.fate.uniform(0.001, 0.05) * self._slow, synced, owner)
            else:
                synced()

        def synced() -> None:
            self._synced = end
            durable(end)
            if self.position > end:
                self._write(durable, owner)

        world.after(world.fate.uniform(0.0005, 0.01) * self._slow, written, owner)

    def crash(self, rnd: random.Random) -> None:
        """The process, or the machine, is gone: what waited in memory is lost, of what was under way a part.

        An image may outlive records before its position; the log, which would have a hole, then goes, as in ps/log.py.
        """
        sure = self._written if self.level == "os" else self._synced
        left = rnd.randint(sure, self._under_way)
        del self._records[left - self._base :]
        if self._images and self._images[-1][0] > left:
            self._base, self._records, self._images = self._images[-1][0], [], self._images[-1:]
            left = self._base
        self._written = self._synced = self._under_way = left

    def tail(self) -> tuple[int, list[Record]]:
        """The position of the newest image, and the records behind it."""
        position = self._images[-1][0]
        return position, self._records[position - self._base :]

    def recover(self, rnd: random.Random) -> Shard | None:
        """An image, mostly the newest one, and all records behind it."""
        if not self._images:
            return None
        position, image = self._images[-1 if rnd.random() < 0.8 else 0]
        shard = Shard.restored(self._world, image)
        for record in self._records[position - self._base :]:
            shard.apply(record)
        return shard
