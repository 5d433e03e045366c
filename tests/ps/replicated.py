"""One shard with a primary and a standby, and their coordinator, message by message: a model that tests drive.

The primary is ps/replication.py and ps/watermark.py as they are. What is around them is as small as it can be: logs are
lists, connections are queues that lose what is in them when they break, and processes that die keep what is on their
disk. No two lives of a primary make the same records. The coordinator does what coordinator/standbys.py does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ps.news import InSync, Parted
from ps.owner import ANYBODY
from ps.replication import Copy, Image, Replication, Window
from ps.watermark import Watermark
from wire.errors import SparsyncError, StaleIncarnation, Unreachable


class Primary:
    """A primary's process. `disk`: the records of its log when it begins, behind an image of `imaged` of them."""

    def __init__(self, disk: list[bytes], imaged: int, tell: Callable[[object], None]) -> None:
        self.log = list(disk)
        self.durable = len(disk)
        self.watermark = Watermark()
        self.window = Window(imaged)
        for position in range(imaged + 1, len(disk) + 1):
            self.window.add(Copy(position, disk[position - 1]))
        self.replication = Replication(self.watermark, self.window, tell)
        self.watermark.written(self.durable)

    def apply(self, record: bytes) -> int:
        """One more record is applied and appended."""
        self.log.append(record)
        if self.replication.wanted:
            self.replication.offer(len(self.log), record)
        else:
            self.window.clear(len(self.log))
        return len(self.log)

    def write(self, records: int) -> None:
        """So many more are durable."""
        self.durable = min(self.durable + records, len(self.log))
        self.watermark.written(self.durable)
        self.replication.wake()

    async def image(self, before: Callable[[int], None]) -> Image:
        before(len(self.log))
        return Image(len(self.log), list(self.log))


class Standby:
    """A standby's process, and its disk.

    Attributes:
        log: the records that it has applied.
        durable: how many of them its disk holds.
        loaded: an image is in; what was there before this process began does not count.
    """

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.log: list[bytes] = []
        self.durable = 0
        self.loaded = False
        self.call: Call | None = None

    @property
    def disk(self) -> list[bytes]:
        """What it would serve, were it promoted."""
        return self.log[: self.durable]


class Call:
    """One call of a standby at a primary: what is on its way, in both directions."""

    def __init__(self, primary: Primary, standby: Standby) -> None:
        self.primary, self.standby = primary, standby
        self.down: deque[Image | Copy] = deque()
        self.up: deque[int] = deque()
        self.ended = ""
        self.number = primary.replication.begin(standby.incarnation)
        standby.durable = len(standby.log)  # it waits for its own disk first
        hello = standby.durable if standby.loaded else 0
        checksum = Copy(hello, standby.log[hello - 1]).checksum if hello else None
        self._task = asyncio.get_running_loop().create_task(self._pump(hello, checksum))

    async def _pump(self, hello: int, checksum: int | None) -> None:
        replication = self.primary.replication
        try:
            async for what in replication.records(self.number, hello, self.primary.image, checksum=checksum):
                self.down.append(what)
        except (StaleIncarnation, Unreachable) as error:
            self.ended = str(error)

    def take(self) -> None:
        """The standby takes what comes first."""
        what = self.down.popleft()
        standby = self.standby
        if isinstance(what, Image):
            standby.log, standby.durable = [bytes(record) for record in what.buffers], what.position
            standby.loaded = True
            self.up.append(standby.durable)
        else:
            assert standby.loaded, "a record for a standby that has nothing"
            assert what.position == len(standby.log) + 1, (what.position, len(standby.log))
            standby.log.append(what.payload)

    def acknowledge(self) -> None:
        """The standby's disk has what it applied."""
        self.standby.durable = len(self.standby.log)
        self.up.append(self.standby.durable)

    def hear(self) -> None:
        """The primary hears the first acknowledgement."""
        self.primary.replication.acknowledged(self.number, self.up.popleft())

    def end(self, *, told: bool = True) -> None:
        """The connection breaks; `told`: to the primary."""
        self._task.cancel()
        if self.standby.call is self:
            self.standby.call = None
        if told:
            self.primary.replication.broken(self.number, self.ended or "its connection broke")


