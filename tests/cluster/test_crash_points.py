"""Whatever is killed at a crash point, and started again without it: not a bit of the run changes (P1 to P3)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cluster.conftest import Starter
from tests.cluster.test_digests import equal_runs
from wire.crash import POINTS, VARIABLE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


class Life(NamedTuple):
    """Who is killed at a point, how often it has come by then, and what of the run makes it come by."""

    role: str
    time: int = 3
    changes: dict[str, object] = {}  # noqa: RUF012


SERVER = "ps"
DISK: dict[str, object] = {"durability.ack": "disk"}
LIVES = {
    "ps.append.before": Life(SERVER),
    "ps.append.after": Life(SERVER),
    "ps.fsync.before": Life(SERVER, 5, DISK),
    "ps.fsync.after": Life(SERVER, 5, DISK),
    "ps.segment.before": Life(SERVER, 1),
    "ps.segment.after": Life(SERVER, 1),
    "ps.snapshot.before": Life(SERVER, 1),
    "ps.snapshot.written": Life(SERVER, 1),
    "ps.snapshot.after": Life(SERVER, 1),
    "ps.term.before": Life(SERVER, 1),
    "ps.term.after": Life(SERVER, 1),
    "coordinator.journal.before": Life("coordinator", 20),
    "coordinator.journal.after": Life("coordinator", 20),
    "coordinator.dismissed.after": Life("coordinator", 1),
    "checkpoint.manifest.before": Life("coordinator", 1, {"run.checkpoint_every": 6}),
    "checkpoint.manifest.after": Life("coordinator", 1, {"run.checkpoint_every": 6}),
    "worker.commit.before": Life("worker"),
    "worker.commit.after": Life("worker"),
    "worker.acknowledged.after": Life("worker"),
    "worker.deposit.before": Life("worker"),
    "worker.deposit.after": Life("worker"),
    "worker.apply.before": Life("worker"),
    "worker.apply.after": Life("worker"),
}
PROCESSES = {"coordinator": 1, SERVER: 2, "worker": 2}
QUICK = ("coordinator.dismissed.after",)


def test_every_crash_point_is_tried() -> None:
    assert LIVES.keys() == POINTS.keys()


def _marked(point: str) -> Any:
    return pytest.param(point, marks=() if point in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("point", [_marked(point) for point in LIVES])
def test_a_process_dies_at_a_crash_point(
    point: str,
    tmp_path: Path,
    settings: dict[str, object],
    environ: dict[str, str],
    undisturbed: Callable[[str], dict[str, Any]],
) -> None:
    """All processes of the role, each once."""
    life = LIVES[point]
    starter = Starter(tmp_path, settings, {**environ, VARIABLE: f"{point}:{life.time}"})
    run = starter({"durability.stream_state_every": 3, **life.changes})
    summary = run.finish(200)
    starter.end()
    assert 1 <= summary["restarts"] <= PROCESSES[life.role], "each is killed once"
    if life.role == "worker":
        assert len(run.events("died")) >= 1
    equal_runs(undisturbed("auto"), summary)
