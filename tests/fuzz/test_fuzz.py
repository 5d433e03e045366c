"""Fuzzing in child processes, whose memory is measured and limited: shortly, and for long in `make test-all`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def fuzz(*arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--json", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode in (0, 1), (done.returncode, done.stderr)
    summary: dict[str, object] = json.loads(done.stdout)
    assert summary["findings"] == []
    return summary


def test_mutated_inputs_are_refused_or_read_as_documented() -> None:
    summary = fuzz("--inputs", "6000", "--seed", "1")
    tried = summary["by_target"]
    assert isinstance(tried, dict)
    assert all(accepted > 0 for name, (_, accepted) in tried.items()), tried


@pytest.mark.slow
@pytest.mark.parametrize("target", ["push-dense", "push-topk", "delta", "planes", "packed"])
def test_each_decoder_for_20_seconds(target: str) -> None:
    fuzz("--seconds", "20", "--seed", "2", "--only", target)
