"""Chaos among processes that look like a run: the plan is carried out, and nothing stays behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsync.cli import run as command
from sparsync.faults import ballast, proc
from sparsync.faults.chaos import Chaos
from sparsync.faults.outcome import Struck
from sparsync.faults.plan import Plan
from sparsync.faults.warden import Debt, Warden
from sparsync.run_directory import RunDirectory
from tests.sparsync.faults.conftest import ADDRESS, OWN, Idle, state
from wire.errors import NoInput, UsageError

Processes = dict[str, subprocess.Popen[str]]


def until(holds: Callable[[], object], what: str, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def carry_out(run_dir: Path, plan: Plan, *, for_s: float | None = None, **more: Any) -> list[Struck]:
    chaos = Chaos(RunDirectory(run_dir), plan, say=lambda struck: None, **more)
    chaos.check()
    chaos.carry_out(for_s)
    return chaos.struck


def test_it_strikes_whom_the_plan_says_and_nobody_else(cluster: Processes, run_dir: Path) -> None:
    plan = Plan(seed=4, kinds=["kill"], roles=["worker"], every_s=0.3)
    (struck,) = carry_out(run_dir, plan, for_s=0.3)
    victim = f"worker-{plan.fault(0).of(2)}"
    assert struck.target == f"{victim} (pid {cluster[victim].pid})"
    assert cluster[victim].wait(10) == -signal.SIGKILL
    assert all(process.poll() is None for name, process in cluster.items() if name != victim)


def test_where_nobody_is_left_it_says_so(idle: Idle, run_dir: Path) -> None:
    idle("coordinator", "--data-dir", run_dir)
    (struck,) = carry_out(run_dir, Plan(seed=1, kinds=["kill"], roles=["ps"], every_s=0.1), for_s=0.1)
    assert (struck.target, struck.note) == (None, "no ps was there")


def test_stopped_ones_go_on(cluster: Processes, run_dir: Path) -> None:
    seen: list[set[str]] = []
    over, plan = threading.Event(), Plan(seed=2, kinds=["stop"], roles=["worker", "ps"], every_s=0.05)

    def look() -> None:
        while not over.wait(0.01):
            seen.append({name for name, process in cluster.items() if state(process) == "T"})

    looking = threading.Thread(target=look)
    looking.start()
    struck = carry_out(run_dir, plan, for_s=0.1)
    over.set()
    looking.join()
    targets = {(s.target or "").split(" ")[0] for s in struck}
    assert set().union(*seen) == targets and max(map(len, seen)) == 1, "one at a time"
    assert {state(process) for process in cluster.values()} <= {"S", "R"}


def test_slow_ones_run_in_between(cluster: Processes, run_dir: Path) -> None:
    """A fifth of the time is theirs."""
    chaos = Chaos(
        RunDirectory(run_dir), Plan(seed=3, kinds=["slow"], roles=["ps"], every_s=0.01), say=lambda s: None
    )
    thread = threading.Thread(target=chaos.carry_out, args=(0.01,))
    thread.start()
    states = []
    while thread.is_alive():
        states.append("T" in {state(process) for process in cluster.values()})
        time.sleep(0.003)
    thread.join()
    assert 0.3 < sum(states) / len(states) < 0.98
    assert {state(process) for process in cluster.values()} <= {"S", "R"}


def test_a_partition_is_cut_and_mended(cluster: Processes, idle: Idle, run_dir: Path) -> None:
    proxy = idle("proxy", "--target", ADDRESS, "--listen", f"{OWN}:45679")
    plan = Plan(seed=5, kinds=["partition"], roles=["coordinator"], every_s=0.01)
    (struck,) = carry_out(run_dir, plan, for_s=0.01)
    assert struck.target is not None and str(proxy.pid) in struck.target
    assert proxy.stdout is not None
    assert [proxy.stdout.readline() for _ in range(2)] == ["USR1\n", "USR2\n"]


# --- refused before anything happens ---------------------------------------------------------


def test_refusals(cluster: Processes, run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "ps-0").mkdir()

    def refusal(kind: str, **more: Any) -> str:
        with pytest.raises(UsageError) as refused:
            carry_out(run_dir, Plan(seed=1, kinds=[kind], roles=["ps"], every_s=1.0), **more)
        return str(refused.value)

    assert "no `sparsync proxy` stands in front" in refusal("partition")
    assert "start one with --target" in refusal("partition") and "by hand" in refusal("partition")
    assert "--ballast-limit" in refusal("disk")
    assert "bytes free" in refusal("disk", ballast_limit=1000)
    with pytest.raises(NoInput, match="no coordinator"):
        carry_out(tmp_path, Plan(seed=1, kinds=["kill"], roles=["worker"], every_s=1.0))


def test_a_disk_with_data_of_others_is_refused(tmp_path: Path) -> None:
    room = ballast.Room(free=1000, used=50_000, ours=1000)
    with pytest.raises(UsageError, match="49,000 bytes of others"):
        ballast.refuse_shared(tmp_path, room, 40_000)
    ballast.refuse_shared(tmp_path, room, 49_000)


@pytest.mark.root
def test_a_full_disk_is_emptied_again(cluster: Processes, run_dir: Path) -> None:
    (run_dir / "ps-0").mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(run_dir / "ps-0")]
    if os.geteuid() != 0 or subprocess.run(mounted, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root that may mount")
    try:
        full: list[bool] = []

        def say(struck: Struck) -> None:
            full.append(ballast.measure(run_dir / "ps-0").free <= ballast.SPARED_BYTES)

        cluster["ps-1"].kill()
        cluster["ps-1"].wait()
        plan = Plan(seed=1, kinds=["disk"], roles=["ps"], every_s=0.01)
        chaos = Chaos(RunDirectory(run_dir), plan, say=say, ballast_limit=8 << 20)
        chaos.check()
        chaos.carry_out(0.01)
        assert full == [True] and chaos.struck[0].target is not None, chaos.struck
        assert list((run_dir / "ps-0").iterdir()) == []
    finally:
        subprocess.run(["umount", str(run_dir / "ps-0")], check=True)


# --- whatever happens to it --------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_it_has_stopped_goes_on_however_it_ends(
    number: signal.Signals, cluster: Processes, run_dir: Path, environ: dict[str, str]
) -> None:
    words = ["chaos", str(run_dir), "--seed", "1", "--kinds", "stop", "--every", "10ms", "--json"]
    chaos = subprocess.Popen(
        [sys.executable, "-m", "sparsync", *words],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: any(state(p) == "T" for p in cluster.values()), "nobody was stopped")
    (warden,) = proc.descendants(chaos.pid)
    chaos.send_signal(number)
    out, _ = chaos.communicate(timeout=20)
    until(lambda: not proc.lives(warden), "the warden stayed")
    assert {state(process) for process in cluster.values()} <= {"S", "R"}
    if number is signal.SIGKILL:
        assert chaos.returncode == -number
    else:
        assert chaos.returncode == 0
        assert json.loads(out)["struck"] >= 1


def test_a_warden_pays_only_what_is_still_owed(cluster: Processes, tmp_path: Path) -> None:
    kept, removed = tmp_path / "kept", tmp_path / "removed"
    with Warden() as warden:
        with warden.owing(Debt(remove=str(removed))):
            removed.touch()
        assert not removed.exists()
        removed.touch()
        kept.touch()
    assert removed.exists() and kept.exists()


def test_without_a_warden_nothing_is_done(tmp_path: Path) -> None:
    with Warden() as warden:
        os.kill(warden.pid, signal.SIGKILL)
        with (
            pytest.raises(ChildProcessError, match="is gone"),
            warden.owing(Debt(remove=str(tmp_path / "x"))),
        ):
            raise AssertionError("the deed was done")


def test_the_command_tells_what_came_of_it(
    cluster: Processes, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        later = {"t": "2100-01-01T00:00:00.000Z", "event": "step", "step": 1}
        (run_dir / "events.jsonl").write_text(json.dumps(later) + "\n")
        code = command(
            ["chaos", str(run_dir), "--kinds", "kill", "--every", "0.2s", "--for", "0.2s", "--seed", "9"]
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    said = capsys.readouterr()
    assert code == 0
    assert "1 of 1 faults struck; 0 deaths" in said.out and "--seed 9" in said.out
    assert "longest time between two steps" in said.out, "what the run had told before it ended was read"
    assert "kill" in said.err and "worker-" in said.err


def test_the_help_says_what_a_partition_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["chaos", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "partition works only where the run goes through `sparsync proxy`" in told
    assert "refused where there is none" in told


def test_the_table_of_crash_points(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["chaos", "--list-crash-points"]) == 0
    assert "ps.append.before" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--kinds", "kil"], ["--roles", "server"], ["--every", "0"], ["--every", "ten"]]
)
def test_words_that_make_no_sense(words: list[str], run_dir: Path) -> None:
    assert command(["chaos", str(run_dir), *words]) == UsageError.exit_code
