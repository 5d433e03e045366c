"""A checkpoint goes over the lines that there are: a server that comes back while one is taken has another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator import records as r
from coordinator.checkpoints import take_checkpoint
from coordinator.shards import ShardLine
from coordinator.state import Member, State
from tests.coordinator.ground import began
from wire.clock import ManualClock
from wire.config import Config
from wire.errors import Unreachable
from wire.layout import BLOCK, Layout, Parameter
from wire.rpc.identity import Security

SERVER = 1


def with_a_server() -> State:
    state = began(4)
    state.members[SERVER] = Member(SERVER, "ps", "ps-0", "127.0.0.1:1", "", 1, "h")
    state.layout = Layout((Parameter("weight", (BLOCK,), "float32", 0),))
    return state


def ended_line(state: State) -> ShardLine:
    line = ShardLine(
        SERVER,
        state,
        security=Security(),
        hear=lambda event: None,
        seq=lambda: 0,
        revoked=lambda: b"",
        clock=ManualClock(0.0),
    )
    line.end()
    return line


def test_lines_are_asked_for_again_where_one_has_ended(tmp_path: Path) -> None:
    async def main() -> None:
        state = with_a_server()
        line, asked = ended_line(state), 0

        def lines() -> list[ShardLine]:
            nonlocal asked
            asked += 1
            if asked == 3:
                state.apply(r.Ended("enough", ""))
            return [line]

        with pytest.raises(Unreachable, match="opened anew"):
            await take_checkpoint(tmp_path / "checkpoints", state, lines, config=Config(), step=0)
        assert asked == 3, "each attempt, until the run has ended"
        assert not list((tmp_path / "checkpoints").glob("*")), "nothing is left of them"
        await line.close()

    asyncio.run(main())
