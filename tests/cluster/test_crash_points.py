"""A worker that is killed at a crash point is started again without it: not a bit of the run changes (P1 to P3)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import Starter
from tests.cluster.test_digests import equal_runs
from wire.crash import POINTS, VARIABLE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
WORKER = [name for name in POINTS if name.startswith("worker.")]


@pytest.mark.slow
@pytest.mark.parametrize("point", WORKER)
def test_workers_die_at_a_crash_point(
    point: str,
    tmp_path: Path,
    settings: dict[str, object],
    environ: dict[str, str],
    undisturbed: Callable[[str], dict[str, Any]],
) -> None:
    """Both workers, each at the third time that it comes by."""
    starter = Starter(tmp_path, settings, {**environ, VARIABLE: f"{point}:3"})
    run = starter({"durability.stream_state_every": 3})
    summary = run.finish(200)
    starter.end()
    assert len(run.events("died")) >= 1
    assert 1 <= summary["restarts"] <= 2, "each is killed once"
    equal_runs(undisturbed("topk"), summary)
