"""Bad input: a clear message, a documented exit code, nothing half-started left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cluster.conftest import Starter
from wire import errors

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
FAULTY = Path(__file__).parent / "scripts" / "faulty.py"


def sparsync(*arguments: object, environ: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparsync", *map(str, arguments)]
    return subprocess.run(command, env=dict(environ), cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (["-s", "run.stepz=3"], errors.ConfigError, "did you mean run.steps"),
        (["-s", "run.steps=soon"], errors.ConfigError, "expected integer"),
        (["-s", "data.source=/no/such/place"], errors.NoInput, "data list"),
        (["-s", "data.source={empty}"], errors.DataRefused, "no text"),
        (["--", "no_such_script.py"], errors.NoInput, "no_such_script.py"),
        (["--resume", "no-such-run"], errors.NoInput, "no-such-run"),
        (["--", "{shadow}/train.py"], errors.ShadowedModule, "worker.py"),
    ],
)
def test_what_train_refuses_before_anything_starts(
    arguments: list[str],
    error: type[errors.SparsyncError],
    told: str,
    tmp_path: Path,
    environ: dict[str, str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "shadow").mkdir()
    for name in ("train.py", "worker.py"):
        (tmp_path / "shadow" / name).touch()
    places = {"empty": tmp_path / "empty", "shadow": tmp_path / "shadow"}
    before = set(tmp_path.rglob("*"))
    done = sparsync("train", *[a.format(**places) for a in arguments], environ=environ, cwd=tmp_path)
    assert done.returncode == error.exit_code, done.stderr
    assert told in done.stderr and "Traceback" not in done.stderr
    assert set(tmp_path.rglob("*")) == before, "something half-started is left"


@pytest.mark.parametrize(
    ("fault", "error", "told"),
    [
        ("nan", errors.BadUnit, "the loss is nan"),
        pytest.param(
            "gradient", errors.BadUnit, "the gradient of bias is not finite", marks=pytest.mark.slow
        ),
        ("raises", errors.ScriptFailed, "ValueError: a fault of the script"),
        pytest.param("twice", errors.UsageError, "session.step was called twice", marks=pytest.mark.slow),
        ("differs", errors.ModelMismatch, "parameter 'weight' has shape"),
        pytest.param(
            "optimizer", errors.ModelMismatch, "the servers cannot run Adagrad", marks=pytest.mark.slow
        ),
        ("empty", errors.DataRefused, "the dataset is empty"),
    ],
)
def test_what_a_script_does_wrong(
    fault: str, error: type[errors.SparsyncError], told: str, train: Starter
) -> None:
    run = train({"run.steps": 8}, script=[FAULTY, fault])
    ended = run.wait()
    assert ended.code == error.exit_code, ended.talk
    assert told in ended.talk
    if error is errors.BadUnit:
        assert (run.out / "checkpoints" / "step-4" / "manifest.json").exists(), "nothing before it is lost"


def test_a_bad_unit_that_may_be_skipped_is_counted(train: Starter) -> None:
    summary = train({"run.steps": 8, "run.on_bad_unit": "skip"}, script=[FAULTY, "nan"]).finish()
    assert summary["steps"] == 8
    assert summary["units_empty"] == 4, "the four units of step 3"
    assert summary["units_settled"] == 28


def test_a_port_that_is_taken(tmp_path: Path, environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = sparsync("coordinator", "--listen", f"127.0.0.1:{port}", environ=environ, cwd=tmp_path)
    assert done.returncode == errors.PortTaken.exit_code
    assert f"127.0.0.1:{port}" in done.stderr


def test_another_machine_may_not_come_in_without_tls(tmp_path: Path, environ: dict[str, str]) -> None:
    done = sparsync("coordinator", "--listen", "0.0.0.0:0", environ=environ, cwd=tmp_path)
    assert done.returncode == errors.PermissionRefused.exit_code
    assert "--tls-ca" in done.stderr and "--insecure" in done.stderr


@pytest.mark.parametrize("role", ["ps", "worker"])
def test_a_coordinator_that_is_not_there(role: str, tmp_path: Path, environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    done = sparsync(role, "--coordinator", address, "--join-timeout", 1, environ=environ, cwd=tmp_path)
    assert done.returncode == errors.Unreachable.exit_code
    assert f"connecting to {address}" in done.stderr, "the wait is visible"
    assert "nothing listens there" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir()), "something half-started is left"
