"""How roles end and what they say of it, before they have joined anything."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_has_one_format_to_its_last_line(form: str, environ: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [
                sys.executable,
                "-P",
                "-m",
                "sparsync",
                "coordinator",
                "--log_format",
                form,
                "--data-dir",
                "run",
            ],
            env={**environ, "MASTER_PORT": port},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 71 and done.stdout == ""
    *_, first, last = [line for line in done.stderr.splitlines() if "listen" in line]
    if form == "text":
        assert first.endswith(f"listen = 127.0.0.1:{port}  (MASTER_PORT)")
        assert last.startswith(f"error: cannot listen on 127.0.0.1:{port}")
    else:
        told = [json.loads(line) for line in done.stderr.splitlines()]
        assert {line["role"] for line in told} == {"coordinator"}
        assert told[-1]["level"] == "error" and told[-1]["message"].startswith("cannot listen on")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("role", ["coordinator", "ps", "worker"])
def test_a_data_directory_that_cannot_be_written_ends_a_role_for_good(
    role: str, environ: dict[str, str], tmp_path: Path
) -> None:
    """Before it asks anybody: nobody answers on that port. A server may have to compile its kernels first."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sparsync", role, "--data-dir", "/proc"],
        env={**environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    *_, last = done.stderr.splitlines()
    assert (done.returncode, last.split(";")[0]) == (
        64,
        "error: /proc cannot be written (No such file or directory)",
    )
    assert "Traceback" not in done.stderr
