"""A run whose roles are started by hand, one command each, as a user or a service manager starts them.

Each role is a process group of its own; servers and workers may come at any time, workers may go at any
time and in any way. What the harness knows of the run it knows from outside: events, the `Status` call,
exit codes. After the run, nothing may be left: no process, no listening port, no temporary file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import psutil

from tests.cluster.running import (
    BEGIN_S,
    MARK,
    POLL_S,
    SPARSYNC,
    Event,
    Run,
    command,
    is_open,
    seconds_until,
    set_flags,
)
from wire.errors import Interrupted
from wire.v1.coordinator_pb2 import StatusRequest
from wire.v1.coordinator_pb2_grpc import CoordinatorStub

COORDINATOR = "coordinator"
DRAIN_S = 10.0
"""P17 promises that long from SIGTERM to exit code 0, and one unit."""
NOTICED_S = 7.0
"""P6: a silent worker is given up after 5 s; the rest is for the last beat, and for a busy machine."""
STOPPED_S = 8.0
"""From SIGSTOP to SIGCONT: longer than it takes to be given up."""
GONE_S = 10.0
"""P19: nothing is left so long after the end."""
PASSING = ("*.partial", "*.tmp", "*-wal", "*-shm")
"""Files that only a living process has."""


@dataclass(frozen=True)
class Role:
    """One start of a role: `name` may be started again."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid


