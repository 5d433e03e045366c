"""What a server tells Prometheus: pushes by what became of them, deltas, followers, log and images."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from ps.metrics import ACCEPTED, Metrics
from ps.tally import JUDGED, OUTCOMES, REFUSED, Tally
from tests.ps.serving import ARRIVAL, Line, Serving, eventually, play_server, push, upload, workers
from wire.errors import Busy
from wire.metrics import METRICS, Distribution
from wire.rounds import Rounds
from wire.v1 import shard_pb2

Found = dict[tuple[str, ...], float | Distribution]


async def told(server: Serving, *, replicas: int = 0) -> Found:
    metrics = Metrics(
        server.owner,
        server.control,
        server.standby,
        server.service.tally,
        port=int(server.address.rpartition(":")[2]),
        rounds=Rounds(),
        replicas=replicas,
    )
    samples = await metrics.samples()
    assert all(METRICS[sample.metric.name] is sample.metric for sample in samples)
    found = {(s.metric.name.removeprefix("sparsync_ps_"), *s.labels): s.value for s in samples}
    assert len(found) == len(samples), "each value once"
    return found


def counted(found: Found) -> dict[str, float | Distribution]:
    return {key[1]: value for key, value in found.items() if key[0] == "pushes_total" and value}


def test_a_server_without_a_shard_has_little_to_tell(tmp_path: Path) -> None:
    async def scene(server: Serving) -> None:
        found = await told(server)
        assert ("deltas_total",) not in found and ("image_timestamp_seconds",) not in found
        assert found["admit_limit_bytes",] == server.owner.admit_bytes
        assert counted(found) == {}

    play_server(scene, tmp_path)


def test_pushes_deltas_followers_and_bytes(tmp_path: Path) -> None:
    async def scene(server: Serving) -> None:
        one, two = workers()
        line = Line(server.stub)
        await line.attach()
        await line.configure(ARRIVAL)
        await upload(server.stub)
        assert await push(server.stub, one, 1) == "ACCEPTED"
        await line.hear("accepted")
        await line.hear("published")
        assert await push(server.stub, one, 1) == "SETTLED"
        line.send(retire=shard_pb2.Retire(incarnation=2))
        await line.hear("retired")
        assert await push(server.stub, two, 5) == "FENCED"
        following = server.stub.Follow(shard_pb2.FollowRequest(timeline=1, incarnation=1))
        await anext(aiter(following))
        found = await told(server)
        assert counted(found) == {"accepted": 1, "settled": 1, "fenced": 1}
        assert (found["deltas_total",], found["followers",]) == (1, 1)
        assert found["info", "0", "primary"] == 1
        assert float(str(found["delta_bytes_total",])) > 0 and float(str(found["push_bytes_total",])) > 0
        sent, received = (found["socket_bytes_total", ACCEPTED, way] for way in ("sent", "received"))
        assert float(str(received)) > float(str(found["push_bytes_total",])) and float(str(sent)) > 0
        assert found["log_records_total",] == server.owner.archive.position
        writes = found["log_write_seconds",]
        assert isinstance(writes, Distribution) and sum(writes.counts) > 0
        assert float(str(found["log_bytes_total",])) >= float(str(found["push_bytes_total",]))
        assert ("image_timestamp_seconds",) in found, "the run's beginning is one"
        assert ("standby_in_sync",) not in found, "there is to be none"
        following.cancel()
        await eventually(lambda: server.service.tally.followers == 0)

    play_server(scene, tmp_path)


def test_refusals_are_counted_by_their_reason(tmp_path: Path) -> None:
    async def scene(server: Serving) -> None:
        one, _ = workers()
        line = Line(server.stub)
        await line.attach()
        await line.configure(ARRIVAL)
        await upload(server.stub)
        server.owner.admit_bytes = 0
        with pytest.raises(grpc.aio.AioRpcError):
            await push(server.stub, one, 1)
        assert counted(await told(server)) == {"busy": 1}

    play_server(scene, tmp_path)


def test_a_standby_that_is_waited_for_is_told_and_one_that_is_missing_too(tmp_path: Path) -> None:
    async def scene(server: Serving) -> None:
        line = Line(server.stub)
        await line.attach()
        assert ("standby_in_sync",) not in await told(server, replicas=1), "no primary"
        await line.configure(ARRIVAL)
        await upload(server.stub)
        server.owner.watermark.wait_for(9, server.owner.archive.position - 3)
        found = await told(server, replicas=1)
        assert (found["standby_in_sync",], found["standby_lag_records",]) == (0, 3)
        server.owner.watermark.wait_no_more(9)
        found = await told(server, replicas=1)
        assert found["standby_in_sync",] == 0 and ("standby_lag_records",) not in found

    play_server(scene, tmp_path)


def test_every_refusal_has_a_name() -> None:
    tally = Tally()
    errors = [kind("x") for kind in REFUSED] + [ValueError("a bug")]
    for error in errors:
        with pytest.raises(type(error)), tally.refusals():
            raise error
    with pytest.raises(asyncio.CancelledError), tally.refusals():
        raise asyncio.CancelledError
    for verdict in JUDGED:
        tally.judged(verdict)
    assert tally.pushes == dict.fromkeys(OUTCOMES, 1)
    assert REFUSED[Busy] == "busy"
