"""A run as the processes that a user starts, seen from outside: events, status, signals.

Every process of a run inherits a mark in its environment, by which the test finds it again: the
launcher, the roles, their heartbeats and loaders. Only processes with the run's own mark are ever
signalled. Waiting is for an event in `events.jsonl`, with a deadline.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

MARK = "SPARSYNC_TEST_MARK"
SPARSYNC = (sys.executable, "-m", "sparsync")
POLL_S = 0.005
BEGIN_S = 90.0
"""For a cluster to load torch in all its processes and begin, on a machine that is busy."""
Event = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code, the object on standard output, the talk on standard error."""

    code: int
    summary: dict[str, Any]
    talk: str


class Run(ABC):
    """What can be seen of a run, whoever started its processes.

    Args:
        out: run directory.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._mark = uuid.uuid4().hex
        self._offset = self._events_path.stat().st_size if self._events_path.exists() else 0
        self._events: list[Event] = []

    @abstractmethod
    def over(self) -> bool:
        """Whether nothing more will happen."""

    @abstractmethod
    def talk(self) -> str:
        """What the processes said to the user."""

    # --- what happened -------------------------------------------------------------------

    @property
    def _events_path(self) -> Path:
        return self.out / "events.jsonl"

    def events(self, kind: str | None = None) -> list[Event]:
        """The events since this start, of all kinds or of one."""
        if self._events_path.exists():
            with self._events_path.open("rb") as file:
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._offset += len(whole) + len(newline)
            self._events += [json.loads(line) for line in whole.splitlines() if line]
        return [e for e in self._events if kind in (None, e["event"])]

    def wait_for(
        self, kind: str | None, fits: Callable[[Event], bool] = lambda e: True, *, limit_s: float = BEGIN_S
    ) -> Event:
        """The first event of this kind, or of all, that fits. Fails when the run ends without it, or time is up."""
        deadline = time.monotonic() + limit_s
        while True:
            over = self.over()
            if (found := next(filter(fits, self.events(kind)), None)) is not None:
                return found
            if over or time.monotonic() > deadline:
                raise AssertionError(f"no event {kind!r} within {limit_s:g} s:\n{self.story()}")
            time.sleep(POLL_S)

    def wait_for_another(self, kind: str, known: int, *, limit_s: float = BEGIN_S) -> Event:
        """The event of this kind after the first `known` ones."""
        return self.wait_for(kind, lambda e: e in self.events(kind)[known:], limit_s=limit_s)

    def wait_for_step(self, step: int, *, limit_s: float = BEGIN_S) -> Event:
        """The close of `step` or a later one."""
        return self.wait_for("step", lambda e: e["step"] >= step, limit_s=limit_s)

    def story(self) -> str:
        """What a failed test should show."""
        events = "\n".join(json.dumps(e) for e in self.events() if e["event"] != "step")
        logs = "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}"
            for log in sorted(self.out.glob("logs/*.log"))
        )
        return f"{self.talk()[-3000:]}\n--- events\n{events}\n{logs}"

    # --- its processes -------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the coordinator serves, since it began or goes on."""
        return str(self.wait_for(None, lambda e: e["event"] in ("began", "reopened"))["address"])

    def pids(self, role: str) -> dict[str, int]:
        """Process ids of the members of a role that are in the run, by name."""
        present: dict[str, int] = {}
        for event in self.events():
            if event["event"] == "joined" and event["role"] == role:
                present[event["name"]] = event["pid"]
            elif event["event"] in ("died", "left", "straggled"):
                present.pop(event["name"], None)
        return present

    def carriers(self) -> list[str]:
        """Names of the workers that carry a stream."""
        holders = {e["stream"]: e["worker"] for e in self.events("assigned")}
        return sorted(set(holders.values()) & self.pids("worker").keys())

    def kill(self, pid: int) -> datetime:
        """`kill -9` of one process of this run; when."""
        assert pid in {p.pid for p in self.processes()}, f"process {pid} is not of this run"
        at = datetime.now().astimezone()
        os.kill(pid, signal.SIGKILL)
        return at

    def kill_worker(self, name: str) -> datetime:
        return self.kill(self.pids("worker")[name])

    def processes(self) -> list[psutil.Process]:
        """All living processes of this run, by their mark."""
        return list(self._marked())

    def _marked(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self._mark:
                    yield process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def wait_gone(self, limit_s: float) -> list[psutil.Process]:
        """The processes that are left after at most `limit_s`."""
        _, left = psutil.wait_procs(self.processes(), timeout=limit_s)
        return [p for p in self.processes() if p in left] if left else self.processes()

    def end(self) -> list[str]:
        """Kill what is left, and tell what that was; nothing should be."""
        left = self.wait_gone(2.0)
        told = [f"{p.pid} {' '.join(p.cmdline())}" for p in left if p.is_running()]
        for process in left:
            process.kill()
        return told


class Terminal:
    """A terminal for one command, and whoever sits before it.

    Attributes:
        end: the command's end of it.
        shown: whether anything was written there.
    """

    def __init__(self) -> None:
        self._mine, self.end = pty.openpty()
        self._left = False
        self.shown = False
        self._reader = threading.Thread(target=self._read, daemon=True)

    def take(self) -> None:
        """In the new process, which leads a session: this is its terminal."""
        fcntl.ioctl(self.end, termios.TIOCSCTTY, 0)

    def open(self) -> None:
        """The command has its end."""
        os.close(self.end)
        self._reader.start()

    def _read(self) -> None:
        while not self._left:
            if select.select([self._mine], [], [], 0.05)[0]:
                self.shown |= bool(os.read(self._mine, 1 << 16))

    def hang_up(self) -> None:
        """The window is closed, or the line to it broken."""
        self._left = True
        self._reader.join()
        os.close(self._mine)


class Train(Run):
    """A running `sparsync train`.

    Args:
        out: run directory.
        settings: `section.key` -> value, given with `-s`.
        flags: further arguments before the script.
        script: the user's script and its arguments.
        terminal: on which it runs; only its summary goes elsewhere.
    """

    def __init__(
        self,
        out: Path,
        settings: Mapping[str, object],
        *,
        flags: Sequence[str] = (),
        script: Sequence[str | Path] = (),
        environ: Mapping[str, str],
        terminal: Terminal | None = None,
    ) -> None:
        super().__init__(out)
        self._stdout, self._stderr = (out.with_name(f"{out.name}.{n}") for n in ("stdout", "stderr"))
        tail = ["--", *map(str, script)] if script else []
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.launcher = subprocess.Popen(
                [*SPARSYNC, "train", *set_flags(settings), "--json", *flags, *tail],
                stdin=terminal.end if terminal else subprocess.DEVNULL,
                stdout=stdout,
                stderr=terminal.end if terminal else stderr,
                env={**environ, MARK: self._mark},
                cwd=out.parent,
                start_new_session=True,
                preexec_fn=terminal.take if terminal else None,
            )
        if terminal:
            terminal.open()

    def over(self) -> bool:
        return self.launcher.poll() is not None

    def talk(self) -> str:
        return self._stderr.read_text(errors="replace")

    def pid_of(self, process: str, *, limit_s: float = BEGIN_S) -> int:
        """Process id of a role by its name, as soon as it runs."""
        named = ["coordinator", "--parent-pid"] if process == "coordinator" else ["--name", process]
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            for found in self.processes():
                words = found.cmdline()
                if any(words[i : i + 2] == named for i in range(len(words))):
                    return int(found.pid)
            time.sleep(POLL_S)
        raise AssertionError(f"no process {process!r} within {limit_s:g} s:\n{self.story()}")

    def wait(self, limit_s: float = 110.0) -> Ended:
        """The end of the launcher."""
        try:
            code = self.launcher.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {limit_s:g} s:\n{self.story()}") from None
        said = self._stdout.read_text()
        return Ended(code, json.loads(said) if said.strip() else {}, self._stderr.read_text())

    def finish(self, limit_s: float = 110.0) -> dict[str, Any]:
        """The summary of a run that ends well."""
        ended = self.wait(limit_s)
        assert ended.code == 0, self.story()
        return ended.summary

    def end(self) -> list[str]:
        if self.launcher.poll() is None:
            self.launcher.kill()
            self.launcher.wait()
        return super().end()


def set_flags(settings: Mapping[str, object]) -> list[str]:
    """`-s section.key=value` for each."""
    return [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]


def seconds_until(event: Event, since: datetime) -> float:
    """From `since` to the event's time stamp."""
    return (datetime.fromisoformat(event["t"]) - since).total_seconds()


def is_open(address: str) -> bool:
    """Whether anything listens there."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1.0).close()
    except OSError:
        return False
    return True


def command(*words: str | Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Another `sparsync` command, to its end."""
    return subprocess.run(
        [*SPARSYNC, *map(str, words)],
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