class Cluster(Run):
    """A coordinator, and the servers and workers that are started with `start_server` and `start_worker`.

    Args:
        base: a directory; the run directory is in it, empty or that of a run that was killed.
        settings: `section.key` -> value, given to the coordinator with `-s`.
        script: the user's script and its arguments, run by every worker.
        flags: further arguments of the coordinator.
    """

    def __init__(
        self,
        base: Path,
        settings: Mapping[str, object],
        *,
        script: Sequence[str | Path],
        environ: Mapping[str, str],
        flags: Sequence[str | Path] = (),
    ) -> None:
        super().__init__(base / "run")
        self._base, self._temporary = base, base / "temporary"
        self._script = [str(word) for word in script]
        places = {"TMPDIR": str(self._temporary), "TORCHINDUCTOR_CACHE_DIR": str(base / "torch-cache")}
        self._environ = {**environ, **places, MARK: self._mark}
        self._roles: dict[str, Role] = {}
        self._earlier: list[Role] = []
        self._killed: set[int] = set()
        self._expected: dict[int, int] = {}
        self._channel: grpc.Channel | None = None
        self._served = False
        self._temporary.mkdir(parents=True, exist_ok=True)
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        self._settings = [*set_flags(settings), *map(str, flags)]
        own = ["--listen", "127.0.0.1:0", "--data-dir", str(self.out)]
        self._start(COORDINATOR, ["coordinator", *own, *self._settings])

    # --- starting ------------------------------------------------------------------------

    def start_coordinator_again(self, *, out: Path | None = None, listen: str = "") -> Role:
        """With the same command, on the address where everybody knows it; or on a copy of its directory, elsewhere."""
        own = ["--listen", listen or self.address, "--data-dir", str(out or self.out)]
        if (
            out is None and self._channel is not None
        ):  # one that has failed to connect would wait before it tries again
            self._channel.close()
            self._channel, self._served = None, False
        return self._start(COORDINATOR if out is None else "other", ["coordinator", *own, *self._settings])

    def forget(self, name: str) -> None:
        """It has ended, as it should and not with 0."""
        assert self._roles.pop(name).process.poll() is not None

    def start_server(self, name: str, *flags: str) -> Role:
        """A parameter server; on any free port unless `flags` say which."""
        listen = [] if "--listen" in flags else ["--listen", "127.0.0.1:0"]
        return self._start(name, ["ps", *self._own(name), *listen, *flags])

    def start_servers(self, number: int) -> None:
        for i in range(number):
            self.start_server(f"ps-{i}")

    def start_worker(self, name: str, environ: Mapping[str, str] | None = None) -> Role:
        """A worker that runs the script; `environ`: what only it has in its environment."""
        return self._start(name, ["worker", *self._own(name), *self._script], environ or {})

    def _own(self, name: str) -> list[str]:
        return ["--coordinator", self.address, "--name", name, "--data-dir", str(self._base / name)]

    def _start(self, name: str, words: Sequence[str], environ: Mapping[str, str] | None = None) -> Role:
        """Started by hand, but for one thing: what is left ends with the tests, however those end."""
        guarded = [words[0], "--parent-pid", str(os.getpid()), *words[1:]]
        number = sum(role.name == name for role in self.roles())
        log = self.out / "logs" / f"{name}.{number}.log"
        with log.open("wb") as told:
            process = subprocess.Popen(
                [*SPARSYNC, *guarded],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=subprocess.STDOUT,
                env={**self._environ, **(environ or {})},
                cwd=self._base,
                start_new_session=True,
            )
        if name in self._roles:
            self._earlier.append(self._roles[name])
        self._roles[name] = Role(name, process, log)
        return self._roles[name]

    # --- what is seen --------------------------------------------------------------------

    def roles(self) -> list[Role]:
        """Every start so far, in order of time a name."""
        return [*self._earlier, *self._roles.values()]

    def over(self) -> bool:
        return self._roles[COORDINATOR].process.poll() is not None

    def talk(self) -> str:
        codes = [f"{role.name} (pid {role.pid}): {role.process.poll()}" for role in self.roles()]
        return "exit codes so far: " + ", ".join(codes)

    def status(self) -> dict[str, Any]:
        """The whole status, as `sparsync status --json` prints it."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.address)
        stub = CoordinatorStub(self._channel)
        reply = stub.Status(StatusRequest(), timeout=10, wait_for_ready=not self._served)
        self._served = True
        found: dict[str, Any] = json.loads(reply.json)
        return found

    def wait_until(
        self, what: str, holds: Callable[[dict[str, Any]], object], *, limit_s: float = BEGIN_S
    ) -> dict[str, Any]:
        """The first status for which `holds`."""
        deadline = time.monotonic() + limit_s
        while not self.over() and time.monotonic() < deadline:
            try:
                status = self.status()
            except grpc.RpcError:  # it serves no more: the run is ending
                status = {}
            if status and holds(status):
                return status
            time.sleep(10 * POLL_S)
        raise AssertionError(f"not within {limit_s:g} s, or before the run was over: {what}\n{self.story()}")

    def wait_for_steps(self, steps: int, *, limit_s: float = BEGIN_S) -> int:
        """How many steps are settled, once it is at least so many; in every mode."""
        return int(self.wait_until(f"{steps} steps", lambda s: s["step"] >= steps, limit_s=limit_s)["step"])

    def wait_for_more_steps(self, steps: int, *, limit_s: float = BEGIN_S) -> int:
        """The same, counted from now."""
        return self.wait_for_steps(self.status()["step"] + steps, limit_s=limit_s)

    def wait_joined(self, name: str, *, after: int = 0, limit_s: float = BEGIN_S) -> Event:
        """The event of this name's joining as an incarnation above `after`."""
        return self.wait_for(
            "joined", lambda e: e["name"] == name and e["incarnation"] > after, limit_s=limit_s
        )

    def wait_given_up(self, name: str, since: datetime) -> Event:
        """The event of this worker's death after `since`, or of losing its work as a straggler."""

        def is_it(event: Event) -> bool:
            return event.get("name") == name and seconds_until(event, since) >= 0

        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for event in filter(is_it, [*self.events("died"), *self.events("straggled")]):
                return event
            time.sleep(POLL_S)
        raise AssertionError(f"{name} was not given up:\n{self.story()}")

    def wait_working(self, name: str, *, after: int = 0, limit_s: float = BEGIN_S) -> dict[str, Any]:
        """What the status says of this worker once it is in the run, above `after`, and has computed a unit."""

        def works(status: dict[str, Any]) -> bool:
            return any(w["units"] > 0 for w in found(status))

        def found(status: dict[str, Any]) -> list[dict[str, Any]]:
            present = [w for w in status["workers"] if w["name"] == name and w["gone"] is None]
            return [w for w in present if w["incarnation"] > after]

        return found(self.wait_until(f"{name} computes", works, limit_s=limit_s))[-1]

    def incarnation(self, name: str) -> int:
        """The newest one of this name."""
        return max(e["incarnation"] for e in self.events("joined") if e["name"] == name)

    def own_pid(self, name: str) -> int:
        """Process id of the newest start of this name."""
        return self._roles[name].pid

    def wait_code(self, name: str, code: int, *, limit_s: float = 15.0) -> None:
        """Until the newest start of this name has ended, with this exit code."""
        role = self._roles[name]
        found = role.process.wait(limit_s)
        assert found == code, f"{name} ended with {found}, expected {code}:\n{self.story()}"
        self._expected[role.pid] = code

    # --- what is done to it --------------------------------------------------------------

    def signal(self, name: str, number: signal.Signals, *, heartbeat: bool = False) -> datetime:
        """Send a signal to a role, and to its heartbeat process if asked; when."""
        role = self._roles[name]
        assert role.process.poll() is None, f"{name} has ended with {role.process.poll()}:\n{self.story()}"
        at = datetime.now().astimezone()
        role.process.send_signal(number)
        if heartbeat:
            for child in psutil.Process(role.pid).children():
                child.send_signal(number)
        return at

    def kill_worker(self, name: str) -> datetime:
        """`kill -9`; when."""
        self._killed.add(self.own_pid(name))
        at = self.signal(name, signal.SIGKILL)
        self._roles[name].process.wait()
        return at

    def stop(self, name: str, *, heartbeat: bool = False) -> datetime:
        """SIGSTOP of the trainer, or of its whole machine, as it were; when."""
        return self.signal(name, signal.SIGSTOP, heartbeat=heartbeat)

    def send_away(self) -> None:
        """Have the coordinator go, and not the run."""
        self.signal(COORDINATOR, signal.SIGUSR1)
        self.wait_code(COORDINATOR, 0)

    def cont(self, name: str) -> datetime:
        """SIGCONT of the trainer and its heartbeat; when."""
        return self.signal(name, signal.SIGCONT, heartbeat=True)

    def term(self, name: str) -> datetime:
        """SIGTERM; when."""
        return self.signal(name, signal.SIGTERM)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`sparsync WORDS --coordinator …`; it must go well."""
        done = command(*words, "--coordinator", self.address, environ=self._environ)
        assert done.returncode == 0, f"sparsync {' '.join(words)}: {done.stderr}\n{self.story()}"
        return done

    def wait_left(self, name: str, *, limit_s: float = DRAIN_S + 1) -> float:
        """A worker that was asked to go has ended with exit code 0; how many seconds that took from now."""
        began, role = time.monotonic(), self._roles[name]
        try:
            code = role.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} still runs after {limit_s:g} s:\n{self.story()}") from None
        assert code == 0, f"{name} ended with {code}, expected 0:\n{self.story()}"
        return time.monotonic() - began

    def hurry(self) -> None:
        """Tell scripts that look for this file that they need not take their time any more."""
        (self.out / "hurry").touch()

    # --- the end -------------------------------------------------------------------------

    def halt(self) -> dict[str, Any]:
        """`sparsync stop`, then as `finish`."""
        self.command("stop")
        return self.finish(code=Interrupted.exit_code)

    def finish(self, limit_s: float = 90.0, *, code: int = 0) -> dict[str, Any]:
        """The summary of a run that ends with `code`, all its roles with 0, and nothing of it is left."""
        ports = self._listening()
        coordinator = self._roles[COORDINATOR].process
        try:
            found = coordinator.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {limit_s:g} s:\n{self.story()}") from None
        assert found == code, f"the coordinator ended with {found}, expected {code}:\n{self.story()}"
        left = self.wait_gone(GONE_S)
        assert not left, f"left after {GONE_S:g} s: {[p.cmdline() for p in left]}\n{self.story()}"
        self._check_codes()
        assert not [port for port in ports if is_open(f"127.0.0.1:{port}")]
        passing = self._passing_files()
        assert not passing, passing
        summary: dict[str, Any] = json.loads((self.out / "summary.json").read_text())
        return summary

    def _check_codes(self) -> None:
        for role in self.roles():
            if role.name != COORDINATOR:
                expected = -signal.SIGKILL if role.pid in self._killed else self._expected.get(role.pid, 0)
                assert role.process.wait(GONE_S) == expected, f"{role.name}:\n{self.story()}"

    def _listening(self) -> set[int]:
        """The ports that the run's processes listen on now."""
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        own = {process.pid for process in self.processes()}
        return {c.laddr.port for c in listening if c.pid in own}

    def _passing_files(self) -> list[Path]:
        pids = {str(role.pid) for role in self.roles()}
        shared = [p for p in Path("/dev/shm").iterdir() if pids & set(p.name.split("_"))]
        passing = [path for pattern in PASSING for path in self._base.rglob(pattern)]
        return [*passing, *self._temporary.iterdir(), *shared]

    def end(self) -> list[str]:
        """Kill what is left, and tell what that was."""
        if self._channel is not None:
            self._channel.close()
        ended_well = self.over()
        if (
            not ended_well
        ):  # the test has failed, and has told its story; what it has stopped must be able to end
            for process in self.processes():
                process.send_signal(signal.SIGCONT)
            for role in self.roles():
                if role.process.poll() is None:
                    role.process.kill()
        told = super().end()
        for role in self.roles():
            role.process.wait(GONE_S)
        return told


def wait_since(at: datetime, seconds: float) -> None:
    """Let time pass until `seconds` after `at`."""
    time.sleep(max(0.0, seconds - (datetime.now().astimezone() - at).total_seconds()))
