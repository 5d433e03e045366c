"""The processes of one run on this machine: found by their command lines, and signalled as exactly those.

Whose command line does not say that it is a role of *this* run is none. A signal goes through a descriptor of the
process (pidfd), opened before its command line and start time are read again: a process id that was handed out anew
in between is never hit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sparsync.faults import proc
from sparsync.faults.plan import COORDINATOR, ROLES, SERVER
from sparsync.run_directory import RunDirectory, read_address

PROXY = "proxy"
ADDRESS_VARIABLE = "SPARSYNC_COORDINATOR"
DEFAULT_ADDRESS = "127.0.0.1:7700"
NAMES = {COORDINATOR: COORDINATOR, SERVER: "ps-0"}
"""Of a process without --name."""


@dataclass(frozen=True, order=True)
class Member:
    """A process of the run. `started_s` tells it from a later one with its process id."""

    role: str
    name: str
    pid: int
    started_s: float

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


@dataclass(frozen=True)
class Command:
    """A `sparsync ROLE` command line."""

    role: str
    words: tuple[str, ...]
    directory: Path

    def option(self, name: str) -> str | None:
        """The value of `name VALUE` or `name=VALUE`."""
        for at, word in enumerate(self.words):
            if word == name and at + 1 < len(self.words):
                return self.words[at + 1]
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
        return None

    def data_dir(self, default: str) -> Path:
        return (self.directory / (self.option("--data-dir") or default)).resolve()


def parse(words: Sequence[str], directory: Path) -> Command | None:
    """`python … -m sparsync ROLE …` or `…/sparsync ROLE …`; None for anything else."""
    for at, word in enumerate(words[:-1]):
        module = word == "sparsync" and at > 0 and words[at - 1] == "-m"
        script = at < 2 and Path(word).name == "sparsync"
        if (module or script) and words[at + 1] in (*ROLES, PROXY):
            return Command(words[at + 1], tuple(words[at + 2 :]), directory)
    return None


def command_of(pid: int) -> Command | None:
    """What that process runs, as far as it is a role or a proxy."""
    directory = proc.directory(pid)
    return parse(proc.command_line(pid), directory) if directory else None


class RunProcesses:
    """The living processes of a run directory. Every look is a new one."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = RunDirectory(run.path.resolve())

    def members(self, role: str) -> list[Member]:
        """Those of a role, ordered by name."""
        addresses = self._addresses()
        return sorted(
            m
            for m, command in self._looked()
            if command.role == role and self._is_ours(command, m, addresses)
        )

    def proxies(self, role: str) -> list[Member]:
        """The fault proxies in front of members of a role."""
        addresses = self._behind(role)
        return sorted(
            member
            for member, command in self._looked()
            if command.role == PROXY and {command.option("--target"), command.option("--listen")} & addresses
        )

    def data_dir(self, member: Member) -> Path | None:
        """Where it keeps its files; None where it is gone."""
        command = command_of(member.pid)
        return command.data_dir(member.name) if command and self._still(member) else None

    def _still(self, member: Member) -> bool:
        found = proc.stat(member.pid)
        return found is not None and found.started_s == member.started_s

    def _looked(self) -> Iterator[tuple[Member, Command]]:
        for process in proc.processes():
            if process.state != proc.ZOMBIE and (command := command_of(process.pid)) is not None:
                name = command.option("--name") or NAMES.get(command.role) or f"{command.role}-{process.pid}"
                yield Member(command.role, name, process.pid, process.started_s), command

    def _addresses(self) -> set[str]:
        """Where this run's coordinator is dialled: its own address, and those of proxies in front of it."""
        own = read_address(self._run)
        found = {own} if own else set()
        for _, command in self._looked():
            if command.role == PROXY and command.option("--target") in found:
                found.add(command.option("--listen") or "")
        return found - {""}

    def _behind(self, role: str) -> set[str | None]:
        """Addresses of a role that a proxy may forward to, or stand in for."""
        if role == COORDINATOR:
            return {read_address(self._run)} - {None}
        servers = [command_of(member.pid) for member in self.members(role)]
        return {c.option(name) for c in servers if c for name in ("--listen", "--advertise")} - {None}

    def _is_ours(self, command: Command, member: Member, addresses: set[str]) -> bool:
        if command.role == COORDINATOR:
            return command.data_dir("coordinator-data") == self._run.path
        dialled = command.option("--coordinator") or _variable(member.pid) or DEFAULT_ADDRESS
        return dialled in addresses


def _variable(pid: int) -> str | None:
    """The coordinator's address in the environment that a process was started with."""
    with suppress(OSError):
        for word in (proc.PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            name, _, value = word.decode("utf-8", errors="replace").partition("=")
            if name == ADDRESS_VARIABLE:
                return value
    return None


@contextmanager
def opened(pid: int, started_s: float) -> Iterator[int | None]:
    """A descriptor of the process that has this id and began then; None where there is none any more."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        found = proc.stat(pid)
        same = found is not None and found.started_s == started_s and found.state != proc.ZOMBIE
        yield descriptor if same else None
    finally:
        os.close(descriptor)


def send(member: Member, number: signal.Signals) -> bool:
    """Signal exactly this process; False where it has ended, or its command line is not its role's any more."""
    with opened(member.pid, member.started_s) as descriptor, suppress(ProcessLookupError):
        command = command_of(member.pid) if descriptor is not None else None
        if descriptor is not None and command is not None and command.role == member.role:
            signal.pidfd_send_signal(descriptor, number)
            return True
    return False
