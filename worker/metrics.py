"""What Prometheus is told of a worker: figures that it keeps anyway, read by the thread that answers the scrape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wire import metrics as m
from wire.metrics import Sample
from worker.progress import Progress
from worker.transfer import Transfer


def samples(
    progress: Progress,
    transfer: Transfer,
    *,
    clock: int | None,
    incarnation: int,
    versions: Sequence[int],
    pulls: int,
) -> Iterator[Sample]:
    """Of the incarnation that is in the run now; counters begin anew with another one.

    Args:
        clock: the step at hand, once the model holds one.
        versions: of each shard's part of x̂.
        pulls: whole-model pulls so far.
    """
    yield m.INCARNATION(incarnation)
    if clock is not None:
        yield m.WORKER_CLOCK(clock)
    yield m.UNITS(progress.units)
    yield m.REPLAYED(progress.replayed)
    yield m.COMPUTE(progress.compute_s)
    yield m.ENCODE(progress.encode_s)
    yield m.WAIT(progress.wait_s)
    yield m.UNIT(progress.unit_s)
    yield m.RESIDUAL(progress.residual_norm)
    yield m.UNDER_WAY(transfer.mailbox.units_under_way)
    yield m.PULLS(pulls)
    yield from (m.VERSION(version, str(shard)) for shard, version in enumerate(list(versions)))
    for pool, (sent, received) in sorted(transfer.socket_bytes().items()):
        yield m.WORKER_BYTES(sent, pool, "sent")
        yield m.WORKER_BYTES(received, pool, "received")
