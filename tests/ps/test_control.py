"""The coordinator's line: commands one by one, answers when they are safe, and never one that waits for the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from ps.records import Mark
from ps.recovery import recover
from ps.terms import TermGuard
from tests.ps.models import Cluster, Worker
from tests.ps.serving import (
    ARRIVAL,
    CONFIG,
    RUN,
    TIMELINE,
    Line,
    Serving,
    eventually,
    owning,
    place,
    push,
    serving,
    upload,
)
from tests.ps.serving import play as run
from wire.v1 import shard_pb2

STANDBY = 9
Scene = Callable[[Serving, Line], Awaitable[None]]


def play(scene: Scene, path: Path, segment: shard_pb2.Segment | None = None) -> None:
    """A scene on a shard that has begun."""

    async def whole() -> None:
        async with (
            owning(path) as owner,
            serving(owner, place(terms=TermGuard(path / "term.json"))) as server,
        ):
            line = Line(server.stub)
            await line.attach()
            await line.configure(segment or shard_pb2.Segment())
            await upload(server.stub)
            await scene(server, line)

    run(whole())


async def attach_to_standby(server: Serving) -> Line:
    """A new line, whose coordinator has recorded a standby as in sync which is not there."""
    line = Line(server.stub)
    await line.attach(standby=STANDBY)
    return line


def test_no_command_waits_for_a_standby_that_the_next_one_parts_from(tmp_path: Path) -> None:
    async def scene(server: Serving, line: Line) -> None:
        line = await attach_to_standby(server)
        line.send(close=shard_pb2.Close(step=0, streams=()))
        line.send(fence=shard_pb2.Fence(step=1, stream=0, attempt=1))
        await eventually(lambda: server.owner.archive.position == 2)
        line.send(alone=shard_pb2.Alone(standby=STANDBY + 1))
        line.send(alone=shard_pb2.Alone(standby=STANDBY))
        for standby in (STANDBY + 1, STANDBY):
            assert (await line.hear("alone")).alone.standby == standby
        assert (await line.hear("settled")).settled.version == 1
        assert not (await line.hear("fenced")).fenced.accepted

    play(scene, tmp_path)


def test_the_state_waits_for_the_standby_and_what_ends_that_is_heard_before(tmp_path: Path) -> None:
    """A coordinator that comes back after the standby has gone hears so, and is obeyed, before it has the state."""

    async def scene(server: Serving, line: Line) -> None:
        held = await attach_to_standby(server)
        held.send(close=shard_pb2.Close(step=0, streams=()))
        await eventually(lambda: server.owner.archive.position == 1)
        held.drop()
        replication = server.owner.replication
        replication.broken(replication.begin(STANDBY), "it was killed")
        again = Line(server.stub)
        again.send(attach=shard_pb2.Attach(run=RUN, timeline=TIMELINE, shard_term=1, standby=STANDBY))
        assert (await again.hear("parted")).parted.standby == STANDBY
        again.send(alone=shard_pb2.Alone(standby=STANDBY))
        assert (await again.hear("alone")).alone.standby == STANDBY
        state = (await again.hear("state")).state
        assert (state.step, state.standby) == (1, 0)

    play(scene, tmp_path)


def test_what_waited_when_a_line_broke_is_in_the_state_of_the_next(tmp_path: Path) -> None:
    async def scene(server: Serving, line: Line) -> None:
        held = await attach_to_standby(server)
        held.send(close=shard_pb2.Close(step=0, streams=()))
        await eventually(lambda: server.owner.archive.position == 1)
        again = Line(server.stub)
        again.send(attach=shard_pb2.Attach(run=RUN, timeline=TIMELINE, shard_term=1, standby=0))
        state = (await again.hear("state")).state
        assert (state.step, state.version, state.standby) == (1, 1, 0)

    play(scene, tmp_path)


def test_a_configuration_that_is_repeated_keeps_what_the_shard_keeps(tmp_path: Path) -> None:
    async def scene(server: Serving, line: Line) -> None:
        await line.configure(shard_pb2.Segment())
        assert server.owner.holdings.store.load_base(0)[:2] == (0, 0)

    play(scene, tmp_path)


def test_what_is_decided_before_the_model_is_in_is_in_the_first_image(tmp_path: Path) -> None:
    """A worker may be given up while another one uploads."""

    async def whole() -> None:
        async with owning(tmp_path) as owner, serving(owner, place()) as server:
            one, two = (Worker(Cluster(1), incarnation) for incarnation in (1, 2))
            line = Line(server.stub)
            await line.attach()
            await line.configure(ARRIVAL)
            line.send(retire=shard_pb2.Retire(incarnation=1))
            assert (await line.hear("retired")).retired.incarnation == 1
            line.send(fence=shard_pb2.Fence(step=0, stream=2, attempt=4))
            await line.hear("fenced")
            line.send(close=shard_pb2.Close(step=0, streams=()))
            assert "before the initial model is in" in (await line.hear("refused")).refused.message
            with pytest.raises(grpc.aio.AioRpcError, match="before the initial model is in"):
                await push(server.stub, two, 1)
            await upload(server.stub)
            assert await push(server.stub, one, 0) == "FENCED"
            assert owner.archive.position == 0

    run(whole())
    recovered = recover(tmp_path)
    assert recovered is not None and recovered.holdings.shard.ledger.fences == {2: 4}


def test_a_line_that_is_refused_counts_as_none(tmp_path: Path) -> None:
    async def scene(server: Serving, line: Line) -> None:
        line.drop()
        await eventually(lambda: not server.control.attached.is_set())
        refused = Line(server.stub)
        refused.send(attach=shard_pb2.Attach(run="r", timeline=2, shard_term=1))
        assert "timeline" in (await refused.hear("refused")).refused.message
        refused.drop()
        await eventually(lambda: not server.control.attached.is_set())

    play(scene, tmp_path)


def test_a_primary_does_not_stand_by(tmp_path: Path) -> None:
    async def scene(server: Serving, line: Line) -> None:
        line.send(stand=shard_pb2.Stand(shard=0, address="127.0.0.1:1", term=2))
        assert "is the primary" in (await line.hear("refused")).refused.message
        assert await push(server.stub, Worker(Cluster(1), 1), 0) == "ACCEPTED"

    play(scene, tmp_path, ARRIVAL)


@pytest.mark.parametrize("level", ["os", "memory"])
def test_a_mark_is_an_image(tmp_path: Path, level: str) -> None:
    async def whole() -> None:
        async with owning(tmp_path, level=level) as owner, serving(owner, place(CONFIG)) as server:
            digests: list[tuple[int, bytes]] = []
            line = Line(server.stub)
            await line.attach()
            await line.configure(shard_pb2.Segment())
            await upload(server.stub)
            owner.on_mark = lambda position, digest: digests.append((position, digest))
            await owner.apply(Mark())
            await eventually(lambda: bool(digests))
            ((position, digest),) = digests
            assert position == 1 and digest
            kept = sorted(int(path.stem) for path in (tmp_path / "snapshots").glob("*.image"))
            assert kept == ([0, 1] if level == "os" else []), "at level memory nothing survives the process"

    run(whole())