class Line:
    """The coordinator's line to one process of the primary."""

    def __init__(self, recorded: int) -> None:
        self.recorded = recorded
        self.here = False
        """The primary has told its state."""
        self.commands: deque[tuple[str, int]] = deque()
        self.events: deque[object] = deque()


class World:
    """All of it.

    Attributes:
        revealed: the records that somebody outside has seen, of all times.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.revealed: list[bytes] = []
        self.in_sync = False
        """What the coordinator's journal says."""
        self.leaving = 0
        """The standby that the primary was told to wait for no more, until it answers."""
        self.incarnation = 7
        self.standby = Standby(self.incarnation)
        self.line: Line | None = None
        self._attached: Line | None = None
        self.primary: Primary | None = None
        self.disk: list[bytes] = []
        self._records = 0
        self._begun = False
        self.start_primary()

    def close(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.run(lambda: None)
        self.loop.close()

    def run(self, act: Callable[[], object]) -> None:
        """Do something on the event loop, and everything that follows from it."""

        async def whole() -> None:
            act()
            for _ in range(4):
                await asyncio.sleep(0)

        self.loop.run_until_complete(whole())

    # --- the primary -------------------------------------------------------------------------

    def start_primary(self, imaged: int = 0) -> None:
        """On what its disk holds; it serves once the coordinator says so."""
        self.primary = Primary(self.disk, imaged, self._tell)
        if self._begun:
            self.primary.watermark.wait_for(ANYBODY, 0)
            self.primary.replication.want()
        self._begun = True
        self._attached = None

    def kill_primary(self, kept: int) -> None:
        """kill -9: its disk has at least what was durable, and `kept` more of the records that were applied.

        Negative: the power fails, at level `os`: so many fewer, but for what anybody has seen.
        """
        primary = self._primary()
        self.disk = primary.log[: max(primary.durable + kept, len(self.revealed))]
        if self.standby.call is not None:
            self.standby.call.end(told=False)
        self.primary, self.line = None, None

    def apply(self) -> None:
        primary = self._primary()
        self._records += 1
        self._reveal_later(primary, primary.apply(b"%d" % self._records))

    def _reveal_later(self, primary: Primary, position: int) -> None:
        """Everything up to there is shown when that is safe."""

        def reveal() -> None:
            shown = primary.log[:position]
            common = min(len(shown), len(self.revealed))
            assert shown[:common] == self.revealed[:common], "a position has two contents"
            self.revealed = max(shown, self.revealed, key=len)
            self.check()

        primary.watermark.when(position, reveal)

    def _primary(self) -> Primary:
        assert self.primary is not None
        return self.primary

    def _tell(self, news: object) -> None:
        if self._attached is not None:
            self._attached.events.append(news)

    # --- the coordinator ---------------------------------------------------------------------

    def dial(self) -> None:
        self.leaving = 0  # the word is lost with the line, and the next one begins with what is recorded
        self.line = Line(self.incarnation if self.in_sync else 0)
        self.line.commands.append(("attach", self.line.recorded))

    def obey(self) -> None:
        """The primary takes the first command."""
        assert self.line is not None
        line, replication = self.line, self._primary().replication
        what, standby = line.commands.popleft()
        if what == "alone":
            line.events.append((what, standby))
            replication.alone(standby)
            return
        self._attached = line
        replication.recorded(standby)
        primary = self._primary()
        position = len(primary.log)

        def tell() -> None:
            now = replication.in_sync
            line.events.append(("state", now))
            if now:
                line.events.append(InSync(now))

        self._reveal_later(primary, position)
        primary.watermark.when(position, tell)

    def listen(self) -> None:
        """The coordinator takes the first event."""
        assert self.line is not None
        match self.line.events.popleft():
            case ("state", standby):
                self.line.here = True
                if self.in_sync and standby != self.incarnation:
                    self.part()
            case ("alone", standby):
                if self.leaving == standby:
                    self.leaving = 0
            case InSync(standby) if self.line.here:
                if standby != self.incarnation:
                    self._alone(standby)
                elif self.leaving != standby:
                    self.in_sync = True
            case Parted(standby):
                if standby != self.incarnation:
                    self._alone(standby)
                elif self.in_sync:
                    self.part()
                elif self.leaving != standby:
                    self._alone(standby)
        self.check()

    def part(self) -> None:
        """Journal that the standby is not in sync, then say so."""
        self.in_sync = False
        self._alone(self.incarnation)

    def _alone(self, standby: int) -> None:
        self.leaving = standby
        if self.line is not None:
            self.line.commands.append(("alone", standby))

    def replace_standby(self) -> None:
        """The standby is given up and dies; another process, which has nothing, is told to stand by."""
        if self.in_sync:
            self.part()
        self.break_call()
        self.incarnation += 1
        self.standby = Standby(self.incarnation)

    # --- the standby -------------------------------------------------------------------------

    def call(self) -> None:
        older = self.standby.call
        try:
            self.standby.call = Call(self._primary(), self.standby)
        except SparsyncError:
            return
        if older is not None:
            older.end()

    def take_all(self) -> None:
        """The standby takes and acknowledges what is there."""
        call = self.standby.call
        while call is not None and call.down:
            call.take()
            call.acknowledge()

    def break_call(self) -> None:
        if self.standby.call is not None:
            self.standby.call.end()

    def restart_standby(self) -> None:
        """kill -9, and the same server again on its disk."""
        self.break_call()
        self.standby.log, self.standby.loaded = self.standby.disk, False

    def promote(self) -> None:
        """The primary is gone for good; the standby serves what it has, and another one stands by."""
        assert self.in_sync
        if self.primary is not None:
            self.kill_primary(0)
        held = self.standby.disk
        assert held[: len(self.revealed)] == self.revealed
        self.disk, self.in_sync, self.leaving = held, False, 0
        self.incarnation += 1
        self.standby = Standby(self.incarnation)
        self.start_primary(imaged=len(held))
        self._primary().watermark.wait_no_more(ANYBODY)

    # --- laws --------------------------------------------------------------------------------

    def check(self) -> None:
        """Whoever may be promoted holds all that was ever revealed."""
        if self.in_sync:
            held = self.standby.disk[: len(self.revealed)]
            assert held == self.revealed, f"in sync with {held}, revealed was {self.revealed}"

    def settle(self) -> None:
        """Everything that is on its way arrives, until nothing is; the standby calls where it can."""
        for _ in range(400):
            self.run(self.one_round)
            if self._settled:
                return
        raise AssertionError(f"what is on its way never arrives: {vars(self)}")

    @property
    def _settled(self) -> bool:
        """Everything is revealed, and the standby in sync, in the eyes of all."""
        primary, line, call = self._primary(), self.line, self.standby.call
        quiet = not (line and (line.commands or line.events)) and not (call and (call.up or call.down))
        agreed = self.in_sync and primary.replication.in_sync == self.incarnation
        return quiet and agreed and self.revealed == primary.log

    def one_round(self) -> None:
        if self.primary is None:
            self.start_primary()
        if self.line is None:
            self.dial()
        assert self.line is not None
        self._primary().write(len(self._primary().log))
        if self.line.commands:
            self.obey()
        if self.line.events:
            self.listen()
        self._round_of_standby()

    def _round_of_standby(self) -> None:
        call = self.standby.call
        if call is None or call.ended:
            if call is not None:
                call.end()
            self.call()
        elif call.down:
            call.take()
            call.acknowledge()
        elif self.standby.durable < len(self.standby.log):
            call.acknowledge()
        elif call.up:
            call.hear()


@contextmanager
def world() -> Iterator[World]:
    made = World()
    try:
        yield made
    finally:
        made.close()
