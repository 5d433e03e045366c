"""The service over a real connection: what is told, in which order, and what is asked of a shard whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.ps.models import LAYOUT, STREAMS, plane
from tests.ps.serving import (
    ARRIVAL,
    BLOCKS,
    TERM,
    Line,
    Serving,
    X,
    flush,
    follow,
    play_server,
    play_stub,
    push,
    received,
    state_of,
    upload,
    workers,
)
from wire.codec.dense import pack, unpack
from wire.layout import BLOCK
from wire.rpc.planes import plane_chunks
from wire.v1 import shard_pb2, shard_pb2_grpc

LIVE = shard_pb2.SnapshotRequest(timeline=1, plane="published", live=True)


def test_an_elastic_segment_as_a_coordinator_hears_it(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        one, two = workers()
        line = Line(stub)
        assert not (await line.attach()).configured
        await line.configure(ARRIVAL)
        await upload(stub)
        assert await push(stub, one, 1) == "ACCEPTED"
        accepted = (await line.hear("accepted")).accepted
        assert (accepted.incarnation, accepted.factor, accepted.behind) == (1, 1.0, 0)
        published = (await line.hear("published")).published
        assert (published.version, published.units) == (1, 1)
        assert await push(stub, one, 1) == "SETTLED"

        assert await push(stub, two, 0) == "ACCEPTED"
        accepted = (await line.hear("accepted")).accepted
        assert (accepted.incarnation, accepted.behind) == (2, 1)
        await line.hear("published")
        line.send(retire=shard_pb2.Retire(incarnation=2))
        assert (await line.hear("retired")).retired.incarnation == 2
        assert await push(stub, two, 5) == "FENCED"
        assert await push(stub, two, 0) == "FENCED"

        again = Line(stub)
        state = await again.attach(low=1)
        assert [accepted.unit.stream for accepted in state.accepted] == [1]
        assert (state.version, state.step, state.segment) == (2, 0, 0)

    play_stub(scene, tmp_path)


def test_a_flush_is_taken_once_and_published(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        (one, _), line = workers(), Line(stub)
        await line.attach()
        await line.configure(ARRIVAL)
        await upload(stub)
        await push(stub, one, 0)
        await line.hear("accepted")
        await line.hear("published")
        assert await flush(stub, 1) == "ACCEPTED"
        published = (await line.hear("published")).published
        assert (published.version, published.units) == (2, 0)
        assert await flush(stub, 1) == "ACCEPTED", "a repeat"
        assert await flush(stub, 2, segment=1) == "FENCED"
        with pytest.raises(grpc.aio.AioRpcError, match="for this shard at most"):
            await flush(stub, 2, more=1 << 20)
        ((delta, _),) = await follow(stub, 1, 2)
        assert not delta.outcomes and not delta.closes
        assert (await Line(stub).attach()).version == 2, "no second publication"

    play_stub(scene, tmp_path)


def test_a_live_snapshot_and_what_follows_it(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        (one, _), line = workers(), Line(stub)
        await line.attach()
        await line.configure(ARRIVAL)
        await upload(stub)
        for number in range(STREAMS):
            await push(stub, one, number, base=number)
            await line.hear("accepted")
            await line.hear("published")
        ((last, _),) = await follow(stub, STREAMS - 1, STREAMS)
        assert (last.closes, last.clock, last.pause, len(last.outcomes)) == (False, 1, False, 1)
        live = shard_pb2.SnapshotRequest(timeline=1, plane="published", live=True)
        names, data = await received(stub.Snapshot(live))
        assert names == [f"published/0/{STREAMS}"], "step 0 is not closed, though all of it stands here"
        replica = np.zeros((LAYOUT.blocks, BLOCK), np.float32)
        unpack(X, replica, BLOCKS)
        cluster = one.cluster
        for _, frame in await follow(stub, 0, STREAMS):
            cluster.pull.apply(frame, replica, cluster.blocks(0))
        assert pack(replica, BLOCKS) == data
        base = shard_pb2.SnapshotRequest(timeline=1, plane="published", step=0)
        assert await received(stub.Snapshot(base)) == (["published/0/0"], X)

    play_stub(scene, tmp_path)


def test_from_an_elastic_segment_to_an_exact_one(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        (one, two), line = workers(), Line(stub)
        await line.attach()
        await line.configure(ARRIVAL)
        await upload(stub)
        waiting = asyncio.create_task(
            received(stub.Snapshot(shard_pb2.SnapshotRequest(timeline=1, plane="published", step=1)))
        )
        for number in range(STREAMS):
            await push(stub, one, number)
            await line.hear("accepted")
            await line.hear("published")
        line.send(segment=shard_pb2.Segment(number=1, step=1))
        assert "a segment follows where" in (await line.hear("refused")).refused.message
        early = shard_pb2.CollectRequest(term=TERM, step=0, plane="x")
        with pytest.raises(grpc.aio.AioRpcError, match="settled units since"):
            await received(stub.Collect(early))
        line.send(close=shard_pb2.Close(step=0, pause=True))
        settled = (await line.hear("settled")).settled
        assert (settled.step, settled.version) == (0, STREAMS + 1)
        planes = await stub.Describe(shard_pb2.DescribeRequest(term=TERM))
        assert (list(planes.planes), list(planes.stream_planes)) == (
            ["x", "published", "exp_avg", "exp_avg_sq"],
            [],
        )
        asked = shard_pb2.CollectRequest(term=TERM, step=settled.step + 1, plane="deposits")
        assert await received(stub.Collect(asked)) == ([], b"")
        asked = shard_pb2.CollectRequest(term=TERM, step=1, plane="published")
        assert (await received(stub.Collect(asked)))[0] == ["published"]
        for _ in range(2):
            line.send(segment=shard_pb2.Segment(number=1, step=1))
            assert (await line.hear("began")).began.segment == 1
        assert (await waiting)[0] in (["published/0/0"], [f"published/1/{STREAMS + 1}"])
        assert await push(stub, two, STREAMS + 1) == "ACCEPTED"
        state = await Line(stub).attach()
        assert (state.version, state.step, state.segment) == (STREAMS + 1, 1, 1)
        assert [accepted.unit.step for accepted in state.accepted] == [1]

    play_stub(scene, tmp_path)


@pytest.mark.parametrize("extras", [(), ("aggregate", "stream-0/extra")])
def test_a_run_resumes_elastic_with_or_without_estimates(tmp_path: Path, extras: Sequence[str]) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        (one, _), line = workers(), Line(stub)
        await line.attach()
        await line.configure(shard_pb2.Segment(step=4, elastic=True, arrival=True), first_step=4)

        async def chunks() -> AsyncIterator[shard_pb2.RestoreChunk]:
            header = shard_pb2.RestoreHeader(term=TERM, step=4, scalars={"step": 4.0})
            yield shard_pb2.RestoreChunk(header=header)
            for name in ("x", "published", *extras):
                for chunk in plane_chunks(name, X):
                    yield shard_pb2.RestoreChunk(plane=chunk)

        await stub.Restore(chunks())
        assert await push(stub, one, 3 * STREAMS) == "SETTLED"
        assert await push(stub, one, 4 * STREAMS, base=4) == "ACCEPTED"
        ((delta, _),) = await follow(stub, 4, 5)
        assert (delta.version, delta.step, delta.clock) == (4, 4, 4)

    play_stub(scene, tmp_path)


def test_streams_without_a_plane_for_a_shard_have_a_state_there_too(tmp_path: Path) -> None:
    """A codec without state, and a shard that has no buffers: an heir asks every shard for the deposit."""

    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        line = Line(stub)
        await line.attach()
        await line.configure(shard_pb2.Segment(step=4), first_step=4)

        async def chunks() -> AsyncIterator[shard_pb2.RestoreChunk]:
            header = shard_pb2.RestoreHeader(term=TERM, step=4, scalars={"step": 4.0}, deposits=True)
            yield shard_pb2.RestoreChunk(header=header)
            for name in ("x", "published"):
                for chunk in plane_chunks(name, X):
                    yield shard_pb2.RestoreChunk(plane=chunk)

        await stub.Restore(chunks())
        for stream in range(STREAMS):
            asked = shard_pb2.WithdrawRequest(timeline=1, stream=stream, step=4)
            assert await received(stub.Withdraw(asked)) == ([], b"")

    play_stub(scene, tmp_path)


def test_a_first_segment_from_another_step_is_refused(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        line = Line(stub)
        await line.attach()
        with pytest.raises(AssertionError, match="the first segment begins at step 3, the run at step 4"):
            await line.configure(shard_pb2.Segment(step=3), first_step=4)

    play_stub(scene, tmp_path)


def test_nothing_is_revealed_unheard_while_the_state_is_told(tmp_path: Path) -> None:
    """A unit that is accepted between the reading of the state and its telling is in neither by itself."""

    async def scene(server: Serving) -> None:
        (one, _), line = workers(), Line(server.stub)
        await line.attach()
        await line.configure(ARRIVAL)
        await upload(server.stub)
        begin_reveal = server.owner.begin_reveal

        async def slowly(function: Callable[[], object], reveal: Callable[[object], None]) -> None:
            read: list[object] = []
            await begin_reveal(function, read.append)
            assert await push(server.stub, one, 0) == "ACCEPTED"
            reveal(read[0])

        server.owner.begin_reveal = slowly  # type: ignore[method-assign, assignment]
        again = Line(server.stub)
        assert not (await again.attach()).accepted
        assert (await again.hear("accepted")).accepted.unit.stream == 0
        await again.hear("published")

    play_server(scene, tmp_path)


def test_initial_planes_are_fixed_once_the_run_has_begun(tmp_path: Path) -> None:
    """Whoever uploads or restores then, by mistake or not, is refused before anything is loaded."""

    async def scene(server: Serving) -> None:
        line = Line(server.stub)
        await line.attach()
        await line.configure(ARRIVAL)
        await upload(server.stub)
        assert await push(server.stub, workers()[0], 1) == "ACCEPTED"
        await line.hear("accepted")
        await line.hear("published")
        before = state_of(server.owner)
        with pytest.raises(grpc.aio.AioRpcError, match="initial planes are fixed"):
            await upload(server.stub)
        with pytest.raises(grpc.aio.AioRpcError, match="initial planes are fixed"):
            await server.stub.Restore(restoring(shard_pb2.RestoreHeader(term=TERM, scalars={"step": 7})))
        assert state_of(server.owner) == before

    play_server(scene, tmp_path)


def test_a_later_upload_of_one_worker_changes_nothing(tmp_path: Path) -> None:
    """What was made safe when the first one ended is what is served, before any record too."""
    other = pack(plane(2), BLOCKS)

    async def scene(server: Serving) -> None:
        line, whole = Line(server.stub), asyncio.Event()
        await line.attach()
        await line.configure(ARRIVAL)
        late = asyncio.create_task(upload(server.stub, other, goes_on=[whole.wait()]))
        await upload(server.stub)
        before = state_of(server.owner)
        await upload(server.stub)  # the answer was lost
        for data in (other, None):
            with pytest.raises(grpc.aio.AioRpcError, match=r"uploads other|without plane"):
                await upload(server.stub, data)
        whole.set()
        with pytest.raises(grpc.aio.AioRpcError, match="uploads other initial parameters than it did"):
            await late
        assert state_of(server.owner) == before
        assert await received(server.stub.Snapshot(LIVE)) == (["published/0/0"], X)

    play_server(scene, tmp_path)


def test_who_is_asked_next_uploads_anew(tmp_path: Path) -> None:
    """The one before is gone, and some shards have all of its parameters."""
    other = pack(plane(2), BLOCKS)

    async def scene(server: Serving) -> None:
        line = Line(server.stub)
        await line.attach()
        await line.configure(ARRIVAL)
        await upload(server.stub)
        await upload(server.stub, other, incarnation=2)
        assert await received(server.stub.Snapshot(LIVE)) == (["published/0/0"], other)
        base = shard_pb2.SnapshotRequest(timeline=1, plane="published", step=0)
        assert await received(server.stub.Snapshot(base)) == (["published/0/0"], other)

    play_server(scene, tmp_path)


def test_planes_without_a_header_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    """The header says by whom, and under which term: nothing counts that comes before it."""

    async def scene(server: Serving) -> None:
        line = Line(server.stub)
        await line.attach()
        await line.configure(ARRIVAL)
        before = state_of(server.owner)
        with pytest.raises(grpc.aio.AioRpcError, match="a checkpoint without a header"):
            await server.stub.Restore(restoring(None))

        async def uploading() -> AsyncIterator[shard_pb2.UploadChunk]:
            for chunk in plane_chunks("x", X):
                yield shard_pb2.UploadChunk(plane=chunk)

        with pytest.raises(grpc.aio.AioRpcError, match="an upload without a header"):
            await server.stub.Upload(uploading())
        assert state_of(server.owner) == before

    play_server(scene, tmp_path)


async def restoring(header: shard_pb2.RestoreHeader | None) -> AsyncIterator[shard_pb2.RestoreChunk]:
    if header is not None:
        yield shard_pb2.RestoreChunk(header=header)
    for chunk in plane_chunks("x", X):
        yield shard_pb2.RestoreChunk(plane=chunk)
