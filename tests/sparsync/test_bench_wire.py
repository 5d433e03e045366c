"""`sparsync bench wire` with real processes: bare streams, and a small cluster against them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparsync.bench import raw


def test_bare_streams_move_every_byte_between_processes() -> None:
    clients = raw.run(size=(3 << 20) + 5, clients=2, servers=2, seconds=0.1)
    assert [len(done) >= raw.LEAST_EXCHANGES for done in clients] == [True, True]
    for exchange in (e for done in clients for e in done):
        assert exchange.begin < exchange.pushed < exchange.pulled


def test_messages_are_a_mebibyte_and_the_rest() -> None:
    assert [len(m) for m in raw.messages((2 << 20) + 7)] == [1 << 20, 1 << 20, 7]
    assert list(raw.messages(0)) == []


@pytest.mark.cluster
def test_a_quick_run_accounts_for_its_bytes_and_its_time(tmp_path: Path, environ: dict[str, str]) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "sparsync",
            "bench",
            "wire",
            "--quick",
            "--json",
            "--out",
            str(tmp_path),
        ],
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (tmp_path / "wire.html").read_text().count("<svg") == 3
    (run,) = result["runs"]
    size = result["options"]["mb"] * 1e6
    assert run["frame_bytes_pushed"] == pytest.approx(size, rel=0.01)
    for way in ("pushed", "pulled"):  # the promise: within 3% of the codec's own count
        assert run[f"socket_bytes_{way}"]["median"] == pytest.approx(run[f"frame_bytes_{way}"], rel=0.03)
    assert {"ps", "worker", "coordinator"} <= run["cpu_s_per_gb"].keys()
    assert {"client", "server"} <= result["bare"]["cpu_s_per_gb"].keys()
    assert 0 < run["share_of_bare"]["median"] < 2
    spans = run["phases"]
    assert list(spans) == ["collect and encode", "push", "settle", "pull", "apply"]
    assert all(span["begin_s"] <= span["end_s"] for span in spans.values())
    assert spans["apply"]["end_s"] == pytest.approx(run["exchange_s"]["median"], rel=0.5)
