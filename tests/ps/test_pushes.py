"""Pushes over a real connection: what is refused, fenced or cut changes nothing and takes no room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from ps.owner import Owner
from ps.records import Accept
from tests.ps.models import (
    commit,
)
from tests.ps.room import room_but
from tests.ps.serving import (
    ARRIVAL,
    Line,
    eventually,
    play_exact,
    play_stub,
    push,
    send,
    settle,
    state_of,
    units_of,
    upload,
    workers,
)
from wire.v1 import shard_pb2, shard_pb2_grpc


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

    play_stub(scene, tmp_path)


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
