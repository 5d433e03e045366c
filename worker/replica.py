"""x̂ on this worker: moved on by the shards' deltas, back only from a base.

Each shard's part has a version of its own. Where a segment is exact, every delta closes a step,
so that versions and steps run in parallel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from wire.codec.base import Blocks, DeltaCodec
from wire.codec.dense import pack, unpack
from wire.crash import crash_point
from wire.errors import ProtocolMismatch
from wire.layout import Layout, intersect
from wire.messages import ShardPlacement
from wire.trace import span
from worker.deltas import Delta
from worker.links import Snapshot
from worker.planes import Plane, copy_of, set_to
from worker.transfer import Transfer


class Replica:
    """The published model, bit for bit that of shard i at `versions[i]`.

    Deltas that were received and not applied yet wait in `ahead`.

    Args:
        published: plane [blocks, 4096], changed in place.

    Attributes:
        step: every earlier step is closed in x̂, on all shards; -1 before the first pull.
        before: x̂ as it was before each shard's part moved last, or as it was pulled; None where it is not remembered.
        moved: whether it has moved since it was pulled, or since it is remembered.
        versions: of each shard's part.
        clocks: of each shard, as its newest applied delta told.
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
        self._sizes = [4 * b.elements for b in self.owned]
        self._ahead: deque[Sequence[Delta]] = deque()
        self._received = 0
        self.before: Plane | None = None
        self.moved = False
        self.step = self.newest = -1
        self.versions = [0] * len(self.owned)
        self._newest_versions = list(self.versions)
        self.clocks = [0] * len(self.owned)

    @property
    def held(self) -> bool:
        """Whether x̂ was pulled at all."""
        return self.step >= 0

    @property
    def clock(self) -> int:
        """The slowest shard's: every unit of earlier steps stands on all of them."""
        return max(min(self.clocks), self.step, 0)

    @property
    def pulls(self) -> int:
        """Whole-model pulls so far."""
        return self._received // len(self.owned)

    def opened(self, delta: Delta) -> Delta:
        """With its frame decoded, on whichever thread; x̂ stays as it is. Raises: DamagedFrame."""
        with span("decode", shard=delta.shard, version=delta.version, step=delta.told_step):
            return replace(delta, move=self._codec.decode(delta.frame, self.trainable[delta.shard]))

    def receive(self, deltas: Sequence[Delta]) -> None:
        """Keep deltas that are entered together, and follow the newest ones."""
        for delta in deltas:
            expected = self._newest_versions[delta.shard]
            assert delta.version == expected, (delta.shard, delta.version, expected)
            self._newest_versions[delta.shard] += 1
        self._ahead.append(deltas)
        self.newest = max(self.newest, _step_after(deltas))

    def remember(self, *, on: bool) -> None:
        """From now on keep `before`, or no more."""
        self.before = copy_of(self._published) if on else None
        self.moved = False

    def pull(self) -> Sequence[int]:
        """Take x̂ as it is on each shard now; each shard's step."""
        parts = self._transfer.do_snapshot("published", self._sizes, live=True)
        self._begin(parts)
        return [part.step for part in parts]

    def forget(self) -> None:
        """Hold nothing any more, until it is pulled again."""
        self._ahead.clear()
        self.step = self.newest = -1

    def catch_up(self) -> list[Sequence[Delta]]:
        """Apply all that was received; what that was."""
        applied = list(self._ahead)
        while self._ahead:
            self._apply(self._ahead.popleft())
        return applied

    def seek(self, step: int) -> list[Sequence[Delta]]:
        """Bring x̂ to `step` of an exact segment; the deltas of the history fetched for it (none going forward).

        Going back fetches a base and every delta from there to the newest step known.

        Raises: StaleIncarnation when the shards no longer retain it.
        """
        fetched: list[Sequence[Delta]] = []
        if not self.held or step < self.step:
            fetched = self._go_back(step)
        while self.step < step:
            self._apply(self._ahead.popleft())
        return fetched

    def _go_back(self, step: int) -> list[Sequence[Delta]]:
        newest = max(self.newest, step)
        parts = self._transfer.do_snapshot("published", self._sizes, step=step)
        steps = {part.step for part in parts}
        if len(steps) > 1 or max(steps) > step:
            raise ProtocolMismatch(f"asked for one step at or before {step}, the shards sent {sorted(steps)}")
        self._begin(parts)
        fetched = self._transfer.do_history(self.versions, newest - self.step)
        for deltas in fetched:
            self.receive(deltas)
        return fetched

    def _begin(self, parts: Sequence[Snapshot]) -> None:
        self._fill([part.data for part in parts])
        self.remember(on=self.before is not None)
        self._ahead.clear()
        self.step = self.newest = min(part.step for part in parts)
        self.versions = [part.version for part in parts]
        self._newest_versions = list(self.versions)
        self.clocks = [part.clock for part in parts]

    @contextmanager
    def holding_x(self) -> Iterator[None]:
        """Hold the servers' own parameters x instead of x̂ for a while, after the final step."""
        kept = copy_of(self._published)
        self._fill([part.data for part in self._transfer.do_snapshot("x", self._sizes)])
        try:
            yield
        finally:
            set_to(kept, self._published)

    def _fill(self, parts: Sequence[bytes]) -> None:
        for data, blocks in zip(parts, self.owned, strict=True):
            unpack(data, self._published, blocks)
        self._received += len(parts)

    def _apply(self, deltas: Sequence[Delta]) -> None:
        crash_point("worker.apply.before")
        if self.before is not None:
            for delta in deltas:
                set_to(self._published, self.before, self.trainable[delta.shard])
        self.moved = True
        versions = {delta.shard: delta.version for delta in deltas}
        with span("apply", step=deltas[0].told_step, closes=deltas[0].closes, versions=versions):
            for delta in deltas:
                move = delta.move or self._codec.decode(delta.frame, self.trainable[delta.shard])
                move.apply_to(self._published)
                self.versions[delta.shard] += 1
                self.clocks[delta.shard] = max(self.clocks[delta.shard], delta.clock)
        self.step = max(self.step, _step_after(deltas))
        self._received += len(deltas)
        crash_point("worker.apply.after")

    def packed(self, plane: Plane) -> list[bytes]:
        """All blocks of `plane`, each shard's part."""
        return [pack(plane, blocks) for blocks in self.owned]


def _step_after(deltas: Sequence[Delta]) -> int:
    """The first step that is open once these are entered; -1 where they close none."""
    return deltas[0].step + 1 if deltas[0].closes else -1
