"""The service over a real connection: what is told, in which order, and what is asked of a shard whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from ps import settling
from ps.owner import Owner
from ps.records import Accept
from tests.ps.models import (
    LAYOUT,
    STREAMS,
    WHOLE,
    Cluster,
    Worker,
    close,
    commit,
    plane,
    topk,
)
from tests.ps.room import room_but
from tests.ps.serving import CONFIG, TERM, Line, Serving, eventually, owning, place, serving
from tests.ps.serving import play as run
from wire.codec.base import Blocks, Buffer, buffers_of
from wire.codec.chain import FLUSH, codecs_of
from wire.codec.dense import pack, unpack
from wire.config import Config
from wire.layout import BLOCK
from wire.messages import (
    commit_to_proto,
    unit_to_proto,
)
from wire.rpc.planes import plane_chunks
from wire.v1 import common_pb2, shard_pb2, shard_pb2_grpc

ARRIVAL = shard_pb2.Segment(elastic=True, arrival=True)
BLOCKS = Blocks.of(LAYOUT, WHOLE)
X = pack(plane(1), BLOCKS)


async def upload(stub: shard_pb2_grpc.ShardStub) -> None:
    async def chunks() -> AsyncIterator[shard_pb2.UploadChunk]:
        yield shard_pb2.UploadChunk(header=shard_pb2.UploadHeader(timeline=1))
        for chunk in plane_chunks("x", X):
            yield shard_pb2.UploadChunk(plane=chunk)

    await stub.Upload(chunks())


async def push(
    stub: shard_pb2_grpc.ShardStub,
    worker: Worker,
    number: int,
    *,
    base: int = 0,
    message_bytes: int = 1 << 20,
) -> str:
    unit = worker.unit(number, base=base)
    frame = buffers_of(unit.frame)[0]
    messages = [frame[start : start + message_bytes] for start in range(0, len(frame), message_bytes)]
    return await send(stub, unit, messages)


async def send(
    stub: shard_pb2_grpc.ShardStub,
    unit: Accept,
    messages: Sequence[Buffer] | None = None,
    *,
    declared: int | None = None,
    plan: int = 1,
    goes_on: Sequence[Awaitable[object]] = (),
) -> str:
    """Push a unit. messages: of its frame, by default one. goes_on: waited for before its commit, one by one."""
    whole = [message for message in buffers_of(unit.frame) if message]
    messages = whole if messages is None else messages
    header = shard_pb2.PushHeader(
        unit=unit_to_proto(unit.unit),
        attempt=unit.attempt,
        incarnation=unit.incarnation,
        plan=plan,
        frame_bytes=sum(map(len, messages)) if declared is None else declared,
        base_version=unit.base_version,
    )

    async def chunks() -> AsyncIterator[shard_pb2.PushChunk]:
        yield shard_pb2.PushChunk(header=header)
        for message in messages:
            yield shard_pb2.PushChunk(data=bytes(message))
        for event in goes_on:
            await event
        yield shard_pb2.PushChunk(commit=commit_to_proto(unit.commit))

    reply = await stub.Push(chunks())
    return str(shard_pb2.PushReply.Outcome.Name(reply.outcome))


async def flush(stub: shard_pb2_grpc.ShardStub, incarnation: int, *, segment: int = 0, more: int = 0) -> str:
    """What a leaver held back; `more`: bytes that the header tells beyond those of the frame."""
    frame = b"".join(FLUSH.encode(plane(5), {}, Cluster(1).blocks(0)))
    header = shard_pb2.PushHeader(
        flush=shard_pb2.Flush(timeline=1, segment=segment),
        incarnation=incarnation,
        plan=1,
        frame_bytes=len(frame) + more,
    )

    async def chunks() -> AsyncIterator[shard_pb2.PushChunk]:
        yield shard_pb2.PushChunk(header=header)
        yield shard_pb2.PushChunk(data=frame)
        yield shard_pb2.PushChunk(commit=shard_pb2.Commit(learning_rates=(0.1, 0.1)))

    reply = await stub.Push(chunks())
    return str(shard_pb2.PushReply.Outcome.Name(reply.outcome))


async def follow(
    stub: shard_pb2_grpc.ShardStub, start: int, stop: int
) -> list[tuple[shard_pb2.DeltaHeader, bytes]]:
    found: list[tuple[shard_pb2.DeltaHeader, bytes]] = []
    request = shard_pb2.FollowRequest(timeline=1, from_version=start, until_version=stop)
    async for chunk in stub.Follow(request):
        if chunk.HasField("header"):
            found.append((chunk.header, b""))
        else:
            found[-1] = found[-1][0], found[-1][1] + chunk.data
    return found


async def received(planes: AsyncIterator[common_pb2.PlaneChunk]) -> tuple[list[str], bytes]:
    names, data = [], b""
    async for chunk in planes:
        if chunk.HasField("header"):
            names.append(chunk.header.plane)
        data += chunk.data
    return names, data


def play(
    scene: Callable[[shard_pb2_grpc.ShardStub], Awaitable[None]], path: Path, *, config: Config = CONFIG
) -> None:
    """One server on a port of its own, taken in by a coordinator of ours."""

    async def alone(server: Serving) -> None:
        await scene(server.stub)

    play_server(alone, path, config=config)


def play_server(scene: Callable[[Serving], Awaitable[None]], path: Path, *, config: Config = CONFIG) -> None:
    async def whole() -> None:
        async with owning(path) as owner, serving(owner, place(config)) as server:
            await scene(server)

    run(whole())


def workers() -> Sequence[Worker]:
    cluster = Cluster(1)
    return [Worker(cluster, incarnation) for incarnation in (1, 2)]


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

    play(scene, tmp_path)


def test_a_frame_in_crumbs_is_refused_before_it_is_kept(tmp_path: Path) -> None:
    """Messages of a few bytes each would take many times those bytes; messages cut inside a part do not decode."""

    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        (one, _), line = workers(), Line(stub)
        await line.attach()
        await line.configure(ARRIVAL)
        await upload(stub)
        with pytest.raises(grpc.aio.AioRpcError, match="a message of 2 bytes"):
            await push(stub, one, 0, message_bytes=2)
        with pytest.raises(grpc.aio.AioRpcError, match="fetch the frame again"):
            await push(stub, one, 0, message_bytes=1000)
        assert await push(stub, one, 0) == "ACCEPTED"

    play(scene, tmp_path)


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

    play(scene, tmp_path)


def test_a_live_snapshot_and_what_follows_it(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        (one, _), line = workers(), Line(stub)
        await line.attach()
        await line.configure(ARRIVAL)
        await upload(stub)
        for number in range(STREAMS):
            await push(stub, one, number, base=number)
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

    play(scene, tmp_path)


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

    play(scene, tmp_path)


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

    play(scene, tmp_path)


def test_a_first_segment_from_another_step_is_refused(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        line = Line(stub)
        await line.attach()
        with pytest.raises(AssertionError, match="the first segment begins at step 3, the run at step 4"):
            await line.configure(shard_pb2.Segment(step=3), first_step=4)

    play(scene, tmp_path)


def test_a_deposit_counts_whole_and_from_its_holder_only(tmp_path: Path) -> None:
    """A worker that is stopped in the middle, fenced and killed must not spoil what its heir deposited."""

    async def scene(stub: shard_pb2_grpc.ShardStub) -> None:
        line = Line(stub)
        await line.attach()
        await line.configure(shard_pb2.Segment())
        await upload(stub)

        async def deposit(attempt: int, state: bytes, goes_on: asyncio.Event) -> None:
            async def chunks() -> AsyncIterator[shard_pb2.DepositChunk]:
                header = shard_pb2.DepositHeader(
                    timeline=1, stream=2, step=4, attempt=attempt, planes=["extra"]
                )
                yield shard_pb2.DepositChunk(header=header)
                for chunk in plane_chunks("extra", state) if state else ():
                    yield shard_pb2.DepositChunk(plane=chunk)
                await goes_on.wait()

            await stub.Deposit(chunks())

        async def kept() -> bytes:
            asked = shard_pb2.WithdrawRequest(timeline=1, stream=2, step=4)
            return (await received(stub.Withdraw(asked)))[1]

        now, later = asyncio.Event(), asyncio.Event()
        now.set()
        with pytest.raises(grpc.aio.AioRpcError, match="ended without"):
            await deposit(0, b"", now)
        with pytest.raises(grpc.aio.AioRpcError, match="no deposit"):
            await kept()
        stopped = asyncio.create_task(deposit(0, b"older", later))
        await asyncio.sleep(0.1)
        line.send(fence=shard_pb2.Fence(step=0, stream=2, attempt=1))
        await line.hear("fenced")
        await deposit(1, b"newer", now)
        later.set()
        with pytest.raises(grpc.aio.AioRpcError, match="a newer attempt holds it now"):
            await stopped
        assert await kept() == b"newer"

    play(scene, tmp_path)


# --- room for pushes --------------------------------------------------------------------------------


Scene = Callable[[shard_pb2_grpc.ShardStub, Line, Owner], Awaitable[None]]


def play_exact(scene: Scene, path: Path, config: Config = CONFIG) -> None:
    """A scene on a shard in an exact segment; at its end no room is taken any more."""

    async def whole(server: Serving) -> None:
        line = Line(server.stub)
        await line.attach()
        await line.configure(shard_pb2.Segment())
        await upload(server.stub)
        await scene(server.stub, line, server.owner)
        await eventually(lambda: room_but(server.owner, 0))

    play_server(whole, path, config=config)


def units_of(step: int = 0) -> list[Accept]:
    """Of one step, a unit a stream."""
    cluster = Cluster(1)
    return [cluster.unit(0, step, stream) for stream in range(STREAMS)]


def state_of(owner: Owner) -> tuple[object, ...]:
    """All that a push may change."""
    shard = owner.shard
    planes = {name: values.tobytes() for name, values in shard.planes().items()}
    return planes, dict(shard.held), dict(shard.accepted), shard.ledger.step, shard.deltas.version


async def settle(line: Line, *, step: int = 0, streams: Sequence[int] = range(STREAMS)) -> None:
    line.send(close=shard_pb2.Close(step=step, streams=streams))
    while True:
        event = await line.next()
        if event.WhichOneof("event") == "settled":
            return


def test_what_is_accepted_takes_the_room_of_its_bytes_until_it_is_settled(tmp_path: Path) -> None:
    """Headers declare the most that a frame may have; what did not come is free at once."""

    async def scene(stub: shard_pb2_grpc.ShardStub, line: Line, owner: Owner) -> None:
        most, taken = owner.shard.max_frame_bytes, 0
        for unit in units_of():
            assert await send(stub, unit, declared=most) == "ACCEPTED"
            taken += len(unit.frame)
            assert room_but(owner, taken)
            assert await send(stub, unit, declared=most) == "ACCEPTED", "a repeat takes nothing"
            assert room_but(owner, taken)
        await settle(line)
        assert room_but(owner, 0)
        assert await send(stub, units_of()[0]) == "SETTLED"

    play_exact(scene, tmp_path)


def test_a_smaller_frame_than_declared(tmp_path: Path) -> None:
    """A shard of small frames: top-k of a plane that is zero almost everywhere."""
    config = Config.model_validate({"push": {"codec": "topk", "density": 0.25}, "pull": {"codec": "dense"}})

    async def scene(stub: shard_pb2_grpc.ShardStub, line: Line, owner: Owner) -> None:
        push, _ = codecs_of(config, LAYOUT, optimizer="adamw")
        state = {name: np.zeros((LAYOUT.blocks, BLOCK), np.float32) for name in push.state_planes}
        sparse = np.zeros((LAYOUT.blocks, BLOCK), np.float32)
        sparse[:, 0] = 1.0
        pieces = tuple(push.encode(sparse, state, Cluster(1).blocks(0)))
        size, most = sum(map(len, pieces)), owner.shard.max_frame_bytes
        assert size < most
        unit = replace(units_of()[0], frame=pieces)
        sending = asyncio.Event()
        going = asyncio.create_task(send(stub, unit, declared=most, goes_on=[sending.wait()]))
        await eventually(lambda: room_but(owner, most))
        sending.set()
        assert await going == "ACCEPTED"
        assert room_but(owner, size)
        await settle(line, streams=[0])

    play_exact(scene, tmp_path, config)


def test_an_empty_unit_takes_no_room_and_settles(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub, line: Line, owner: Owner) -> None:
        unit = replace(units_of()[1], commit=commit(empty="epoch_end"), frame=b"")
        assert await send(stub, unit) == "ACCEPTED"
        assert room_but(owner, 0)
        before = owner.shard.planes()["x"].tobytes()
        await settle(line, streams=[1])
        assert owner.shard.planes()["x"].tobytes() == before

    play_exact(scene, tmp_path)


def altered(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


REFUSED: dict[str, tuple[str, Callable[[Accept], tuple[Accept, dict[str, object]]]]] = {
    "another plan": ("join the run anew", lambda unit: (unit, {"plan": 2})),
    "an early step": ("is refused", lambda unit: (replace(unit, unit=unit.unit._replace(step=7)), {})),
    "no rates": ("learning rates", lambda unit: (replace(unit, commit=commit(())), {})),
    "too large": ("at most", lambda unit: (unit, {"declared": 1 << 23})),
    "altered": ("checksum", lambda unit: (replace(unit, frame=altered(bytes(unit.frame))), {})),
    "more than declared": (
        "more than the 1000 bytes that the push declared",
        lambda unit: (unit, {"declared": 1000}),
    ),
    "cut inside a part": (
        "fetch the frame again",
        lambda unit: (unit, {"messages": [unit.frame[:5000], unit.frame[5000:]]}),
    ),
    "cut inside the header": (
        "fetch the frame again|expected",
        lambda unit: (unit, {"messages": [unit.frame[:25], unit.frame[25:]]}),
    ),
    "without its last part": (
        "fetch the frame again|expected",
        lambda unit: (unit, {"messages": [unit.frame[:24]]}),
    ),
    "without a frame": ("expected a header", lambda unit: (unit, {"messages": []})),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused_takes_no_room_and_changes_nothing(why: str, tmp_path: Path) -> None:
    message, spoil = REFUSED[why]

    async def scene(stub: shard_pb2_grpc.ShardStub, line: Line, owner: Owner) -> None:
        first, second, _ = units_of()
        assert await send(stub, first) == "ACCEPTED"
        before = state_of(owner)
        unit, how = spoil(second)
        with pytest.raises(grpc.aio.AioRpcError, match=message) as refusal:
            await send(stub, unit, **how)  # type: ignore[arg-type]
        assert refusal.value.code() is not grpc.StatusCode.INTERNAL, "a mistake of the sender's, not of ours"
        assert state_of(owner) == before
        assert room_but(owner, len(first.frame))
        assert await send(stub, second) == "ACCEPTED"
        await settle(line, streams=[0, 1])

    play_exact(scene, tmp_path)


def test_a_push_that_is_fenced_on_its_way(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub, line: Line, owner: Owner) -> None:
        unit, sending = units_of()[0], asyncio.Event()
        going = asyncio.create_task(send(stub, unit, goes_on=[sending.wait()]))
        await eventually(lambda: room_but(owner, len(unit.frame)))
        line.send(fence=shard_pb2.Fence(step=0, stream=0, attempt=1))
        await line.hear("fenced")
        sending.set()
        assert await going == "FENCED"
        assert room_but(owner, 0)
        assert await send(stub, unit) == "FENCED"
        assert room_but(owner, 0)
        assert not owner.shard.held

    play_exact(scene, tmp_path)


def test_two_sendings_of_one_unit_at_once_count_once(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub, line: Line, owner: Owner) -> None:
        unit, sending = units_of()[0], asyncio.Event()
        going = [asyncio.create_task(send(stub, unit, goes_on=[sending.wait()])) for _ in range(2)]
        await eventually(lambda: room_but(owner, 2 * len(unit.frame)))
        sending.set()
        assert [await each for each in going] == ["ACCEPTED", "ACCEPTED"]
        assert room_but(owner, len(unit.frame))
        await settle(line, streams=[0])

    play_exact(scene, tmp_path)


def test_a_push_whose_line_is_cut_takes_no_room(tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub, line: Line, owner: Owner) -> None:
        unit, never = units_of()[0], asyncio.Event()
        before = state_of(owner)
        going = asyncio.create_task(send(stub, unit, goes_on=[never.wait()]))
        await eventually(lambda: room_but(owner, len(unit.frame)))
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        await eventually(lambda: room_but(owner, 0))
        assert state_of(owner) == before
        assert await send(stub, unit) == "ACCEPTED"
        await settle(line, streams=[0])

    play_exact(scene, tmp_path)


@pytest.mark.parametrize("first", [(), (shard_pb2.PushChunk(data=bytes(100)),), (shard_pb2.PushChunk(),)])
def test_a_push_without_a_header_is_refused(first: Sequence[shard_pb2.PushChunk], tmp_path: Path) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub, line: Line, owner: Owner) -> None:
        async def chunks() -> AsyncIterator[shard_pb2.PushChunk]:
            for chunk in first:
                yield chunk

        with pytest.raises(grpc.aio.AioRpcError, match="a push without a header"):
            await stub.Push(chunks())

    play_exact(scene, tmp_path)


@pytest.mark.parametrize("first", [(), (shard_pb2.DepositChunk(),)])
def test_a_deposit_without_a_header_is_refused(
    first: Sequence[shard_pb2.DepositChunk], tmp_path: Path
) -> None:
    async def scene(stub: shard_pb2_grpc.ShardStub, line: Line, owner: Owner) -> None:
        async def chunks() -> AsyncIterator[shard_pb2.DepositChunk]:
            for chunk in first:
                yield chunk

        with pytest.raises(grpc.aio.AioRpcError, match="a deposit without a header"):
            await stub.Deposit(chunks())

    play_exact(scene, tmp_path)


# --- what is kept decoded ---------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1])
def test_a_step_has_the_same_bits_however_much_is_kept_decoded(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kept`: frames of which the decoded form is kept; the others are decoded again when the step is closed."""
    cluster = Cluster(1, codecs=topk())
    units = [cluster.unit(0, 0, stream) for stream in range(STREAMS)]
    memory = cluster.push.decode(units[0].frame, cluster.blocks(0)).memory_bytes
    assert memory > 0

    def closed(budget: int | None) -> tuple[list[bool], object]:
        whole = Cluster(1, codecs=topk())
        (shard,) = whole.shards
        with monkeypatch.context() as patched:
            if budget is not None:
                patched.setattr(settling, "DECODED_BYTES", budget)
            for unit in units:
                shard.apply(unit)
            decoded = [held.decoded is not None for held in shard.held.values()]
            delta = shard.apply(close(0))
            more = [whole.unit(0, 1, stream) for stream in range(STREAMS)]
            for unit in more:
                shard.apply(unit)
            assert [held.decoded is not None for held in shard.held.values()] == decoded, (
                "the room is free again"
            )
        planes = {name: values.tobytes() for name, values in shard.planes().items()}
        return decoded, (delta, planes)

    all_kept, expected = closed(None)
    some_kept, found = closed(kept * memory)
    assert all_kept == [True] * STREAMS
    assert some_kept == [True] * kept + [False] * (STREAMS - kept)
    assert found == expected


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
