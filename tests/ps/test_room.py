"""Room for pushes: what is taken, by how many bytes, until when; and what of it is kept decoded."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ps import exact
from ps.ledger import Verdict
from ps.owner import Owner
from tests.ps.models import (
    LAYOUT,
    NAMED,
    STREAMS,
    Cluster,
    Worker,
    close,
    commit,
    topk,
)
from tests.ps.room import room_but, takes
from tests.ps.serving import (
    Line,
    configure,
    eventually,
    owning,
    play,
    play_exact,
    send,
    settle,
    units_of,
)
from wire.codec.base import frame_bytes
from wire.codec.chain import codecs_of
from wire.config import Config
from wire.errors import ProtocolMismatch
from wire.layout import BLOCK
from wire.v1 import shard_pb2_grpc


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
                patched.setattr(exact, "DECODED_BYTES", budget)
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


OWED = 8
LATE = replace(NAMED, owed=OWED)
"""A quorum of two out of three: of eight steps one unit each may be late."""


def test_a_quorum_needs_room_for_all_that_may_be_late(tmp_path: Path) -> None:
    cluster = Cluster(1, segment=LATE)
    needed = (STREAMS + OWED) * cluster.shards[0].max_frame_bytes

    async def scene() -> None:
        async with owning(tmp_path / "less", room=needed - 1) as owner:
            with pytest.raises(
                ProtocolMismatch, match=rf"1 step and 8 late ones can .* raise it to {needed} "
            ):
                configure(owner, cluster)
        async with owning(tmp_path / "enough", room=needed) as owner:
            configure(owner, cluster)

    play(scene())


def test_late_units_never_take_the_room_of_those_that_a_close_waits_for(tmp_path: Path) -> None:
    """A quorum is set on a live run whose server has room for one step: all units of a step but one, eight times; then
    the late ones come first, and the open step fits beside them."""
    cluster = Cluster(1)
    worker, most = Worker(cluster, 1), cluster.shards[0].max_frame_bytes

    async def scene() -> None:
        async with owning(tmp_path, room=STREAMS * most) as owner:
            configure(owner, cluster)
            await owner.begin()
            assert not takes(owner, STREAMS * most + 1)
            await owner.apply(replace(LATE, number=1))

            async def send(step: int, stream: int) -> None:
                unit = worker.unit(step * STREAMS + stream, base=owner.shard.deltas.version)
                owner.admit(most)
                owner.release(most - frame_bytes(unit.frame))
                assert await owner.apply(unit) is Verdict.ADMIT

            for step in range(OWED):
                for stream in range(STREAMS - 1):
                    await send(step, stream)
                await owner.apply(close(step, streams=STREAMS - 1))
            for step in range(OWED):
                await send(step, STREAMS - 1)
            for stream in range(STREAMS):
                await send(OWED, stream)
            late = tuple(step * STREAMS + STREAMS - 1 for step in range(OWED))
            await owner.apply(replace(close(OWED), late=late))
            assert owner.admitted_bytes == 0

    play(scene())
