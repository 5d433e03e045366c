"""What Prometheus is told of a parameter server: read from state that is there anyway, when it is scraped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from ps.archive import Archive
from ps.control import Control
from ps.owner import Owner
from ps.shard import Shard
from ps.standby import Standby
from ps.tally import OUTCOMES, Tally
from wire import metrics as m
from wire.metrics import Sample
from wire.rounds import Rounds
from wire.rpc.audit import Audit
from wire.rpc.identity import Role, Security
from wire.rpc.meter import SocketMeter

ACCEPTED = "accepted"
"""In place of a pool: connections that others opened to this server."""


class Metrics:
    """The samples of one server.

    Args:
        port: that it serves on.
        rounds: which steps belong to a round.
        replicas: standbys that a shard is to have.
    """

    def __init__(
        self,
        owner: Owner,
        control: Control,
        standby: Standby,
        tally: Tally,
        *,
        port: int,
        rounds: Rounds,
        replicas: int,
    ) -> None:
        self._owner, self._control, self._standby, self._tally = owner, control, standby, tally
        self._rounds, self._replicas = rounds, replicas
        self._dialled = SocketMeter()
        self._accepted = SocketMeter(lambda host, local, peer_host, peer: ACCEPTED if local == port else None)

    def serve(
        self,
        listen: str,
        security: Security,
        *,
        id: str,
        run: str,
        places: Sequence[Path],
        audit: Audit,
        denied: Callable[[str], bool],
    ) -> AbstractContextManager[object]:
        """Metrics on `listen`, for whoever may read them and holds no revoked certificate."""
        from wire.exposition import Exposition, on_loop

        loop = asyncio.get_running_loop()
        return Exposition.serving(
            listen,
            security,
            on_loop(self.samples),
            role=Role.PS,
            id=id,
            run=run,
            places=places,
            denied=denied,
            refused=lambda refusal: loop.call_soon_threadsafe(audit.refuse, refusal),
        )

    async def samples(self) -> list[Sample]:
        """All of them, as things are now. What the shard's thread changes is read there."""
        owner = self._owner
        shard = await owner.read(lambda: list(self._of_shard(owner.shard)) if owner.configured else [])
        return [*shard, *self._calls(), *self._sockets(), *_log(owner, owner.archive)]

    def _of_shard(self, shard: Shard) -> Iterator[Sample]:
        standing = "primary" if self._owner.serves else "standby" if self._standby.standing else "spare"
        yield m.SHARD(1, str(shard.spec.shard), standing)
        yield m.PS_STEP(self._rounds.first_step(shard.deltas.clock))
        yield m.DELTAS(shard.deltas.version)
        yield m.HELD_UNITS(len(shard.held))

    def _calls(self) -> Iterator[Sample]:
        tally, owner = self._tally, self._owner
        yield m.PS_TERM(self._control.term)
        yield from (m.PUSHES(tally.pushes[outcome], outcome) for outcome in OUTCOMES)
        yield m.PUSH_BYTES(tally.push_bytes)
        yield m.FOLLOWERS(tally.followers)
        yield m.DELTA_BYTES(owner.delta_bytes)
        yield m.ADMITTED(owner.admitted_bytes)
        yield m.ADMIT_LIMIT(owner.room_bytes)
        if self._replicas and owner.serves:
            yield m.IN_SYNC(bool(owner.replication.in_sync))
        if owner.watermark.standby is not None:
            yield m.LAG_RECORDS(owner.watermark.lag)
            yield m.LAG_BYTES(owner.replication.lag_bytes)

    def _sockets(self) -> Iterator[Sample]:
        for pool, (sent, received) in sorted({**self._dialled.sample(), **self._accepted.sample()}.items()):
            yield m.PS_BYTES(sent, pool, "sent")
            yield m.PS_BYTES(received, pool, "received")


def _log(owner: Owner, archive: Archive) -> Iterator[Sample]:
    yield m.LOG_RECORDS(archive.position)
    yield m.LOG_STALLED(bool(owner.stalled))
    yield m.REPLAY_BYTES(archive.replay_bytes)
    yield m.REPLAY_SECONDS(archive.replay_s)
    if (log := archive.log) is not None:
        yield m.LOG_BYTES(log.appended_bytes)
        yield m.LOG_SIZE(log.bytes_after(0))
        yield m.LOG_WRITE(log.write_s)
        yield m.LOG_SYNC(log.sync_s)
    if (at := archive.snapshots.newest_at()) is not None:
        yield m.IMAGE_TIME(at)
