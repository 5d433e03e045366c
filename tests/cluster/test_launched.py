"""Roles without a flag of their own, as torchrun and its like start them: the environment says who they are."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "scripts"
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(110)]


def start(words: list[str], environ: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "sparsync", *words]
    return subprocess.Popen(command, env=environ, cwd=cwd, stderr=subprocess.PIPE, text=True)


def test_names_numbers_and_addresses_come_from_the_environment(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    told = {**environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    steps = ["-s", "run.steps=3", "-s", "cluster.servers=1"]
    script = [str(SCRIPTS / "counted.py")]
    processes = [
        start(["coordinator", *steps, "--data-dir", "run"], told, tmp_path),
        start(["ps"], told, tmp_path),
    ]
    for rank in ("0", "1"):
        there = {**told, "RANK": rank, "LOCAL_RANK": rank}
        processes.append(start(["worker", *script], there, tmp_path))
    try:
        said = [process.communicate(timeout=100)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0, 0, 0], said
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    joined = sorted(event["name"] for event in events if event["event"] == "joined")
    assert joined == ["ps-0", "worker-0", "worker-1"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["steps"], summary["workers"]) == (3, 2)
    assert f"listen = 127.0.0.1:{port}  (MASTER_PORT)" in said[0]
    for told_by in said[1:]:
        assert f"coordinator = 127.0.0.1:{port}  (MASTER_ADDR, MASTER_PORT)" in told_by
    assert "name = worker-1  (RANK)" in said[3]
