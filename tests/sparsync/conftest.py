"""What the tests of commands have in common."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a command: one thread a process, nothing configured, an empty cache, this tree's packages."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SPARSYNC_", "COVERAGE", "PYTEST_"))}
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    return {**kept, **own}
