"""A run whose roles are started by hand, each a process of its own, and seen from outside through its events.

Every process is the head of a session, so that a signal reaches a worker and its heartbeat at once, and
asks the kernel to be killed when this one ends. Times of events are wall-clock seconds of this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.figures import ROOT
from sparsync.authority import Authority
from sparsync.control import Control
from sparsync.live import EventTail
from wire.rpc.identity import Role, Security

SPARSYNC = (sys.executable, "-P", "-m", "sparsync")
POLL_S = 0.005
START_S = 90.0
"""For roles to load torch and begin, on a machine that is busy."""
END_S = 20.0
"""From asking for the end until every process is gone by itself."""
SWEPT_S = 10.0
"""After SIGKILL, until nothing of a session may be left."""

Event = dict[str, Any]


def anything(event: Event) -> bool:
    return True


class Cluster:
    """One coordinator, and the servers and workers that are started for it.

    Args:
        directory: for the run directory, the roles' directories and their logs.
        settings: `section.key` -> value.
        tls: whether everything is under mutual TLS, with certificates of an authority made for it.
    """

    def __init__(self, directory: Path, settings: Mapping[str, object], *, tls: bool = False) -> None:
        self._directory = directory
        self._now = datetime.now(UTC)
        self._authority = Authority.create(directory / "authority", now=self._now) if tls else None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: list[int] = []
        self._operator: Security | None = None
        self._tail = EventTail(directory / "run" / "events.jsonl")
        self._events: dict[str, list[Event]] = defaultdict(list)
        keys = [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
        self._coordinating = ["--listen", free_address(), "--data-dir", str(directory / "run"), *keys]
        self._start("coordinator", "coordinator", *self._coordinating)
        try:
            self.address = str(self.wait_for("began")["address"])
        except BaseException:
            self._kill_everything()
            raise

    # --- processes -----------------------------------------------------------------------

    def start_server(
        self,
        name: str,
        *,
        listen: str = "127.0.0.1:0",
        advertise: str | None = None,
        program: Sequence[str] = (),
    ) -> None:
        """A parameter server.

        advertise: the address that the others dial, where it is not `listen`. program: a script and its first
        words, which run in place of `sparsync`.
        """
        told = ["--advertise", advertise] if advertise else []
        member = self._member(name, self.address)
        self._start(name, "ps", *member, "--listen", listen, *told, program=program)

    def start_worker(
        self, name: str, script: Sequence[str | Path], *, coordinator: str | None = None
    ) -> None:
        """A worker that runs `script` and its arguments; `coordinator`: where it dials instead."""
        self._start(name, "worker", *self._member(name, coordinator or self.address), *map(str, script))

    def restart_coordinator(self) -> None:
        """Start it again with the same command, after it was killed."""
        self.remove("coordinator")
        self._start("coordinator", "coordinator", *self._coordinating)

    def wait_end(self, name: str, *, limit_s: float = START_S) -> int:
        """The exit code of a process that ends by itself."""
        process = self._processes.pop(name)
        return process.wait(limit_s)

    def _member(self, name: str, coordinator: str) -> list[str]:
        return ["--coordinator", coordinator, "--name", name, "--data-dir", str(self._directory / name)]

    def _start(self, name: str, role: str, *words: str, program: Sequence[str] = ()) -> None:
        command = [sys.executable, "-P", *program] if program else SPARSYNC
        security = self.security(Role(role), name)
        with (self._directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, role, "--parent-pid", str(os.getpid()), *tls_words(security), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=role_environment(),
                cwd=self._directory,
                start_new_session=True,
            )
        self._processes[name] = process
        self._sessions.append(process.pid)

    def security(self, role: Role, name: str) -> Security:
        """How a process of this role and name connects."""
        if self._authority is None:
            return Security()
        _, files = self._authority.issue(role, name, now=self._now, again=True)
        return Security(tls_ca=files.ca, tls_cert=files.cert, tls_key=files.key)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def metrics(self, name: str) -> str:
        """host:port where a process serves its metrics; the run must have them served."""
        (told,) = json.loads((self._directory / "run" / "metrics" / f"{name}.json").read_text())
        return str(told["targets"][0])

    def signal(self, name: str, number: signal.Signals) -> float:
        """Send to the process and all its children (a worker's heartbeat); the moment before."""
        at = time.time()
        os.killpg(self._processes[name].pid, number)
        return at

    def remove(self, name: str) -> None:
        """Kill what is left of a process and forget it."""
        process = self._processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    # --- what happens --------------------------------------------------------------------

    def events(self, kind: str) -> list[Event]:
        """All events of a kind so far, each with its moment under `at`."""
        for event in self._tail.read():
            event["at"] = datetime.fromisoformat(event["t"]).timestamp()
            self._events[event["event"]].append(event)
        return self._events[kind]

    def wait_for(
        self,
        kind: str,
        fits: Callable[[Event], bool] = anything,
        *,
        after: int = 0,
        limit_s: float = START_S,
    ) -> Event:
        """The first event of this kind that fits, the first `after` ones left out.

        Raises: RuntimeError when time is up or the coordinator has ended.
        """
        deadline = time.monotonic() + limit_s
        while True:
            over = self._processes["coordinator"].poll() is not None
            seen = self.events(kind)
            if (found := next(filter(fits, seen[after:]), None)) is not None:
                return found
            after = max(after, len(seen))
            if over or time.monotonic() > deadline:
                why = "and the coordinator has ended" if over else f"within {limit_s:g} s"
                raise RuntimeError(f"no event {kind!r} {why}:\n{self.story()}")
            time.sleep(POLL_S)

    def wait_for_closes(self, count: int, *, limit_s: float = START_S) -> None:
        """Until that many steps more are closed."""
        known = len(self.events("step"))
        self.wait_for("step", after=known + count - 1, limit_s=limit_s)

    def carriers(self) -> list[str]:
        """Names of the running workers that carry a stream."""
        holders = {e["stream"]: e["worker"] for e in self.events("assigned")}
        return sorted(set(holders.values()) & self._processes.keys())

    def status(self) -> dict[str, Any]:
        """What the coordinator says of the run now."""
        if self._operator is None:
            self._operator = self.security(Role.OPERATOR, "benchmark")
        return asyncio.run(_status(self.address, self._operator))

    def story(self) -> str:
        """What a failure should show: the rarer events, and the ends of the logs."""
        rare = [e for kind, found in self._events.items() if kind != "step" for e in found]
        events = "\n".join(map(str, sorted(rare, key=lambda e: float(e["s"]))[-40:]))
        logs = "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}"
            for log in sorted(self._directory.glob("*.log"))
        )
        return f"{events}\n{logs}"

    # --- the end -------------------------------------------------------------------------

    def end(self) -> dict[str, object]:
        """Stop the run; which processes had to be killed, and how many sessions are not empty after that."""
        self._processes["coordinator"].send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_S
        killed = []
        for name, process in self._processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                killed.append(name)
        self._kill_everything()
        return {"killed_at_the_end": killed, "sessions_left": self._sessions_left()}

    def _kill_everything(self) -> None:
        for name in list(self._processes):
            self.remove(name)

    def _sessions_left(self) -> int:
        deadline = time.monotonic() + SWEPT_S
        while any(map(_lives, self._sessions)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return sum(map(_lives, self._sessions))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill_everything()


def role_environment() -> dict[str, str]:
    """Ours without configuration, one thread a process, and this tree's packages."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SPARSYNC_")}
    return {**kept, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def free_address() -> str:
    """An address on loopback that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _lives(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def tls_words(security: Security) -> list[str]:
    """The same on a command line."""
    files = {"--tls-ca": security.tls_ca, "--tls-cert": security.tls_cert, "--tls-key": security.tls_key}
    return [word for flag, path in files.items() if path is not None for word in (flag, str(path))]


async def _status(address: str, security: Security) -> dict[str, Any]:
    async with Control(address, security) as control:
        return await control.status(timeout_s=10.0)
