"""Processes whose command lines are those of roles, and which do nothing: to be found and struck."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparsync.faults import proc

OWN = ".".join(map(str, (127, *os.getpid().to_bytes(3))))
"""Tests that run beside these in another process have run directories of their own, and must have other addresses."""
ADDRESS = f"{OWN}:45677"
IDLE = """
import signal, sys, threading
signal.signal(signal.SIGUSR1, lambda *_: print("USR1", flush=True))
signal.signal(signal.SIGUSR2, lambda *_: print("USR2", flush=True))
print("ready", flush=True)
while True:
    threading.Event().wait(1.0)
"""
Idle = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Of a run whose coordinator serves at `ADDRESS`."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "address").write_text(ADDRESS + "\n")
    return path


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Idle]:
    """`idle("worker", "--name", "w-0")`: a process that looks like `sparsync worker --name w-0`."""
    script = tmp_path / "sparsync"
    script.write_text(IDLE)
    started: list[subprocess.Popen[str]] = []

    def start(*words: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), *map(str, words)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path))
        assert started[-1].stdout is not None and started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def cluster(idle: Idle, run_dir: Path) -> dict[str, subprocess.Popen[str]]:
    """A coordinator, two servers and two workers of the run, by name."""
    found = {"coordinator": idle("coordinator", "--data-dir", run_dir)}
    for role in ("ps", "worker"):
        for number in range(2):
            name = f"{role}-{number}"
            own = ("--name", name, "--data-dir", run_dir / name)
            found[name] = idle(role, "--coordinator", ADDRESS, *own)
    return found


def state(process: subprocess.Popen[str]) -> str:
    """As /proc has it: R, S, T (stopped)…"""
    found = proc.stat(process.pid)
    return found.state if found else "gone"
