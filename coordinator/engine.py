"""The engine: hands events to the core and does what it says, in order, on one event loop.

| what                    | owned by                  | blocks on                    |
|-------------------------|---------------------------|------------------------------|
| core, state, journal    | the event loop            | fsync of the journal (ms)    |
| a full disk             | one task (`stall`)        | room for the journal         |
| lines (`switchboard`)   | one task each             | the servers                  |
| orders to the workers   | one queue each            | nothing: unbounded, tiny     |
| a checkpoint, a restore | one task each (`keeping`) | the servers, the disk        |
| older checkpoints       | one task (`retention`)    | the disk, in threads         |
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from coordinator import actions as a
from coordinator import events as e
from coordinator.accounts import Accounts
from coordinator.core import Core
from coordinator.event_log import EventLog, in_steps
from coordinator.journal import FULL_RETRY_S, Journal
from coordinator.keeping import Keeping
from coordinator.pictures import Pictures
from coordinator.records import (
    Admitted,
    Closed,
    Counted,
    Departed,
    Dismissed,
    Promoted,
    Record,
    Stood,
    Uploading,
)
from coordinator.shards import ShardLine
from coordinator.stall import Stall
from coordinator.state import State
from coordinator.switchboard import Switchboard
from coordinator.tensorboard import Board
from coordinator.worker_messages import event_of, message_of
from wire import trace
from wire.clock import Clock, Deadline
from wire.config import Config
from wire.crash import crash_point
from wire.errors import Busy, DamagedFile, PermissionRefused, SparsyncError, StaleIncarnation, Unreachable
from wire.metrics import Distribution
from wire.rounds import Rounds
from wire.rpc.access import InRun, check_owner
from wire.rpc.identity import Peer, Security
from wire.v1 import coordinator_pb2

log = logging.getLogger(__name__)
TICK_S = 0.1
LATE_S = 1.0
FINISH_S = 5.0
"""A server may take so long to hear of the end."""

ROLES = Uploading | Stood | Promoted | Departed
"""Records by which somebody is to do what others may not, or is to do it no more."""

Orders = asyncio.Queue[coordinator_pb2.WorkerOrder | None]


class Engine:
    """The acting half of a coordinator."""

    def __init__(
        self,
        core: Core,
        *,
        config: Config,
        out: Path,
        journal: Journal,
        events: EventLog,
        security: Security,
        clock: Clock,
    ) -> None:
        self._core = core
        self.config = config
        self.out = out
        self.address = ""
        self.security = security
        self.clock = clock
        self.accounts = Accounts({m.incarnation: m.told for m in core.state.members.values() if m.told})
        self.pictures = Pictures(Board(out / "tensorboard"), core, self.accounts)
        self.switchboard = Switchboard(lambda: self.state, self._line, self._spawn)
        self.started = clock.now()
        self.finished = asyncio.Event()
        self._alone = asyncio.Event()
        self._journal = journal
        self._durable = asyncio.Event()
        """All that was decided is in the journal."""
        self._durable.set()
        self._stall: Stall | None = None
        self._events = events
        self.failure: SparsyncError | None = None
        """Why this process ends though the run goes on: another coordinator decides, or nothing can be journaled."""
        self.away = False
        """This process ends because it was asked to, and leaves the run as it is."""
        self._keeping = Keeping(
            out / "checkpoints",
            config,
            core,
            primaries=lambda: self.switchboard.primaries,
            spawn=self._spawn,
            hear=self.hear,
            tell=events.write,
        )
        self._orders: dict[int, Orders] = {}
        self._answers: dict[str, asyncio.Future[object]] = {}
        self._keys = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open_since = 0.0
        """When the open step became that, where spans are told."""
        self.tick_lag_s = Distribution()
        """How late the ticks came."""
        self.revoked: Callable[[], bytes] = bytes
        """The lists of revoked certificates, as every server is told."""
        self.worked_before_s = 0.0
        """Seconds that the run was at work under earlier coordinators."""
        self._acts: dict[type, Callable[[Any], object]] = {
            a.Answer: self._answer,
            a.Tell: self._tell,
            a.Command: lambda act: self.switchboard.command(act.shard, act.command),
            a.CommandServer: lambda act: self.switchboard.send(act.incarnation, act.command),
            a.OpenShards: lambda act: self.switchboard.dial_all(),
            a.Dial: lambda act: self.switchboard.dial(act.incarnation),
            a.Dismiss: lambda act: self.switchboard.dismiss(act.incarnation, act.reason),
            a.RestoreShards: lambda act: self._keeping.begin_restore(),
            a.WriteCheckpoint: lambda act: self._keeping.begin(act.step),
            a.Abdicate: lambda act: self._give_up(StaleIncarnation(act.reason)),
            a.Note: lambda act: self._events.write(act.event, in_steps(act.event, act.fields, self.rounds)),
            a.Quit: lambda act: self.finished.set(),
        }

    @property
    def state(self) -> State:
        return self._core.state

    @property
    def rounds(self) -> Rounds:
        """Which steps belong to a round: whatever people are told counts steps."""
        return self._core.desk.rounds

    @property
    def journal(self) -> Journal:
        return self._journal

    @property
    def core(self) -> Core:
        return self._core

    # --- events in -----------------------------------------------------------------------

    def hear(self, event: e.Event) -> None:
        """Hand `event` to the core and do what it decides.

        While the disk is full the event waits, with everything that was decided and not told.

        Raises: StaleIncarnation when the event came from a process that is not in the run.
        """
        if self.failure is not None or self.away:
            return
        if self._stall is not None:
            self._stall.hear(event)
        else:
            self.carry_out(self._core.handle(event, self.clock.now()))

    def carry_out(self, actions: Sequence[a.Action]) -> None:
        """Make all that was decided durable at once, then tell it: the journal never holds a part of an event."""
        if not actions:
            self._look_around()
            return
        began = trace.begin()
        for action in actions:
            if isinstance(action, a.Journal):
                self._journal.append(action.record)
        written = self._try_commit()
        if written is False:
            self._stall = Stall(actions, self.clock.now())
            self._spawn(self._wait_for_room(self._stall))
        elif written:
            self._reveal(actions)
        for action in actions if began else ():
            if isinstance(action, a.Journal) and isinstance(action.record, Closed):
                self._trace_step(action.record, began)

    def _trace_step(self, closed: Closed, began: float) -> None:
        """A step has closed, which was open since the one before it closed."""
        trace.done("close", began, step=closed.step, units=len(closed.streams) + len(closed.late))
        trace.done("step", self._open_since or began, track="steps", step=closed.step, loss=closed.loss)
        self._open_since = trace.begin()

    def _try_commit(self) -> bool | None:
        """Whether the journal had room; None: it is broken, and this process ends."""
        self._durable.clear()
        try:
            written = self._journal.try_commit()
        except sqlite3.Error as error:
            self._give_up(
                DamagedFile(f"{self._journal.path} cannot be written ({error}); the run has not ended")
            )
            return None
        if written:
            self._durable.set()
        return written

    def _reveal(self, actions: Sequence[a.Action]) -> None:
        """Tell what was decided, and is durable."""
        for action in actions:
            if isinstance(action, a.Journal):
                self._show(action.record)
                self._introduce(action.record)
        for action in actions:
            if not isinstance(action, a.Journal):
                self._acts[type(action)](action)
        self._look_around()

    def _look_around(self) -> None:
        """After the end: whether everybody has gone."""
        if self.finished.is_set() and not self._core.lingering():
            self._alone.set()

    @property
    def stalled(self) -> str:
        """Why nothing can be decided, or empty."""
        return self._journal.full if self._stall is not None else ""

    async def _wait_for_room(self, stall: Stall) -> None:
        """Tell what was decided once it is durable, then hear what came meanwhile; that time was nobody's silence."""
        log.error("%s", self._journal.full)
        while (written := self._try_commit()) is False:  # noqa: ASYNC110
            await asyncio.sleep(FULL_RETRY_S)
        if not written:
            return
        self._stall = None
        late_s = self.clock.now() - stall.since
        log.warning("the journal is written again, after %.1f s", late_s)
        self._reveal(stall.actions)
        for event in (e.Tick(late_s), *stall.heard):
            try:
                self.hear(event)
            except SparsyncError as error:
                log.info("heard while the disk was full, of no use any more: %s", error)

    def end(self) -> None:
        """This process is asked to end: the run stops after the open step; at once where nothing can be journaled."""
        if self._stall is not None:
            self._give_up(
                Busy(f"asked to end; {self.stalled}, once a coordinator is started on its directory")
            )
        else:
            self.hear(e.StopAsked("", "the coordinator was asked to end"))

    def go_away(self) -> None:
        """This process is asked to go, the run is not: a coordinator that is started on its directory continues it."""
        log.info("this coordinator goes; the run waits for the next one")
        self.away = True
        self._hang_up("the coordinator goes away, the run goes on with the next one")

    def _give_up(self, failure: SparsyncError) -> None:
        """Decide nothing, tell nothing any more: what is not journaled is not decided, and the run is not over."""
        log.error("this coordinator ends: %s", failure)
        self.failure = failure
        self._hang_up(f"the coordinator ends: {failure}")

    def _hang_up(self, reason: str) -> None:
        """Whoever waits for an answer gets none here."""
        for future in self._answers.values():
            if not future.done():
                future.set_exception(Unreachable(reason))
        self.finished.set()

    async def dismissed(self) -> None:
        """Everybody who could be told of the end was told; nobody comes back to this run."""
        self._journal.append(Dismissed())
        while not self._journal.try_commit():  # noqa: ASYNC110
            await asyncio.sleep(FULL_RETRY_S)
        crash_point("coordinator.dismissed.after")

    async def ask(self, make: Callable[[str], e.Event]) -> object:
        """Hear the event that `make(key)` builds and wait for the answer under that key.

        Raises: the SparsyncError that the core answers with; Busy while nothing can be decided.
        """
        self._check_room()
        key = str(next(self._keys))
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._answers[key] = future
        try:
            self.hear(make(key))
            return await future
        finally:
            self._answers.pop(key, None)

    def _check_room(self) -> None:
        if self._stall is not None:
            raise Busy(self.stalled)

    def report(self, incarnation: int, report: coordinator_pb2.WorkerReport) -> None:
        """A worker's report."""
        account = self.accounts.of(incarnation)
        match report.WhichOneof("report"):
            case "ready":
                account.activity = "ready"
            case "announce":
                account.activity = report.announce.activity
            case "progress":
                self.accounts.report(incarnation, report.progress, self.clock.now())
            case "scalars":
                values = dict(report.scalars.values)
                self._events.write("scalars", {"step": report.scalars.step, **values})
                self.pictures.draw_users(report.scalars.step, values, self.clock.now())
        if (event := event_of(incarnation, report)) is not None:
            self.hear(event)

    def attach(self, incarnation: int) -> Orders:
        """A worker's line is open; orders go into the queue from now on. An older line of it ends.

        Raises: StaleIncarnation; Busy while nothing can be decided.
        """
        self._check_room()
        older = self._orders.get(incarnation)
        orders: Orders = asyncio.Queue()
        self._orders[incarnation] = orders
        try:
            self.hear(e.Attending(incarnation))
        except SparsyncError:
            self.detach(incarnation, orders)
            raise
        if older is not None:
            older.put_nowait(None)
        return orders

    def check_own(self, peer: Peer, incarnation: int) -> None:
        """Whether `peer` is who goes, or went, by this incarnation. Raises: PermissionRefused."""
        member = self.state.members.get(incarnation)
        if member is not None:
            check_owner(peer, incarnation, role=member.role, name=member.name)

    def check_held(self, peer: Peer, held: InRun, incarnation: int) -> None:
        """Whether a server may go on as who it says that it was, while the run counts on that one.

        Its name may be another one than it was; its certificate covers both. Raises: PermissionRefused.
        """
        member = (
            self.state.members.get(incarnation) if held == (self.state.run, self.state.timeline) else None
        )
        counts = member is not None and member.role == "ps" and member.present
        if member is None or not counts or peer.covers(member.name):
            return
        raise PermissionRefused(
            f"{peer} brings the shard of server {member.name!r} (incarnation {incarnation}), whose name its "
            "certificate does not cover; start it with that one's certificate, or with an empty --data-dir"
        )

    def check_present(self, incarnation: int) -> None:
        """Raises: StaleIncarnation where nobody in the run goes by it."""
        self._core.desk.worker(incarnation)

    async def run(self) -> InRun:
        """What is served here."""
        return InRun(self.state.run, self.state.timeline)

    def detach(self, incarnation: int, orders: Orders) -> None:
        if self._orders.get(incarnation) is orders:
            del self._orders[incarnation]

    # --- actions out ---------------------------------------------------------------------

    def _show(self, record: Record) -> None:
        """What a record adds to rates and pictures."""
        now = self.clock.now()
        if isinstance(record, Closed | Counted):
            self.accounts.settled(self.state.totals.tokens, now)
        self.pictures.draw(record, now)

    def _introduce(self, record: Record) -> None:
        """Tell the servers who is who before anybody hears that he joined, or is asked to upload or to stand by."""
        members = [self.state.members[record.incarnation]] if isinstance(record, Admitted) else []
        if members or isinstance(record, ROLES):
            self.switchboard.introduce(members)

    def _answer(self, action: a.Answer) -> None:
        future = self._answers.get(action.key)
        if future is None or future.done():
            return
        if isinstance(action.value, SparsyncError):
            future.set_exception(action.value)
        else:
            future.set_result(action.value)

    def _tell(self, action: a.Tell) -> None:
        if isinstance(action.order, a.Plan) and action.order.first:
            self.switchboard.choose_evaluator(action.incarnation)
        orders = self._orders.get(action.incarnation)
        if orders is not None:
            orders.put_nowait(
                message_of(
                    action.order,
                    self.rounds,
                    first_step=self.state.segment.step,
                    handed=self.state.handed_here,
                )
            )

    def _line(self, incarnation: int, evaluator: Callable[[], int]) -> ShardLine:
        return ShardLine(
            incarnation,
            self.state,
            security=self.security,
            hear=self.hear,
            seq=lambda: self._journal.durable,
            durable=self._until_durable,
            revoked=lambda: self.revoked(),
            evaluator=evaluator,
            clock=self.clock,
        )

    async def _until_durable(self) -> None:
        """Wait until the state holds nothing that a restart would take back: only then may anybody be told of it."""
        while not self._durable.is_set():
            await self._durable.wait()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        """Nobody waits for a task: one that failed, or was cut short though nobody asked for that, ends the run."""
        self._tasks.discard(task)
        if task.cancelled() and task.cancelling():
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            log.error("a task of the coordinator failed", exc_info=error)
            self.hear(e.ShardRefused(0, "SparsyncError", f"internal error: {error!r}"))

    async def tick(self, *, taken: Callable[[], None] = lambda: None) -> None:
        """Tell the core that time passes, until cancelled. `taken` is called when it has taken that in.

        A tick that comes late was held up with everything else (a slow disk, a stopped process): what arrived
        meanwhile, heartbeats above all, is still unread, so that time is nobody's silence.
        """
        while True:
            due = self.clock.now() + TICK_S
            await asyncio.sleep(TICK_S)
            late_s = self.clock.now() - due
            self.tick_lag_s.observe(late_s)
            self.hear(e.Tick(late_s if late_s >= LATE_S else 0.0))
            taken()

    async def farewell(self, limit_s: float) -> None:
        """Wait until every worker has closed its heartbeat stream after the end, at most `limit_s`.

        Where the end was decided by an earlier coordinator the servers may not have heard of it either.
        """
        deadline = Deadline(self.clock, limit_s)
        if self._core.lingering():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._alone.wait(), limit_s)
        await self.switchboard.farewell(min(deadline.remaining(), FINISH_S))

    async def close(self) -> None:
        await self._keeping.settled()
        for task in list(self._tasks):
            task.cancel()
        await self.switchboard.close()
        self._journal.close()
        self._events.close()
        self.pictures.close()
