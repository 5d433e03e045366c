"""SIGTERM before a role has begun anything: it ends with 0, as a service manager expects."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def handles_sigterm(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & (1 << (signal.SIGTERM - 1)))


@pytest.mark.parametrize("role", ["ps", "worker"])
def test_a_role_that_is_still_loading_ends_with_0(role: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparsync", role, "--coordinator", "127.0.0.1:9"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not handles_sigterm(process.pid):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said.decode()
