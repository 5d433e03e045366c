"""A whole cluster on this machine: real processes, started, watched and ended together.

thread · owns · blocks on: the main thread runs one event loop and owns everything; it waits for the
next signal (SIGCHLD among them) or 0.1 s. What to do about an exit or an interrupt is decided by
`sparsync.supervision`; here it is carried out. Each process has a session of its own, so that a
Ctrl-C reaches only us, and ends with us (`sparsync.orphan_guard`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
import subprocess
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from sparsync.cluster_events import (
    Action,
    Event,
    Exited,
    Joined,
    RequestStop,
    Say,
    Seen,
    Send,
    Serving,
    Start,
    StopAnswered,
    Tick,
    UserInterrupt,
)
from sparsync.control import Control
from sparsync.exits import exit_order
from sparsync.launch_plan import (
    COORDINATOR,
    SPARSYNC,
    Launch,
    forget_shards,
    role_arguments,
    role_environment,
)
from sparsync.live import Display, EventTail, event_line
from sparsync.report_lines import steering_lines
from sparsync.run_directory import read_address, read_json
from sparsync.supervision import Supervisor
from wire import crash
from wire.clock import Deadline, monotonic_clock
from wire.config import environment
from wire.errors import SparsyncError, Unreachable, UsageError, by_name

TICK_S = 0.1
STATUS_EVERY_S = 0.5
STATUS_TIMEOUT_S = 2.0
LAST_LOOK_S = 1.0
STOP_TIMEOUT_S = 3.0
STOP_AGAIN_S = 0.2


class Cluster:
    """Runs a `Launch` until no process of it is left."""

    def __init__(self, launch: Launch, display: Display) -> None:
        self._launch = launch
        self._run = launch.run
        self._display = display
        self._clock = monotonic_clock
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log_starts: dict[str, int] = {}
        self._events: list[Event] = []
        self._interrupts = 0
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: BaseException | None = None
        self._control: Control | None = None
        self._tail = EventTail(launch.run.events)
        first = launch.checkpoint.step if launch.checkpoint else 0
        self.supervisor = Supervisor(
            launch.roles,
            restarts=launch.config.cluster.restarts,
            first_step=first,
            now=self._clock.now(),
            shards=launch.config.cluster.servers,
            durable=launch.durable,
        )

    async def run(self) -> None:
        """Returns when all processes are gone, however it came to that."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._wake.set)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        try:
            self._start(COORDINATOR)
            while not self.supervisor.ended:
                await self._turn()
            self._show_events()
        finally:
            self._kill_everything()
            await self._close()

    async def _turn(self) -> None:
        if self._broken is not None:
            raise self._broken
        self._look_for_address()
        names = {popen.pid: name for name, popen in self._processes.items()}
        ended = self._reap()
        seen = self._show_events()  # after the exits: all that a coordinator wrote before its own is there
        joins: list[Event] = [Joined(names[pid]) for pid in seen if pid in names]
        events, self._events = [*self._events, *joins, *ended], []
        for event in [*events, Tick()]:
            for action in self.supervisor.handle(event, self._clock.now()):
                self._act(action)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), TICK_S)
        self._wake.clear()

    def _act(self, action: Action) -> None:
        match action:
            case Start(process):
                self._start(process)
            case Say(text):
                self._show(lambda: self._display.note(text))
            case RequestStop(reason):
                self._spawn(self._request_stop(reason))
            case Send(number, processes):
                for name in processes:
                    self._send(name, number)

    # ── processes ───────────────────────────────────────────────────────────────────────────────

    def _start(self, process: str) -> None:
        address = self._control.address if self._control else None
        role, *arguments = role_arguments(self._launch, process, address=address)
        environ = role_environment(self._launch, process, address=address, environ=environment())
        if process in self._log_starts:  # a crash point kills a process once, not all that come after it
            environ.pop(crash.VARIABLE, None)
        log = self._run.log(process)
        with log.open("ab") as file:
            self._log_starts[process] = file.tell()
            popen = subprocess.Popen(
                [
                    *self._launch.place(process).within,
                    *SPARSYNC,
                    role,
                    "--parent-pid",
                    str(os.getpid()),
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environ,
                start_new_session=True,
            )
        self._processes[process] = popen

    def _look_for_address(self) -> None:
        """Starts the other roles as soon as the coordinator says where it serves."""
        if self._control is not None or COORDINATOR not in self._processes:
            return
        address = read_address(self._run)
        if address is None:
            return
        self._control = Control(address, self._launch.security)
        self._display.note(f"address    {address}")
        for i, line in enumerate(steering_lines(self._run.path)):
            self._display.note(f"{'' if i else 'steer':<11}{line}")
        self._events.append(Serving())
        forget_shards(self._launch)
        for process in self._launch.roles:
            if process != COORDINATOR:
                self._start(process)
        self._spawn(self._watch())

    def _reap(self) -> list[Event]:
        """The processes that ended, those that tell the cause first."""
        codes = {name: popen.poll() for name, popen in self._processes.items()}
        ended = [(name, code) for name, code in codes.items() if code is not None]
        roles = self._launch.roles
        ended.sort(key=lambda e: exit_order(roles[e[0]], e[1]))
        for name, _ in ended:
            self._sweep(self._processes.pop(name))
        return [Exited(name, self._of_the_run(name, code)) for name, code in ended]

    def _of_the_run(self, process: str, code: int) -> int:
        """A coordinator that finds its run over when it is started again was killed behind the end: as that was."""
        if process != COORDINATOR or code != UsageError.exit_code or not self.supervisor.restarts_of(process):
            return code
        ended = read_json(self._run.summary)
        return code if ended is None else by_name(ended["error"]).exit_code if ended["error"] else 0

    def _send(self, process: str, number: signal.Signals) -> None:
        popen = self._processes.get(process)
        if popen is None:
            return
        if number == signal.SIGKILL:
            self._sweep(popen)
        else:
            popen.send_signal(number)

    def _sweep(self, popen: subprocess.Popen[bytes]) -> None:
        """Kills a process's whole session: its heartbeat, its data loaders."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)

    def _kill_everything(self) -> None:
        for popen in self._processes.values():
            self._sweep(popen)
            popen.wait()
        self._processes.clear()

    # ── the coordinator ─────────────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        while True:
            await self._look(STATUS_TIMEOUT_S)
            await asyncio.sleep(STATUS_EVERY_S)

    async def _look(self, timeout_s: float) -> None:
        """Asks for the status and shows it. No answer is no news: a coordinator that died is started again."""
        if self._control is None:
            return
        try:
            status = await self._control.status(timeout_s=timeout_s)
        except SparsyncError:
            return
        self._events.append(Seen(status.get("state") or "", status.get("step") or 0))
        self._show(lambda: self._display.update(status, self._clock.now()))

    async def _request_stop(self, reason: str) -> None:
        """Asks for the end; again where the coordinator is being started again just now."""
        assert self._control is not None
        deadline, at_step = Deadline(self._clock, STOP_TIMEOUT_S), None
        while at_step is None and not deadline.passed:
            try:
                at_step = await self._control.stop(reason, timeout_s=deadline.remaining())
            except Unreachable:
                await asyncio.sleep(min(STOP_AGAIN_S, deadline.remaining()))
            except SparsyncError:
                break
        self._events.append(StopAnswered(at_step))
        self._wake.set()

    def _interrupted(self) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self._spawn(self._interrupt_after_a_look())
        else:
            self._events.append(UserInterrupt())
            self._wake.set()

    def _show(self, show: Callable[[], None]) -> None:
        """Tell the user something; where nobody is there any more, that is the end of the terminal, told or not."""
        try:
            show()
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                raise
            self._hung_up()

    def _hung_up(self) -> None:
        """The terminal is gone, or the reader of a pipe: an interrupt, if none was; what is shown is shown nowhere."""
        with open(os.devnull, "wb") as nowhere:
            for shown in filter(_is_dead, (1, 2)):
                os.dup2(nowhere.fileno(), shown)
        if not self._interrupts:
            self._interrupted()

    async def _interrupt_after_a_look(self) -> None:
        """Whether a step is closed decides what an interrupt does, so the newest status comes first."""
        await self._look(LAST_LOOK_S)
        self._events.append(UserInterrupt())
        self._wake.set()

    def _show_events(self) -> list[int]:
        """Tells the user what has happened; the process ids of those that joined."""
        events = self._tail.read()
        for event in events:
            if line := event_line(event):
                self._show(partial(self._display.note, line))
        return [event["pid"] for event in events if event.get("event") == "joined"]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error
            self._wake.set()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._control is not None:
            await self._control.close()

    def log_start(self, process: str) -> int:
        """Where the newest process of this name began to write its log."""
        return self._log_starts.get(process, 0)


def _is_dead(shown: int) -> bool:
    """Whether nobody will ever read what is written there."""
    look = select.poll()
    look.register(shown, select.POLLOUT)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in look.poll(0))
