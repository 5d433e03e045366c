"""A server that is out of the run is told so; one that has the address of another by now is not meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from ps.terms import TermGuard
from tests.ps.serving import LIMIT_S, RUN, TIMELINE, Line, eventually, owning, place, serving
from tests.ps.serving import play as run
from wire.v1 import shard_pb2

ME = {"run": RUN, "timeline": TIMELINE, "incarnation": 5}
FOREIGN = [
    shard_pb2.ShardCommand(dismiss=shard_pb2.Dismiss(reason="gone", **(ME | other)))
    for other in ({"run": "another"}, {"timeline": 2}, {"incarnation": 4})
] + [shard_pb2.ShardCommand(attach=shard_pb2.Attach(run="another", timeline=TIMELINE, shard_term=9))]


def test_it_is_told_on_a_line_of_its_own(tmp_path: Path) -> None:
    """Without an attach: what a primary would tell then may wait for a standby that serves by now."""

    async def scene() -> None:
        said: list[str] = []
        async with owning(tmp_path) as owner, serving(owner) as served:
            served.control._dismiss = said.append  # the process would end
            line = Line(served.stub)
            line.send(dismiss=shard_pb2.Dismiss(reason="replaced", **ME))
            await eventually(lambda: said == ["replaced"])
            line.drop()

    run(scene(), limit_s=LIMIT_S)


@pytest.mark.parametrize("command", FOREIGN, ids=["run", "timeline", "incarnation", "attach"])
def test_nothing_is_obeyed_that_is_for_another(tmp_path: Path, command: shard_pb2.ShardCommand) -> None:
    """Nor is the coordinator's term, which would fence the server's own."""

    async def scene() -> None:
        terms = TermGuard(None)
        async with owning(tmp_path) as owner, serving(owner, place(terms=terms)) as served:
            line = Line(served.stub)
            kind = command.WhichOneof("command")
            line.send(**{kind: getattr(command, kind)})
            with pytest.raises(StopAsyncIteration):
                await line.next()
            assert terms.term.number == 0
            assert served.control.term == 0

    run(scene(), limit_s=LIMIT_S)
