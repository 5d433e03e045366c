"""x̂ on this worker: moved from version to version by the shards' deltas, back only from a base."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from wire.codec.base import Blocks, DeltaCodec
from wire.codec.dense import pack, unpack
from wire.errors import ProtocolMismatch
from wire.layout import Layout, intersect
from wire.messages import ShardPlacement
from worker.mailbox import Delta
from worker.parameters import Plane
from worker.transfer import Transfer


class Replica:
    """The published model, bit for bit that of the servers at `version`.

    Deltas that were received and not applied yet wait in `ahead`: those from `version` on.

    Args:
        published: plane [blocks, 4096], changed in place.
    """

    def __init__(
        self,
        published: Plane,
        layout: Layout,
        placement: Sequence[ShardPlacement],
        codec: DeltaCodec,
        transfer: Transfer,
    ) -> None:
        self._published = published
        self._codec = codec
        self._transfer = transfer
        trainable = layout.select(trainable=True)
        self.owned = [Blocks.of(layout, s.ranges) for s in placement]
        self.trainable = [Blocks.of(layout, intersect(s.ranges, trainable)) for s in placement]
        self._ahead: deque[Sequence[Delta]] = deque()
        self.version = -1
        self.pulls = 0

    @property
    def newest(self) -> int:
        """The newest version that `seek` can reach."""
        return self.version + len(self._ahead)

    def receive(self, deltas: Sequence[Delta]) -> None:
        """Keep the deltas that follow the newest ones."""
        assert deltas[0].version == self.newest, (deltas[0].version, self.newest)
        self._ahead.append(deltas)

    def seek(self, version: int) -> list[Sequence[Delta]]:
        """Bring x̂ to `version`; returns the deltas of the history that was fetched for it (none going forward).

        Going back fetches a base and every delta from there to the newest version known.

        Raises: ProtocolMismatch when the shards no longer retain it.
        """
        fetched: list[Sequence[Delta]] = []
        if self.version < 0 or version < self.version:
            newest = max(self.newest, version)
            base, parts = self._transfer.do_snapshot(
                "published", version, [4 * b.elements for b in self.owned]
            )
            if base > version:
                raise ProtocolMismatch(f"asked for version {version} or before, the shards sent {base}")
            self._fill(parts)
            fetched = list(self._transfer.do_history(base, newest))
            self._ahead = deque(fetched)
            self.version = base
        while self.version < version:
            self._apply(self._ahead.popleft())
        return fetched

    @contextmanager
    def holding_x(self) -> Iterator[None]:
        """Hold the servers' own parameters x instead of x̂ for a while, after the final version."""
        kept = self._published.copy()
        sizes = [4 * b.elements for b in self.owned]
        _, parts = self._transfer.do_snapshot("x", self.version, sizes)
        self._fill(parts)
        try:
            yield
        finally:
            self._published[:] = kept

    def _fill(self, parts: Sequence[bytes]) -> None:
        for data, blocks in zip(parts, self.owned, strict=True):
            unpack(data, self._published, blocks)
        self.pulls += 1

    def _apply(self, deltas: Sequence[Delta]) -> None:
        for delta, blocks in zip(deltas, self.trainable, strict=True):
            self._codec.apply(delta.frame, self._published, blocks)
        self.version += 1
        self.pulls += 1

    def packed(self, plane: Plane) -> list[bytes]:
        """All blocks of `plane`, each shard's part."""
        return [pack(plane, blocks) for blocks in self.owned]
