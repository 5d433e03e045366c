"""A run at work whose servers come and go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from tests.coordinator.runs import Run


class Servers(Run):
    """Primaries 1 and 2 of shards 0 and 1, workers 3 and 4 at work, further servers from 5 on."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**({"ack": "os"} | changes))
        self.reach(1, 2)

    def reach(self, *incarnations: int) -> list[a.Action]:
        return self.hear(*(e.ServerAttached(i, i) for i in incarnations))

    def server(
        self, name: str, address: str, *, held: int = 0, timeline: int = 1, run: str = "run"
    ) -> list[a.Action]:
        return self.hear(e.Join(f"join {name}", "ps", name, address, "", 7, "h", run, timeline, held))

    def spare(self, name: str) -> int:
        """One more server, whose line is open."""
        actions = self.server(name, f"h:{name}")
        incarnation: int = self.answer(actions).incarnation
        self.reach(incarnation)
        return incarnation

    def lose(self, *incarnations: int) -> list[a.Action]:
        """Their lines break, and stay broken for a while."""
        actions = self.hear(*(e.LineBroken(i, f"server {i}: refused") for i in incarnations))
        return actions + self.wait(1.1)

    def wait(self, seconds: float) -> list[a.Action]:
        actions: list[a.Action] = []
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now += 0.1
            beats: Iterable[e.Event] = (e.Beat(m.incarnation) for m in self.core.state.present("worker"))
            actions += self.hear(*beats, e.Tick())
        return actions

    def attach(self, shard: int, **told: Any) -> list[a.Action]:
        """The shard's primary, as the state has it, tells its state."""
        placed = self.core.state.placement[shard]
        fields = {"configured": True, "step": self.core.state.open_step, "segment": 0}
        return self.hear(e.ShardAttached(shard, placed.incarnation, **(fields | told)))

    def records(self, actions: list[a.Action]) -> list[r.Record]:
        return [action.record for action in self.only(a.Journal, actions)]

    def notes(self, actions: list[a.Action]) -> list[str]:
        return [note.event for note in self.only(a.Note, actions)]

    def redirects(self, actions: list[a.Action]) -> list[tuple[int, a.Redirect]]:
        told = self.only(a.Tell, actions)
        return [(t.incarnation, t.order) for t in told if isinstance(t.order, a.Redirect)]

    @property
    def error(self) -> str:
        ended = self.core.state.ended
        return "" if ended is None else ended.error


def working(**changes: Any) -> Servers:
    run = Servers(**changes)
    run.begin()
    return run


def standing_by(*, ack: str = "os") -> Servers:
    """A run with servers 5 and 6 standing by for shards 0 and 1, both in sync."""
    run = working(replicas=1, ack=ack)
    assert (run.spare("s0"), run.spare("s1")) == (5, 6)
    run.hear(e.StandbyInSync(0, 5), e.StandbyInSync(1, 6))
    assert {s: (b.incarnation, b.in_sync) for s, b in run.core.state.standbys.items()} == {
        0: (5, True),
        1: (6, True),
    }
    return run
