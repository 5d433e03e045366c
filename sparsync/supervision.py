"""What the launcher does when a process ends or the user interrupts: a pure state machine.

`Supervisor.handle(event, now)` returns the actions; it starts nothing, reads no clock and knows no
process but by name. A process that dies is started again, within `cluster.restarts`: workers join anew,
the coordinator goes on from its journal, a server from its log; where there is no log, and no second server
of the shard, the loss of a server ends the run. An exit code in `FINAL` is an error that a restart would meet
again. Every path ends with all processes gone: an end is first asked for, then SIGTERM, then SIGKILL,
each with its own deadline. Times are seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from signal import SIGKILL, SIGTERM, Signals

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
from sparsync.exits import CRASHED, FENCED, FINAL, KNOWN, ORDERLY, TELLING, Role, describe_exit
from sparsync.restarts import Restarts
from wire.errors import Interrupted, ScriptFailed, ServerLost, SparsyncError, Unreachable

START_LIMIT_S = 30.0
"""For the coordinator to say where it serves."""
STOP_LIMIT_S = 7.0
"""From asking for the end, or from the end of somebody who is needed for it, to SIGTERM."""
CHECKPOINT_LIMIT_S = 900.0
"""The same, where the coordinator has answered: for the open step, however long it takes, and its checkpoint."""
TERM_LIMIT_S = 2.5
"""From SIGTERM to SIGKILL."""
OWN_END_LIMIT_S = 3.0
"""For the others to end by themselves after the coordinator or a server has died."""
SERVER_END_LIMIT_S = 10.0
"""For a server to end after the coordinator has ended well."""
WORKER_END_LIMIT_S = 600.0
"""For what a script does after its loop."""
DESERTED_LIMIT_S = 15.0
"""For the coordinator to end the run after its last worker has left."""
QUIET_END_LIMIT_S = 2.0
"""For the coordinator to say that the run is over, after a server ended as if it were."""
UNDER_WAY = ("waiting", "running")
"""States of a run that is not about to end."""


class Phase(Enum):
    """How far the run is, for the supervisor."""

    RUNNING = "running"
    STOPPING = "stopping"  # the end was asked for
    CLOSING = "closing"  # the coordinator ended well, the others are about to
    TERMINATING = "terminating"  # SIGTERM was sent
    KILLING = "killing"  # SIGKILL was sent


@dataclass(frozen=True)
class Failure:
    """Why the run ends badly. `process`: whose log tells more; `reason`: in words."""

    code: int
    process: str
    reason: str


class Supervisor:
    """Decides for one cluster of `roles` (process name -> role), of which the coordinator runs from the start.

    Args:
        first_step: that the run starts from (of the checkpoint; 0 for a new run).
        shards: that the servers serve.
        durable: a server that is started again has its shard, or another one has.
    """

    def __init__(
        self,
        roles: dict[str, Role],
        *,
        restarts: int,
        first_step: int,
        now: float,
        shards: int,
        durable: bool,
    ) -> None:
        self._roles = roles
        self._alive = {name for name, role in roles.items() if role == "coordinator"}
        self._restarts = Restarts(roles, limit=restarts)
        self._shards = shards
        self._durable = durable
        self._first_step = first_step
        self._step = first_step
        self._state = ""
        self._ended_quietly: dict[str, tuple[int, float]] = {}
        self._outside: set[str] = set()
        self._serving = False
        self._serves_by: float | None = None
        self._deserted_at: float | None = None
        self._servers_end_at: float | None = None
        self._deadline = now + START_LIMIT_S
        self.phase = Phase.RUNNING
        self.failure: Failure | None = None
        self.interrupted = False
        self.stopped = False

    @property
    def restarts(self) -> int:
        """Restarts so far, of all processes together."""
        return self._restarts.total

    def restarts_of(self, process: str) -> int:
        """Restarts so far of one process."""
        return self._restarts.of(process)

    @property
    def ended(self) -> bool:
        """No process is left, and none will be started."""
        return not self._alive and not self._restarts.waiting

    @property
    def exit_code(self) -> int:
        """How `sparsync train` ends; meaningful once `ended`."""
        if self.failure:
            return self.failure.code
        return Interrupted.exit_code if self.interrupted or self.stopped else 0

    def handle(self, event: Event, now: float) -> list[Action]:
        """The one entrance. Actions are to be carried out in order."""
        match event:
            case Serving():
                self._serving = True
                self._alive |= set(self._roles)
                self._outside = {name for name, role in self._roles.items() if role == "worker"}
                return []
            case Joined():
                self._outside.discard(event.process)
                return []
            case Exited():
                return self._exited(event.process, event.code, now)
            case Seen():
                self._serves_by = None
                self._state, self._step = event.state, max(self._step, event.step)
                return []
            case UserInterrupt():
                return self._interrupt(now)
            case StopAnswered():
                return self._stop_answered(event.at_step, now)
            case Tick():
                return self._tick(now)

    # ── a process ended ─────────────────────────────────────────────────────────────────────────

    def _exited(self, process: str, code: int, now: float) -> list[Action]:
        self._alive.discard(process)
        self._outside.discard(process)
        react: dict[Role, Callable[[str, int, float], list[Action]]] = {
            "coordinator": self._coordinator_gone,
            "ps": self._server_gone,
            "worker": self._worker_gone,
        }
        told = react[self._roles[process]](process, code, now)
        if self.phase is Phase.STOPPING and (self._roles[process] != "worker" or not self._left("worker")):
            self._deadline = min(self._deadline, now + STOP_LIMIT_S)
        return told

    def _coordinator_gone(self, process: str, code: int, now: float) -> list[Action]:
        running = self.phase is Phase.RUNNING and self._serving
        if running and (code < 0 or code in CRASHED) and not self._restarts.spent(process):
            return self._restart(process, code, now)
        self._restarts.cancel()
        if code not in ORDERLY:
            kept = code if code in KNOWN else ServerLost.exit_code
            failed = self._fail(kept, process, self._worn_out(process, code))
            return failed + self._wait(Phase.STOPPING, OWN_END_LIMIT_S, now)
        self.stopped |= code == Interrupted.exit_code
        late = self._send(SIGTERM, self._outside)  # there is nothing any more that they could join
        if self.phase is Phase.RUNNING:
            self._servers_end_at = now + SERVER_END_LIMIT_S
            return late + self._wait(Phase.CLOSING, WORKER_END_LIMIT_S, now)
        return late

    def _server_gone(self, process: str, code: int, now: float) -> list[Action]:
        if self.phase is not Phase.RUNNING:
            return []
        if code in ORDERLY:
            self._ended_quietly[process] = code, now + QUIET_END_LIMIT_S
            return []
        return self._server_died(process, code, now)

    def _server_died(self, process: str, code: int, now: float) -> list[Action]:
        if code in FINAL or not self._durable or self._restarts.spent(process):
            return self._server_lost(process, code, now)
        return self._restart(process, code, now)

    def _server_lost(self, process: str, code: int, now: float) -> list[Action]:
        """For good: the run ends, unless as many servers are left as there are shards."""
        if self._durable and len(self._left("ps")) >= self._shards:
            return [
                Say(f"{self._title(process)} {self._worn_out(process, code)}; its shard has another server")
            ]
        kept = code if code in TELLING else ServerLost.exit_code
        failed = self._fail(kept, process, self._worn_out(process, code))
        return failed + self._wait(Phase.STOPPING, OWN_END_LIMIT_S, now)

    def _worker_gone(self, process: str, code: int, now: float) -> list[Action]:
        if code in FINAL and self.phase in (Phase.RUNNING, Phase.CLOSING):
            return self._fail(code, process, describe_exit(code)) + self._ask_end(f"{process} failed", now)
        if self.phase is not Phase.RUNNING:
            return []
        if code in ORDERLY:
            return self._worker_left(now)
        if not self._restarts.spent(process):
            return self._restart(process, code, now)
        reason = self._worn_out(process, code)
        if self._left("worker"):
            return [Say(f"{process} {reason}; the others go on without it")]
        kept = code if code in KNOWN else SparsyncError.exit_code
        failed = self._fail(kept, process, f"{reason}, and no worker is left")
        return failed + self._ask_end("no worker is left", now)

    def _title(self, process: str) -> str:
        return f"server {process}" if self._roles[process] == "ps" else process

    def _worn_out(self, process: str, code: int) -> str:
        """How it ended, and that it is not started again where it might have been."""
        if code in FINAL or not self._restarts.limit or not self._restarts.spent(process):
            return describe_exit(code)
        return f"{describe_exit(code)}, after {self._restarts.limit} restarts (cluster.restarts)"

    def _restart(self, process: str, code: int, now: float) -> list[Action]:
        role = self._roles[process]
        again = self._restarts.plan(process, role, now, at_once=role == "ps" and code == FENCED)
        return [Say(f"{self._title(process)} {describe_exit(code)}; {again}")]

    def _worker_left(self, now: float) -> list[Action]:
        if not self._left("worker"):
            self._deserted_at = now + DESERTED_LIMIT_S
        return []

    def _left(self, role: Role) -> list[str]:
        """Processes of a role that run, or will again."""
        return [name for name in self._alive | self._restarts.waiting if self._roles[name] == role]

    def _coordinator_alive(self) -> bool:
        return any(self._roles[name] == "coordinator" for name in self._alive)

    # ── the end ─────────────────────────────────────────────────────────────────────────────────

    def _fail(self, code: int, process: str, reason: str) -> list[Action]:
        """Keeps the first failure: the later ones follow from it."""
        self._restarts.cancel()
        if self.failure is not None or self.interrupted:
            return []
        self.failure = Failure(code, process, reason)
        return [Say(f"{process} {reason}; the run ends")]

    def _ask_end(self, reason: str, now: float) -> list[Action]:
        """Ends the run with a checkpoint where there is anything to keep."""
        self._restarts.cancel()
        if self.phase is Phase.CLOSING:
            return []
        if not self._coordinator_alive():
            return self._terminate(now)
        if self._step <= self._first_step:
            # Nothing is closed. What failed at one worker may be told by the coordinator in a moment.
            return self._wait(Phase.STOPPING, OWN_END_LIMIT_S, now)
        return [RequestStop(reason), *self._wait(Phase.STOPPING, STOP_LIMIT_S, now)]

    def _interrupt(self, now: float) -> list[Action]:
        if self.interrupted:
            return self._kill("killing all processes")
        self.interrupted = True
        self._restarts.cancel()
        if self.phase is not Phase.RUNNING or not self._coordinator_alive():
            return [Say("ending all processes; Ctrl-C again to kill"), *self._terminate(now)]
        if self._step <= self._first_step:
            return [
                Say("no step is closed yet, so nothing is kept; ending all processes"),
                *self._terminate(now),
            ]
        return [RequestStop("interrupted by the user"), *self._wait(Phase.STOPPING, STOP_LIMIT_S, now)]

    def _stop_answered(self, at_step: int | None, now: float) -> list[Action]:
        if self.phase is not Phase.STOPPING:
            return []
        if at_step is None:
            return [Say("the coordinator does not answer; ending all processes"), *self._terminate(now)]
        if self._left("worker"):
            self._deadline = now + CHECKPOINT_LIMIT_S
        return [Say(f"stopping after step {at_step}, a checkpoint follows; Ctrl-C again to kill")]

    def _wait(self, phase: Phase, limit_s: float, now: float) -> list[Action]:
        """Enters `phase` for at most `limit_s`; never back from SIGTERM or SIGKILL."""
        if self.phase in (Phase.TERMINATING, Phase.KILLING):
            return []
        if self.phase is Phase.STOPPING and phase is Phase.STOPPING:
            limit_s = min(limit_s, self._deadline - now)
        self.phase, self._deadline = phase, now + limit_s
        return []

    def _terminate(self, now: float) -> list[Action]:
        if self.phase is Phase.KILLING:
            return []
        self._restarts.cancel()
        self.phase, self._deadline = Phase.TERMINATING, now + TERM_LIMIT_S
        return self._send(SIGTERM, self._alive)

    def _kill(self, text: str) -> list[Action]:
        self._restarts.cancel()
        self.phase = Phase.KILLING
        return [Say(text), *self._send(SIGKILL, self._alive)]

    def _send(self, signal: Signals, processes: Iterable[str]) -> list[Action]:
        named = tuple(sorted(processes))
        return [Send(signal, named)] if named else []

    # ── time ────────────────────────────────────────────────────────────────────────────────────

    def _tick(self, now: float) -> list[Action]:
        match self.phase:
            case Phase.RUNNING:
                return self._tick_running(now)
            case Phase.CLOSING:
                return self._tick_closing(now)
            case Phase.STOPPING if now >= self._deadline:
                return self._terminate(now)
            case Phase.TERMINATING if now >= self._deadline:
                names = ", ".join(sorted(self._alive))
                return self._kill(f"{names}: still there after SIGTERM, killing") if self._alive else []
            case _:
                return []

    def _tick_running(self, now: float) -> list[Action]:
        if not self._serving and now >= self._deadline:
            reason = f"did not serve within {START_LIMIT_S:g} s"
            return self._fail(Unreachable.exit_code, "coordinator", reason) + self._terminate(now)
        if self._deserted_at is not None and now >= self._deserted_at:
            return self._deserted(now)
        said = self._look_after_quiet_ones(now)
        due = self._restarts.take_due(now)
        self._alive |= set(due)
        self._outside |= {name for name in due if self._roles[name] == "worker"}
        said += self._look_after_coordinator(due, now)
        return [*said, *(Start(name) for name in due)]

    def _look_after_coordinator(self, due: Iterable[str], now: float) -> list[Action]:
        """One that was started again and answers nobody is killed, and started again: its journal goes on."""
        started = [name for name in due if self._roles[name] == "coordinator"]
        if started:
            self._serves_by = now + START_LIMIT_S
        elif self._serves_by is not None and now >= self._serves_by:
            self._serves_by = None
            stuck = [name for name in self._alive if self._roles[name] == "coordinator"]
            text = f"the coordinator did not serve within {START_LIMIT_S:g} s of its restart; killing it"
            return [Say(text), *self._send(SIGKILL, stuck)]
        return []

    def _look_after_quiet_ones(self, now: float) -> list[Action]:
        """Servers that somebody else than the coordinator has asked to end: the run needs them still."""
        if not self._coordinator_alive():
            return []
        quiet = [(name, code) for name, (code, until) in self._ended_quietly.items() if now >= until]
        for process, _ in quiet:
            del self._ended_quietly[process]
        needed = self._durable and self._state in UNDER_WAY
        return [a for process, code in quiet if needed for a in self._server_died(process, code, now)]

    def _deserted(self, now: float) -> list[Action]:
        self._deserted_at = None
        if self._state not in UNDER_WAY:
            return []
        last = next(name for name, role in self._roles.items() if role == "worker")
        reason = "and all other workers ended before the run did; a script's loop runs until `batches` ends"
        return self._fail(ScriptFailed.exit_code, last, reason) + self._ask_end("no worker is left", now)

    def _tick_closing(self, now: float) -> list[Action]:
        if now >= self._deadline:
            return self._terminate(now)
        if self._servers_end_at is None or now < self._servers_end_at:
            return []
        self._servers_end_at = None
        servers = {name for name in self._alive if self._roles[name] == "ps"}
        workers = sorted(self._alive - servers)
        waits = (
            [Say(f"the run has ended; waiting for {', '.join(workers)} (Ctrl-C ends it)")] if workers else []
        )
        return waits + self._send(SIGTERM, servers)
