"""A whole cluster on this machine: real processes, started, watched and ended together.

thread · owns · blocks on: the main thread runs one event loop and owns everything; it waits for the
next signal (SIGCHLD among them) or 0.1 s. What to do about an exit or an interrupt is decided by
`sparsync.supervision`; here it is carried out. Each process has a session of its own, so that a
Ctrl-C reaches only us, and ends with us (`sparsync.orphan_guard`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Coroutine
from typing import Any

import click

from sparsync.control import Control
from sparsync.launch_plan import (
    COORDINATOR,
    SPARSYNC,
    Launch,
    create_run,
    error_with_code,
    prepare_data,
    role_arguments,
    role_environment,
)
from sparsync.live import Display, EventTail, event_line, open_display, parse_event
from sparsync.plot import loss_svg, read_losses
from sparsync.report_lines import (
    continue_command,
    quoted,
    real_machine_lines,
    resume_command,
    sample_lines,
    steering_lines,
    summary_lines,
)
from sparsync.run_directory import RunDirectory, last_error, read_address, read_json, write_whole
from sparsync.supervision import (
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
    Supervisor,
    Tick,
    UserInterrupt,
    exit_order,
)
from wire.clock import monotonic_clock
from wire.config import DEFAULT, environment
from wire.errors import SparsyncError

TICK_S = 0.1
STATUS_EVERY_S = 0.5
STATUS_TIMEOUT_S = 2.0
LAST_LOOK_S = 1.0
STOP_TIMEOUT_S = 3.0


def train(launch: Launch, *, terminal: bool, json_out: bool) -> int:
    """Runs the cluster and reports; returns the exit code. `terminal`: standard output is one.

    Raises: the error that ended the run, with the log that tells more and how to resume.
    """
    kind = launch.config.telemetry.live
    if not launch.command:
        say_data(prepare_data(launch.config), quiet=kind == "off")
    create_run(launch)
    display = open_display(kind, terminal=terminal, json_out=json_out)
    try:
        for line in opening_lines(launch):
            display.note(line)
        cluster = asyncio.run(run_cluster(launch, display))
    finally:
        display.close()
    return finish(launch, cluster, json_out=json_out)


async def run_cluster(launch: Launch, display: Display) -> Cluster:
    """The cluster after its end."""
    cluster = Cluster(launch, display)
    await cluster.run()
    return cluster


# ── what is said before and after ───────────────────────────────────────────────────────────────


def say_data(prepared: dict[str, Any], *, quiet: bool) -> None:
    """One line about what is trained on."""
    if not quiet:
        tokens = f"{prepared['train_tokens']:,} training and {prepared['val_tokens']:,} validation tokens"
        click.echo(f"data       {prepared['source']}: {tokens}, digest {prepared['digest'][:16]}", err=True)


def opening_lines(launch: Launch) -> list[str]:
    """Where things are, and which values of the configuration are not the defaults."""
    config = launch.config
    values = config.model_dump()
    changed = [
        f"{key} = {_value(values, key)}  ({origin})"
        for key, origin in launch.loaded.origins.items()
        if origin != DEFAULT
    ]
    lines = [
        f"run        {launch.run.path.name}",
        f"directory  {quoted(launch.run.path)}",
        f"logs       {quoted(launch.run.logs)}",
        f"roles      1 coordinator, {config.cluster.servers} servers, {config.cluster.workers} workers",
    ]
    if launch.checkpoint is not None:
        lines.append(f"resumes    {quoted(launch.checkpoint.path)}")
    return lines + [f"{'config' if i == 0 else '':<9}  {text}" for i, text in enumerate(changed)]


def _value(values: dict[str, Any], key: str) -> object:
    section, _, name = key.partition(".")
    return values[section][name]


def finish(launch: Launch, cluster: Cluster, *, json_out: bool) -> int:
    """Writes summary and plot, tells the user, returns the exit code or raises what ended the run."""
    run, supervisor = launch.run, cluster.supervisor
    if run.events.exists():
        write_plot(run)
    if supervisor.failure is not None:
        raise run_error(launch, cluster)
    summary = complete_summary(run, restarts=supervisor.restarts)
    if summary is None and supervisor.exit_code == 0:
        raise SparsyncError(
            f"the run ended without {run.summary}, which the coordinator writes last; see {run.log(COORDINATOR)}"
        )
    if json_out and summary is not None:
        click.echo(json.dumps(summary))
    for line in closing_lines(launch, summary, interrupted=supervisor.exit_code != 0):
        click.echo(line, err=json_out)
    return supervisor.exit_code


def run_error(launch: Launch, cluster: Cluster) -> SparsyncError:
    """The failure as the error class of its exit code: who, what its log says last, where, and how to go on."""
    failure, run = cluster.supervisor.failure, launch.run
    assert failure is not None
    log = run.log(failure.process)
    said = last_error(log, since=cluster.log_start(failure.process))
    lines = [f"{failure.process} {failure.reason}: {said}", f"its log: {quoted(log)}"]
    if run.newest_checkpoint() is not None:
        lines.append(f"resume from the newest checkpoint: {resume_command(run.path)}")
    return error_with_code(failure.code)("\n".join(lines))


def complete_summary(run: RunDirectory, *, restarts: int) -> dict[str, Any] | None:
    """The coordinator's summary with what only the launcher knows, written back; None where there is none."""
    summary = read_json(run.summary)
    if summary is None:
        return None
    summary |= {"restarts": restarts, "out": str(run.path)}
    write_whole(run.summary, json.dumps(summary, indent=2) + "\n")
    return summary


