"""The command lines of train, the roles and the live commands: what is refused, with which exit code."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sparsync.cli import run
from sparsync.launch_plan import Launch

HEAVY = ("torch", "pydantic", "grpc", "numba", "rich", "numpy")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSYNC_COORDINATOR", raising=False)


@pytest.mark.parametrize(
    "command", ["train", "coordinator", "ps", "worker", "status", "top", "set", "drain", "stop"]
)
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from sparsync.cli import run; assert run([sys.argv[1], '--help']) == 0; "
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    root = str(Path(sys.modules["sparsync"].__file__ or "").parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code, command],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": root},
    )
    assert done.stderr == "[]\n" and f"sparsync {command}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "--"], 64, "nothing follows --"),
        (["train", "--", "nowhere.py", "--json"], 66, "no such script"),
        (["train", "-s", "run.stepz=3"], 78, "did you mean run.steps?"),
        (["train", "--workers", "0"], 78, "cluster.workers"),
        (["train", "--mode", "sync", "--resume", "nowhere"], 66, "no such directory"),
        (
            ["train", "--mode", "ssp", "-s", "sync.staleness=2", "--resume", "nowhere"],
            66,
            "no such directory",
        ),
        (["train", "--mode", "async", "--resume", "nowhere"], 66, "no such directory"),
        (
            ["train", "--mode", "async", "-s", "sync.quorum=2"],
            78,
            "only `sync` and `local` close steps short",
        ),
        (["train", "--mode", "asink"], 78, "sync.mode"),
        (["train", "none.toml"], 66, "cannot read the configuration file"),
        (["coordinator", "--config", "none.toml"], 66, "cannot read the configuration file"),
        (["coordinator", "--resume", "nowhere"], 66, "no such directory"),
        (["worker", "nowhere.py", "--lr", "3"], 66, "no such script"),
        (["status"], 64, "which run?"),
        (["status", "nowhere"], 66, "no such directory"),
        (["top"], 64, "which run?"),
        (["top", "nowhere"], 66, "no such directory"),
        (["top", ".", "--interval", "0"], 64, "0.1"),
        (["drain"], 64, "Missing argument"),
        (["drain", "worker-0"], 64, "which run?"),
        (["drain", "worker-0", "."], 66, "no `address` file"),
        (["set", ".", "sync.mode=async"], 66, "no `address` file"),
        (["stop", "."], 66, "no `address` file"),
        (["stop", "--coordinator", "nonsense"], 78, "is no address"),
        (["status", "--coordinator", "127.0.0.1:1", "--tls-ca", "ca.pem"], 78, "TLS needs three files"),
    ],
)
def test_bad_input(
    arguments: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert words in err and out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_coordinator_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert run(["status", "--coordinator", f"127.0.0.1:{unused.getsockname()[1]}"]) == 69
    assert "refused" in capsys.readouterr().err


def test_a_finished_run_shows_its_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "summary.json").write_text('{"steps": 60, "mode": "sync"}')
    assert run(["status", ".", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"steps": 60, "mode": "sync"}
    assert run(["status", "."]) == 0
    assert "mode sync" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["sync", "ssp", "async"])
def test_train_takes_every_mode(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[Launch] = []

    def start(launch: Launch, *, terminal: bool, json_out: bool) -> int:
        launched.append(launch)
        return 0

    monkeypatch.setattr("sparsync.launcher.train", start)
    assert run(["train", "--mode", mode, "--workers", "1"]) == 0
    (launch,) = launched
    assert launch.config.sync.mode == mode and 'mode = "' + mode in launch.config.to_toml()
