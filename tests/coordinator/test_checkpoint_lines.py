"""A checkpoint goes over the lines there are: a server that comes back while one is taken or loaded has another."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator import records as r
from coordinator.checkpoints import load_checkpoint, take_checkpoint
from coordinator.shards import ShardLine
from coordinator.state import State
from tests.coordinator.lines_end import PLANES, Server, line_to, served, state_with, write_checkpoint
from wire.checkpoint import load_manifest
from wire.config import Config
from wire.errors import NoInput, Unreachable


class Lines:
    """What is asked for the lines to the primaries: a run whose first shard moves to server 3.

    Attributes:
        asked: how often that was.
        ends: the run has ended when lines are asked for the so-manyeth time.
    """

    def __init__(self, state: State, *, ends: int) -> None:
        self.state = state
        self.ends = ends
        self.asked = 0
        self.lines = {incarnation: line_to(incarnation, state) for incarnation in state.members}

    def __call__(self) -> list[ShardLine]:
        self.asked += 1
        if self.asked == self.ends:
            self.state.apply(r.Ended("enough", ""))
        return [self.lines[placed.incarnation] for placed in self.state.placement]

    async def promote(self) -> None:
        """As the switchboard does: the line of the old primary ends, and its channels with it."""
        self.state.apply(r.Stood(0, 3))
        self.state.apply(r.Promoted(0, 3, self.state.members[3].address, 2, "it is away"))
        self.lines[1].end()
        await self.lines[1].close()


@asynccontextmanager
async def run_of(*servers: Server, ends: int = 0) -> AsyncIterator[Lines]:
    async with AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(served(server))
        lines = Lines(state_with(*servers), ends=ends)
        for line in lines.lines.values():
            stack.push_async_callback(line.close)
        yield lines


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 30))


def begin_checkpoint(lines: Lines, path: Path) -> asyncio.Task[Any]:
    return asyncio.create_task(
        take_checkpoint(path / "checkpoints", lines.state, lines, config=Config(), step=0)
    )


def test_lines_are_asked_for_again_where_one_has_ended(tmp_path: Path) -> None:
    async def scene() -> None:
        async with run_of(Server(0), Server(1), Server(0), ends=3) as lines:
            lines.lines[1].end()
            with pytest.raises(Unreachable, match="opened anew"):
                await begin_checkpoint(lines, tmp_path)
            assert lines.asked == 3, "each attempt, until the run has ended"
            assert not list((tmp_path / "checkpoints").glob("*")), "nothing is left of them"

    play(scene)


@pytest.mark.parametrize("call", ["describe", "x"])
def test_a_server_that_is_silent_is_not_waited_for_where_another_has_taken_its_place(
    tmp_path: Path, call: str
) -> None:
    async def scene() -> None:
        silent = Server(0, stuck=[call])
        async with run_of(silent, Server(1), Server(0)) as lines:
            taken = begin_checkpoint(lines, tmp_path)
            await silent.until(call)
            await lines.promote()
            path, digests = await taken
            assert lines.asked == 2 and set(digests) == set(PLANES)
            load_manifest(path)

    play(scene)


def test_a_shard_may_move_while_another_one_is_asked(tmp_path: Path) -> None:
    async def scene() -> None:
        second = Server(1, stuck=["x"])
        async with run_of(Server(0), second, Server(0)) as lines:
            taken = begin_checkpoint(lines, tmp_path)
            await second.until("x")
            await lines.promote()
            second.free()
            load_manifest((await taken)[0])
            assert lines.asked == 2

    play(scene)


def test_streams_state_is_on_the_disk_as_it_comes_and_made_durable_in_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many streams there are, and however much each of them keeps."""
    synced: list[bool] = []
    fsync = os.fsync

    def told(descriptor: int) -> None:
        synced.append(threading.current_thread() is threading.main_thread())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", told)

    async def scene() -> None:
        first, second = Server(0), Server(1, stuck=["stream-0/inner"])
        first.kept = {"stream-0/extra": b"all", "stream-0/inner": b"first " * 100_000, "stream-1/inner": b"1"}
        second.kept = {"stream-0/inner": b"second " * 100_000, "stream-1/inner": b"2"}
        async with run_of(first, second, Server(0)) as lines:
            for stream in range(lines.state.streams):
                lines.state.apply(r.Deposited(stream, 0))
            taken = begin_checkpoint(lines, tmp_path)
            await second.until("stream-0/inner")
            partial = tmp_path / "checkpoints" / ".step-0.partial"
            assert (partial / "stream-0.inner").read_bytes() == first.kept["stream-0/inner"]
            second.free()
            path, _ = await taken
            assert (path / "stream-0.inner").read_bytes() == b"first " * 100_000 + b"second " * 100_000
            assert (path / "stream-1.inner").read_bytes() == b"12"
            assert (path / "stream-0.extra").read_bytes() == b"all"
            load_manifest(path)

    play(scene)
    assert synced and not any(synced), "the event loop goes on"


def begin_loading(lines: Lines, checkpoint: Path) -> asyncio.Task[None]:
    return asyncio.create_task(load_checkpoint(checkpoint, lines.state, lines, config=Config()))


def whole(server: Server) -> dict[str, int]:
    return dict.fromkeys(PLANES, 4 * server.elements)


@pytest.mark.parametrize("call", ["describe", "restore"])
def test_what_another_server_has_inherited_is_loaded_there(tmp_path: Path, call: str) -> None:
    async def scene() -> None:
        checkpoint = await write_checkpoint(tmp_path)
        silent, second, heir = Server(0, stuck=[call]), Server(1), Server(0)
        async with run_of(silent, second, heir) as lines:
            loaded = begin_loading(lines, checkpoint)
            await silent.until(call)
            await lines.promote()
            await loaded
            assert silent.restored == [] and second.restored == [whole(second)]
            assert heir.restored == [whole(heir)]

    play(scene)


def test_loading_is_begun_again_where_a_server_is_killed(tmp_path: Path) -> None:
    async def scene() -> None:
        checkpoint = await write_checkpoint(tmp_path)
        first, second = Server(0), Server(1)
        async with run_of(first, second, Server(0)) as lines:
            second.falls = 2
            await begin_loading(lines, checkpoint)
            assert lines.asked == 3 and second.restored == [whole(second)]
            assert first.restored == [whole(first)] * 3, "whatever it holds already"

    play(scene)


def test_nothing_is_sent_while_a_server_is_away(tmp_path: Path) -> None:
    async def scene() -> None:
        checkpoint = await write_checkpoint(tmp_path)
        first = Server(0)
        async with run_of(first, Server(1), Server(0), ends=2) as lines:
            lines.lines[2].end()
            with pytest.raises(Unreachable):
                await begin_loading(lines, checkpoint)
            assert lines.asked == 2 and first.restored == []

    play(scene)


def test_a_file_that_is_gone_meanwhile_is_named(tmp_path: Path) -> None:
    async def scene() -> None:
        checkpoint = await write_checkpoint(tmp_path)
        first = Server(0, stuck=["restore"])
        async with run_of(first, Server(1), Server(0)) as lines:
            loaded = begin_loading(lines, checkpoint)
            await first.until("describe")
            (checkpoint / "model.safetensors").unlink()
            first.free()
            with pytest.raises(NoInput, match=r"model\.safetensors"):
                await loaded

    play(scene)