def write_plot(run: RunDirectory) -> None:
    with run.events.open(encoding="utf-8", errors="replace") as lines:
        losses = read_losses(event for line in lines if (event := parse_event(line)) is not None)
    write_whole(run.plot, loss_svg(losses, title=f"{run.path.name}: loss by step"))


def closing_lines(launch: Launch, summary: dict[str, Any] | None, *, interrupted: bool) -> list[str]:
    """The end of the talk: figures, sample, plot, and what to do next."""
    run = launch.run
    lines = ["", *summary_lines(summary)] if summary is not None and summary.get("steps") else []
    if not interrupted and run.sample.exists():
        lines += [
            "",
            f"sample    {quoted(run.sample)}",
            *sample_lines(run.sample.read_text(encoding="utf-8")),
        ]
    if lines and run.plot.exists():
        lines.append(f"plot      {quoted(run.plot)}")
    return [*lines, "", *(interrupted_lines(run) if interrupted else next_lines(launch))]


def interrupted_lines(run: RunDirectory) -> list[str]:
    checkpoint = run.newest_checkpoint()
    if checkpoint is None:
        return ["interrupted; there is no checkpoint to resume from"]
    return [f"interrupted after step {checkpoint.step}; resume with:", f"  {resume_command(run.path)}"]


def next_lines(launch: Launch) -> list[str]:
    """How to train further, and how the same roles start on machines of their own."""
    config, run = launch.config, launch.run
    epochs = config.run.epochs
    length = ("run.steps", config.run.steps) if epochs is None else ("run.epochs", epochs)
    machines = real_machine_lines(
        config=run.config,
        servers=config.cluster.servers,
        workers=config.cluster.workers,
        command=[*launch.command],
    )
    return [
        "train it further:",
        f"  {continue_command(run.path, length=length)}",
        "the same roles on machines of their own:",
        *(f"  {line}" for line in machines),
    ]


# ── the cluster ─────────────────────────────────────────────────────────────────────────────────


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
            launch.roles, restarts=launch.config.cluster.restarts, first_step=first, now=self._clock.now()
        )

    async def run(self) -> None:
        """Returns when all processes are gone, however it came to that."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._wake.set)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted)
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
                self._display.note(text)
            case RequestStop(reason):
                self._spawn(self._request_stop(reason))
            case Send(number, processes):
                for name in processes:
                    self._send(name, number)

    # ── processes ───────────────────────────────────────────────────────────────────────────────

    def _start(self, process: str) -> None:
        address = self._control.address if self._control else None
        role, *arguments = role_arguments(self._launch, process, address=address)
        log = self._run.log(process)
        with log.open("ab") as file:
            self._log_starts[process] = file.tell()
            popen = subprocess.Popen(
                [*SPARSYNC, role, "--parent-pid", str(os.getpid()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=role_environment(self._launch, process, address=address, environ=environment()),
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
        return [Exited(name, code) for name, code in ended]

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
        """Asks for the status and shows it. No answer is no news: the process's exit is what counts."""
        if self._control is None:
            return
        try:
            status = await self._control.status(timeout_s=timeout_s)
        except SparsyncError:
            return
        self._events.append(Seen(status.get("state") or "", status.get("step") or 0))
        self._display.update(status, self._clock.now())

    async def _request_stop(self, reason: str) -> None:
        assert self._control is not None
        try:
            at_step = await self._control.stop(reason, timeout_s=STOP_TIMEOUT_S)
        except SparsyncError:
            self._events.append(StopAnswered(None))
        else:
            self._events.append(StopAnswered(at_step))
        self._wake.set()

    def _interrupted(self) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self._spawn(self._interrupt_after_a_look())
        else:
            self._events.append(UserInterrupt())
            self._wake.set()

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
                self._display.note(line)
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
