"""Only processes of this run are found, and only exactly those are signalled."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sparsync.faults import proc
from sparsync.faults.processes import RunProcesses, parse, send
from sparsync.run_directory import RunDirectory
from tests.sparsync.faults.conftest import ADDRESS, Idle

OTHER = "127.0.0.1:45678"
Processes = dict[str, subprocess.Popen[str]]


@pytest.fixture
def processes(run_dir: Path) -> RunProcesses:
    return RunProcesses(RunDirectory(run_dir))


def pids(processes: RunProcesses, role: str) -> list[tuple[str, int]]:
    return [(member.name, member.pid) for member in processes.members(role)]


def test_the_roles_of_a_run_are_found_by_name(
    cluster: Processes, processes: RunProcesses, run_dir: Path
) -> None:
    for role in ("worker", "ps"):
        assert pids(processes, role) == [(f"{role}-{n}", cluster[f"{role}-{n}"].pid) for n in range(2)]
    assert pids(processes, "coordinator") == [("coordinator", cluster["coordinator"].pid)]
    (first, _) = processes.members("ps")
    assert processes.data_dir(first) == (run_dir / "ps-0").resolve()


def test_what_is_not_of_this_run_is_not_found(idle: Idle, processes: RunProcesses, tmp_path: Path) -> None:
    idle("worker", "--coordinator", OTHER, "--name", "worker-0")
    idle("worker", "--name", "worker-1")  # dials the default address
    idle("coordinator", "--data-dir", tmp_path / "other")
    idle("status", "--coordinator", ADDRESS)
    looks_like_one = subprocess.Popen(
        [sys.executable, "-c", "input()", "sparsync", "worker", "--coordinator", ADDRESS],
        stdin=subprocess.PIPE,
    )
    try:
        assert [pids(processes, role) for role in ("worker", "ps", "coordinator")] == [[], [], []]
    finally:
        looks_like_one.communicate(b"\n")


def test_relative_directories_and_addresses_from_the_environment(
    idle: Idle, processes: RunProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSYNC_COORDINATOR", ADDRESS)
    worker, coordinator = idle("worker", "--name=w"), idle("coordinator", "--data-dir=run")
    assert pids(processes, "worker") == [("w", worker.pid)]
    assert pids(processes, "coordinator") == [("coordinator", coordinator.pid)]


def test_one_that_dials_a_proxy_in_front_of_the_coordinator_is_of_the_run(
    idle: Idle, processes: RunProcesses
) -> None:
    worker = idle("worker", "--coordinator", OTHER, "--name", "w")
    assert pids(processes, "worker") == []
    proxy = idle("proxy", "--target", ADDRESS, "--listen", OTHER)
    assert pids(processes, "worker") == [("w", worker.pid)]
    assert [member.pid for member in processes.proxies("coordinator")] == [proxy.pid]


def test_proxies_in_front_of_servers(idle: Idle, processes: RunProcesses) -> None:
    idle("ps", "--coordinator", ADDRESS, "--listen", "127.0.0.1:1001", "--advertise", "127.0.0.1:2001")
    proxy = idle("proxy", "--target", "127.0.0.1:1001", "--listen", "127.0.0.1:2001")
    idle("proxy", "--target", "127.0.0.1:1002", "--listen", "127.0.0.1:2002")
    assert [member.pid for member in processes.proxies("ps")] == [proxy.pid]


def test_a_signal_reaches_who_is_meant(cluster: Processes, processes: RunProcesses) -> None:
    (member, _) = processes.members("worker")
    assert send(member, signal.SIGKILL)
    assert cluster["worker-0"].wait(10) == -signal.SIGKILL
    assert all(process.poll() is None for name, process in cluster.items() if name != "worker-0")
    assert not send(member, signal.SIGKILL), "it has ended"


def test_a_process_id_that_was_handed_out_again_is_refused(
    cluster: Processes, processes: RunProcesses
) -> None:
    """As if another process had this id now: one that began at another moment, or that runs something else."""
    (member, _) = processes.members("worker")
    assert not send(replace(member, started_s=member.started_s - 1), signal.SIGKILL)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        found = proc.stat(other.pid)
        assert found is not None
        assert not send(replace(member, pid=other.pid, started_s=found.started_s), signal.SIGKILL)
        other.communicate(b"\n")
        assert other.returncode == 0
    assert cluster["worker-0"].poll() is None


def test_command_lines() -> None:
    here = Path("/somewhere")
    for words in (
        ["/usr/bin/python", "-P", "-m", "sparsync", "ps", "--parent-pid", "1", "--data-dir", "x"],
        ["/venv/bin/python3", "/venv/bin/sparsync", "ps", "--data-dir=x"],
    ):
        command = parse(words, here)
        assert command is not None and command.role == "ps"
        assert command.data_dir("default") == here / "x"
        assert command.option("--name") is None
    for other in (["vi", "sparsync.py"], ["bash", "-c", "sparsync", "worker"], ["/bin/sparsync"], []):
        assert parse(other, here) is None
