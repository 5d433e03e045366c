"""Chaos in a live run on this machine: the faults of a plan, one at a time, each of them undone.

What strikes whom and when is the plan's (plan.py); whose processes these are, is processes.py's; what is owed if we are
killed meanwhile, is the warden's. One thread, which waits for the next moment or for the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2, Signals

from sparsync.faults import ballast
from sparsync.faults.outcome import Struck
from sparsync.faults.plan import COORDINATOR, SERVER, Fault, Plan
from sparsync.faults.processes import Member, RunProcesses, send
from sparsync.faults.warden import Debt, Warden
from sparsync.run_directory import RunDirectory
from wire.clock import Clock, Deadline, monotonic_clock, utc_timestamp
from wire.errors import NoInput, UsageError

SLICE_S, STOPPED_SHARE = 0.05, 0.8
LOOK_S = 0.2
"""How often it is looked whether the run has ended."""


class Chaos:
    """Carries a plan out.

    Args:
        say: told of every fault when it has begun.
        ballast_limit: bytes that may be filled; None: the disk is left alone.

    Attributes:
        over: set from outside, as by a signal, to end early.
        struck: what has happened so far.
    """

    def __init__(
        self,
        run: RunDirectory,
        plan: Plan,
        *,
        say: Callable[[Struck], None],
        ballast_limit: int | None = None,
        clock: Clock = monotonic_clock,
    ) -> None:
        self._run, self._plan, self._say, self._clock = run, plan, say, clock
        self._processes = RunProcesses(run)
        self._limit = ballast_limit
        self.over = threading.Event()
        self.struck: list[Struck] = []
        self._warden: Warden | None = None

    def check(self) -> None:
        """What can be refused is refused before anything happens. Raises NoInput, UsageError."""
        if not self._processes.members(COORDINATOR):
            raise NoInput(
                f"no coordinator of {self._run.path} runs on this machine under this user; chaos only strikes "
                "processes here. Is the run over, or is it another directory?"
            )
        if "partition" in self._plan.kinds:
            self._check_proxies()
        if "disk" in self._plan.kinds:
            self._check_disks()

    def _check_proxies(self) -> None:
        if not any(
            self._processes.proxies(role) for role in (SERVER, COORDINATOR) if role in self._plan.roles
        ):
            raise UsageError(
                "partition: no `sparsync proxy` stands in front of a chosen role of this run, and nothing else can cut "
                "one connection here; start one with --target set to the role's --listen (docs/faults.md; roles of "
                "`sparsync train` have none: start them by hand), or leave partition out of --kinds"
            )

    def _check_disks(self) -> None:
        if self._limit is None:
            raise UsageError("disk fills a file system: say how many bytes it may take, with --ballast-limit")
        for server in self._processes.members(SERVER):
            directory = self._processes.data_dir(server)
            if directory is not None and directory.is_dir():
                ballast.refuse_shared(directory, ballast.measure(directory), self._limit)

    def carry_out(self, for_s: float | None) -> None:
        """Until the time is up, the run has ended, or `over` is set."""
        began, deeds = self._clock.now(), _deeds(self)
        with Warden() as self._warden:
            for fault in self._plan.faults(for_s):
                if not self._wait_until(began + fault.after_s):
                    return
                deeds[fault.kind](fault)
            if for_s is not None:
                self._wait_until(began + for_s)

    @property
    def ended(self) -> bool:
        """Whether there is nothing to do any more."""
        return self.over.is_set() or self._run.summary.exists()

    # --- the kinds -------------------------------------------------------------------------

    def once(self, fault: Fault, number: Signals) -> None:
        """A signal, and no more."""
        member = self._target(fault, self._processes.members(fault.role))
        self._note(fault, member if member and send(member, number) else None)

    def undone(self, fault: Fault, members: list[Member], do: Signals, undo: Signals) -> None:
        """A signal, and another one when the fault has lasted."""
        assert self._warden is not None
        member = self._target(fault, members)
        if member is None:
            return self._note(fault, None)
        with self._warden.owing(Debt(member.pid, member.started_s, undo)):
            self._note(fault, member if send(member, do) else None)
            self._last(fault)
        return None

    def partition(self, fault: Fault) -> None:
        self.undone(fault, self._processes.proxies(fault.role), SIGUSR1, SIGUSR2)

    def stop(self, fault: Fault) -> None:
        self.undone(fault, self._processes.members(fault.role), SIGSTOP, SIGCONT)

    def slow(self, fault: Fault) -> None:
        """Stopped most of the time."""
        assert self._warden is not None
        member = self._target(fault, self._processes.members(fault.role))
        self._note(fault, member)
        if member is None:
            return
        end = Deadline(self._clock, fault.lasts_s)
        with self._warden.owing(Debt(member.pid, member.started_s, SIGCONT)):
            while not (end.passed or self.over.is_set()):
                if not send(member, SIGSTOP):
                    return
                self.over.wait(SLICE_S * STOPPED_SHARE)
                send(member, SIGCONT)
                self.over.wait(SLICE_S * (1 - STOPPED_SHARE))

    def disk(self, fault: Fault) -> None:
        """A file system without room."""
        assert self._warden is not None and self._limit is not None
        member = self._target(fault, self._processes.members(fault.role))
        directory = self._processes.data_dir(member) if member else None
        if member is None or directory is None:
            return self._note(fault, None)
        path = directory / ballast.NAME
        with ExitStack() as stack:
            stack.enter_context(self._warden.owing(Debt(remove=str(path))))
            try:
                ballast.refuse_shared(directory, ballast.measure(directory), self._limit)
                size = ballast.fill(path, self._limit)
            except (OSError, UsageError) as error:
                return self._note(fault, None, str(error))
            self._note(fault, member, f"{size:,} bytes of ballast")
            self._last(fault)
        return None

    # --- the rest --------------------------------------------------------------------------

    def _target(self, fault: Fault, members: list[Member]) -> Member | None:
        return members[fault.of(len(members))] if members else None

    def _note(self, fault: Fault, member: Member | None, note: str = "") -> None:
        note = note or ("" if member else f"no {fault.role} was there")
        target = str(member) if member else None
        lasts_s = fault.lasts_s if member else 0.0
        self.struck.append(
            Struck(fault.number, utc_timestamp(), fault.kind, fault.role, target, lasts_s, note)
        )
        self._say(self.struck[-1])

    def _last(self, fault: Fault) -> None:
        """Let the fault last; the end of the run, or of chaos, ends it too."""
        self._wait_until(self._clock.now() + fault.lasts_s)

    def _wait_until(self, moment: float) -> bool:
        """False where the end comes first."""
        while (left := moment - self._clock.now()) > 0 and not self.ended:
            self.over.wait(min(left, LOOK_S))
        return not self.ended


def _deeds(chaos: Chaos) -> dict[str, Callable[[Fault], None]]:
    """Kind -> what is done."""
    return {
        "kill": lambda fault: chaos.once(fault, SIGKILL),
        "term": lambda fault: chaos.once(fault, SIGTERM),
        "stop": chaos.stop,
        "slow": chaos.slow,
        "partition": chaos.partition,
        "disk": chaos.disk,
    }
