"""The initial parameters: taken whole, once from each worker that was asked for them.

A worker repeats what was not answered, byte for byte. One that is asked after it, as that one is gone, replaces
what it left, on the shards that had all of it too: every shard then holds the parameters of one worker.
"""

from __future__ import annotations

from collections.abc import Callable

import xxhash

from ps.shard import Shard
from wire.errors import ProtocolMismatch


class Uploads:
    """Which parameters were taken, and from whom. In the shard's thread."""

    def __init__(self) -> None:
        self._taken: tuple[int, bytes] | None = None

    def loading(self, shard: Shard, incarnation: int, x: bytes) -> Callable[[], None]:
        """What fills the planes of a shard that has applied no record, with packed x.

        It raises ProtocolMismatch where this worker has uploaded other parameters before.
        """
        taken = incarnation, xxhash.xxh3_128_digest(x)

        def load() -> None:
            if self._taken is not None and self._taken[0] == incarnation and self._taken != taken:
                raise ProtocolMismatch(
                    f"incarnation {incarnation} uploads other initial parameters than it did; the first ones count"
                )
            shard.load("x", x)
            shard.load("published", x)
            self._taken = taken

        return load
