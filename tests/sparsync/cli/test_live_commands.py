"""status, top, set, drain, checkpoint and stop against a coordinator that answers as told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsync.cli import run
from tests.sparsync.cli.conftest import Answers
from wire.errors import Busy, NotWritten, RunOver, SparsyncError, Unreachable

RUNNING: dict[str, Any] = {"run": "r1", "state": "running", "mode": "sync", "step": 3, "total_steps": 9}
DONE = {**RUNNING, "state": "done", "step": 9, "reason": "all steps are done"}


def worker(state: str, **others: Any) -> dict[str, Any]:
    return {"name": "worker-1", "incarnation": 4, "state": state, "gone": None, "units": 12, **others}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSYNC_COORDINATOR", raising=False)


# --- which run ---------------------------------------------------------------------------------


def test_a_run_is_named_by_its_directory_its_address_or_the_environment(
    coordinator: Answers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "address").write_text(coordinator.address + "\n")
    assert run(["status", ".", "--json"]) == run(["top", ".", "--once", "--json"]) == 0
    assert run(["set", ".", "sync.mode=async", "--json"]) == run(["stop", "."]) == 0
    assert run(["drain", "worker-1", ".", "--no-wait"]) == 0
    monkeypatch.setenv("SPARSYNC_COORDINATOR", coordinator.address)
    assert run(["set", "sync.mode=ssp"]) == run(["drain", "worker-1", "--no-wait"]) == 0
    assert coordinator.settings["sync.mode"] == "ssp" and coordinator.drained == ["worker-1", "worker-1"]
    assert coordinator.stops == ["stopped by an operator"]
    assert capsys.readouterr().out.count("\n") == 3


# --- set -----------------------------------------------------------------------------------------


def test_set_tells_what_changes(coordinator: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--coordinator", coordinator.address]
    assert run(["set", *at, "sync.staleness=5", "sync.mode=ssp"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "sync.mode: sync -> ssp, from the next boundary on\nsync.staleness: 5, from the next boundary on\n"
    )
    assert run(["set", *at, "sync.mode=ssp"]) == 0
    assert capsys.readouterr().err == "nothing changes: the run has these settings already\n"


def test_set_as_json(coordinator: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--coordinator", coordinator.address, "--json"]
    assert run(["set", *at, "sync.mode=async", "sync.staleness=3"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"changed": {"sync.mode": "async"}} and err == ""


def test_what_the_coordinator_says_of_a_setting_is_shown_as_it_is(
    coordinator: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--coordinator", coordinator.address]
    assert run(["set", *at, "sync.mode=async", "sync.damping=1"]) == 78
    assert capsys.readouterr().err == "error: sync.damping: not live; live are sync.mode and sync.staleness\n"
    assert coordinator.settings["sync.mode"] == "sync"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["."], "nothing to set"),
        ([".", "sync.mode"], "sync.mode: expected section.key=value"),
        ([".", "sync.mode=ssp", "sync.mode=async"], "sync.mode is given twice"),
        (["sync.mode=ssp"], "which run?"),
        ([], "Missing argument"),
    ],
)
def test_words_that_set_nothing(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["set", *words]) == 64
    assert said in capsys.readouterr().err


def test_a_directory_may_have_an_equals_sign(coordinator: Answers, tmp_path: Path) -> None:
    (tmp_path / "lr=3").mkdir()
    (tmp_path / "lr=3" / "address").write_text(coordinator.address)
    assert run(["set", "lr=3", "sync.mode=async"]) == 0
    assert coordinator.settings["sync.mode"] == "async"


# --- checkpoint ----------------------------------------------------------------------------------


def test_checkpoint_tells_step_and_path(coordinator: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["checkpoint", "--coordinator", coordinator.address]
    assert run(at) == 0
    assert capsys.readouterr() == ("", "checkpoint of step 12: /runs/r1/checkpoints/step-12\n")
    assert run([*at, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"step": 12, "path": "/runs/r1/checkpoints/step-12"}


@pytest.mark.parametrize(
    ("refusal", "code"),
    [(Busy("not begun"), 75), (NotWritten("no space left"), 73), (RunOver("the run is over: done"), 0)],
)
def test_why_there_is_no_checkpoint(
    refusal: SparsyncError, code: int, coordinator: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator.checkpoint = refusal
    assert run(["checkpoint", "--coordinator", coordinator.address, "--json"]) == code
    out, err = capsys.readouterr()
    assert out == "" and str(refusal) in err


# --- drain -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "code", "said"),
    [
        (
            {**RUNNING, "workers": [worker("left", gone="drained by an operator")]},
            0,
            "worker-1 has left: drained by an operator; 12 units computed",
        ),
        (
            {**RUNNING, "workers": [worker("dead", gone="its heartbeats ended")]},
            1,
            "worker-1 died while it was leaving: its heartbeats ended; 12 units computed",
        ),
        ({**DONE, "workers": [worker("computing")]}, 0, "the run ended before worker-1 was out of it"),
        ({**RUNNING, "workers": []}, 0, "worker-1 has left; – units computed"),
    ],
)
def test_drain_waits_until_the_worker_is_gone(
    last: dict[str, Any], code: int, said: str, coordinator: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    older = {**worker("left", gone="an earlier life"), "incarnation": 2}
    coordinator.statuses = [{**RUNNING, "workers": [older, worker("computing")]}] * 2 + [last]
    assert run(["drain", "worker-1", "--coordinator", coordinator.address]) == code
    out, err = capsys.readouterr()
    assert out == "" and err == f"worker-1 is asked to leave\n{said}\n"
    assert coordinator.statuses == [last] and coordinator.drained == ["worker-1"]


def test_drain_as_json(coordinator: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    coordinator.statuses = [{**RUNNING, "workers": [worker("left", gone="drained")]}]
    at = ["--coordinator", coordinator.address, "--json"]
    assert run(["drain", "worker-1", *at]) == run(["drain", "worker-1", *at, "--no-wait"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"name": "worker-1", "incarnation": 4, "state": "left", "gone": "drained", "units": 12},
        {"name": "worker-1", "incarnation": 4},
    ]
    assert err == ""


def test_a_worker_that_is_not_there(coordinator: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drain", "worker-9", "--coordinator", coordinator.address]) == 66
    assert capsys.readouterr().err == "error: worker-9: no such worker in the run; expected worker-1\n"


# --- top -------------------------------------------------------------------------------------------


def test_without_a_terminal_top_is_one_plain_picture(
    coordinator: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator.statuses = [{**RUNNING, "workers": [worker("computing", straggler=True)]}, DONE]
    assert run(["top", "--coordinator", coordinator.address]) == 0
    out, err = capsys.readouterr()
    assert "step 3/9" in out and "computing, straggler" in out and "\x1b" not in out and err == ""
    assert coordinator.statuses == [DONE]


def test_top_as_json_is_a_status_a_line_until_the_run_ends(
    coordinator: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator.statuses = [RUNNING, RUNNING, DONE]
    at = ["--coordinator", coordinator.address]
    assert run(["top", *at, "--json", "--interval", "0.1"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [RUNNING, RUNNING, DONE]


def test_top_bears_a_coordinator_that_is_silent_for_a_while(
    coordinator: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    away = Unreachable("away for a moment")
    coordinator.statuses = [RUNNING, away, away, RUNNING, away, DONE]
    assert run(["top", "--coordinator", coordinator.address, "--json", "--interval", "0.1"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 3 and err.count("does not answer; asking again") == 2


def test_a_run_that_was_finishing_has_ended_when_its_coordinator_is_gone(
    coordinator: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator.statuses = [{**RUNNING, "state": "finishing"}, Unreachable("gone")]
    assert run(["top", "--coordinator", coordinator.address, "--json", "--interval", "0.1"]) == 0
    states = [json.loads(line)["state"] for line in capsys.readouterr().out.splitlines()]
    assert states == ["finishing", "done"]


def test_a_coordinator_that_never_answers_is_an_error(
    coordinator: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator.statuses = [Unreachable("not today")]
    assert run(["top", "--coordinator", coordinator.address, "--json"]) == 69
    assert capsys.readouterr() == ("", "error: not today\n")


def test_on_a_terminal_top_draws_until_the_run_ends(
    coordinator: Answers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    coordinator.statuses = [RUNNING, {**RUNNING, "step": 4}, DONE]
    assert run(["top", "--coordinator", coordinator.address, "--interval", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "step 3/9" in out and "step 4/9" in out and "all steps are done" in out


def test_top_of_a_run_that_has_ended_is_its_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_text('{"steps": 60, "mode": "async"}')
    assert run(["top", "."]) == 0
    assert "mode async" in capsys.readouterr().out
