"""A crash point kills the process that the environment names it for, and no other; all of them are in one table."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wire.crash import POINTS, VARIABLE, chosen, crash_point
from wire.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PASS_BY = """
from wire.crash import crash_point
for _ in range(3):
    crash_point("ps.append.before")
    print("before", flush=True)
    crash_point("ps.append.after")
    print("after", flush=True)
"""


def pass_by(value: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PASS_BY],
        env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: value},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("ps.append.before", []),
        ("ps.append.after", ["before"]),
        ("ps.append.before:2", ["before", "after"]),
        ("ps.append.after:3", ["before", "after", "before", "after", "before"]),
    ],
)
def test_it_kills_the_nth_time(value: str, said: list[str]) -> None:
    done = pass_by(value)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == said


@pytest.mark.parametrize("value", ["", "coordinator.journal.before", "ps.append.before:4"])
def test_what_is_not_come_by_kills_nothing(value: str) -> None:
    done = pass_by(value)
    assert done.returncode == 0 and len(done.stdout.split()) == 6


def test_a_name_that_is_not_in_the_table() -> None:
    with pytest.raises(ConfigError, match=r"did you mean ps.append.before"):
        chosen("ps.apend.before")
    with pytest.raises(ConfigError, match="expected NAME or NAME:N"):
        chosen("ps.append.before:0")
    with pytest.raises(AssertionError, match="POINTS"):
        crash_point("ps.append.meanwhile")


def test_the_table_has_the_crash_points_of_the_code_and_no_other() -> None:
    called = {
        node.args[0].value
        for package in ("coordinator", "ps", "sparsync", "wire", "worker")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "crash_point"
        and isinstance(node.args[0], ast.Constant)
    }
    assert called == POINTS.keys()
