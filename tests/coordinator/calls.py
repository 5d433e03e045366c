"""What a worker of the small world asks of servers: again where no answer comes, wherever the shard is served then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ps.publish import Delta
from tests.coordinator.ground import Line
from worker import deltas as received

if TYPE_CHECKING:
    from tests.coordinator.hand import Worker
    from tests.coordinator.server import Server

AGAIN_S = 1.5


class Calls:
    """Places of the shards as one worker knows them: (address, term) each."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._world = worker, worker.world
        self.places: list[tuple[str, int]] = []
        self._following: list[Following] = []

    def redirect(self, shard: int, address: str, term: int) -> None:
        """A shard is served elsewhere, if that is news."""
        if self.places and term > self.places[shard][1]:
            self.places[shard] = address, term
            for following in [f for f in self._following if f.shard == shard]:
                following.redial()

    def server(self, shard: int) -> Server | None:
        """The server of a shard, if it is there and serves it."""
        address, term = self.places[shard]
        server = self._world.addresses[address]
        return server if server.alive and server.serves_under(term) else None

    def ask(
        self,
        shard: int,
        act: Callable[[Server, Callable[[Any], None]], None],
        then: Callable[[Any], None],
        *,
        times: int = 1,
        dying: bool = False,
    ) -> None:
        """Have the server `act`, and take its answer, once.

        Args:
            times: so often the same is sent at once.
            dying: it is sent half of the time though the worker has died meanwhile.
        """
        world, worker = self._world, self._worker
        waiting = [True]

        def arrive() -> None:
            if dying and not worker.alive and world.random.random() < 0.5:
                return  # it died in the middle of it
            reach()

        def reach() -> None:
            server = self.server(shard)
            if server is None or not waiting:
                return
            if server.paused_until > world.now:
                world.at(server.paused_until, reach, server)
            else:
                act(server, lambda value: world.after(world.delay(), lambda: answered(value), worker))

        def answered(value: Any) -> None:
            if waiting and waiting.pop():
                then(value)

        def again() -> None:
            if waiting:
                world.after(world.delay(), arrive)
                world.after(AGAIN_S, again, worker)

        for _ in range(times):
            world.after(world.delay(), arrive)
        if world.servers_die:
            world.after(AGAIN_S, again, worker)

    def follow(self, shard: int, version: int, deliver: Callable[[received.Delta], None]) -> Following:
        following = Following(self._worker, self, shard, version, deliver)
        self._following.append(following)
        following.redial()
        return following

    def forget(self, following: Following) -> None:
        if following in self._following:
            self._following.remove(following)

    def close(self) -> None:
        for following in list(self._following):
            following.close()


class Following:
    """One shard's deltas from a version on, through all connections.

    Attributes:
        sent: version up to which the server at hand has sent.
    """

    def __init__(
        self,
        worker: Worker,
        calls: Calls,
        shard: int,
        version: int,
        deliver: Callable[[received.Delta], None],
    ) -> None:
        self.worker, self._calls, self.shard = worker, calls, shard
        self._next = self.sent = version
        self._deliver = deliver
        self._line: Line | None = None
        self._server: Server | None = None
        self._over = False

    def redial(self) -> None:
        """Follow where the shard is served now, from the version held; where nobody serves, a little later."""
        self._leave()
        if self._over or not self.worker.alive:
            return
        server = self._calls.server(self.shard)
        world = self.worker.world
        if server is None or not server.loaded:
            world.after(world.fate.uniform(0.1, 0.6), self._retry, self.worker)
            return
        self._server, self.sent = server, self._next
        self._line = Line(world, self._receive, self.worker)
        server.followers.append(self)
        server.feed(self)

    def _retry(self) -> None:
        if self._server is None:
            self.redial()

    def lost(self) -> None:
        """The server is gone."""
        world = self.worker.world
        self._leave()
        world.after(world.fate.uniform(0.01, 0.5), self._retry, self.worker)

    def _leave(self) -> None:
        if self._line is not None:
            self._line.cut()
        if self._server is not None and self in self._server.followers:
            self._server.followers.remove(self)
        self._line = self._server = None

    def send(self, delta: Delta) -> None:
        """The server sends the delta from version `sent` on."""
        assert self._line is not None
        self.sent += 1
        self._line.send(delta)

    def _receive(self, delta: Delta) -> None:
        if delta.version == self._next and not self._over:
            self._next += 1
            self._deliver(_received(self.shard, delta))

    def outrun(self) -> None:
        """What follows on the version held is not retained any more."""
        self.close()
        world = self.worker.world
        world.after(0.0, lambda: self.worker.rejoin() if self.worker.alive else None, self.worker)

    def close(self) -> None:
        self._over = True
        self._leave()
        self._calls.forget(self)


def _received(shard: int, delta: Delta) -> received.Delta:
    outcomes = tuple(received.Outcome(o.unit, o.factor) for o in delta.outcomes)
    return received.Delta(
        shard,
        delta.version,
        b"",
        delta.step,
        delta.closes,
        delta.clock,
        delta.deposit,
        delta.final,
        delta.pause,
        delta.drain,
        outcomes,
    )
