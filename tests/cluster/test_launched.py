"""Roles without a flag of their own, as torchrun and its like start them: the environment says who they are."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sparsync.exporting import export, find_source
from sparsync.report.page import write_report
from sparsync.run_directory import RunDirectory

DENSE = ["-s", "push.codec=dense", "-s", "pull.codec=dense"]
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
    steps = ["-s", "run.steps=3", "-s", "cluster.servers=1", "-s", "optimizer.aggregate=sum", *DENSE]
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
    look_back(tmp_path / "run", events, summary)


def look_back(run: Path, events: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """The report tells what the workers did; the exported model is what the servers held, bit for bit."""
    assert sum(event["units"] for event in events if event["event"] == "contributed") == 12
    path, history = write_report(RunDirectory(run))
    assert "Nothing went wrong" in path.read_text() and history.figures[-1]["units_settled"] == 12
    assert set(history.processes) == {"coordinator", "ps-0", "worker-0", "worker-1"}
    exported = export(find_source(run, step=None, say=print), run / "model", model="x")
    assert exported.step == 3 and exported.buffers == 0
    counts = load_file(run / "model" / "model.safetensors")["counts"]
    assert hashlib.sha256(counts.numpy().tobytes()).hexdigest() == summary["params_digest"]
    assert float(counts.sum()) == summary["samples"] == 3 * 4 * 64
