"""Kernels are compiled by one process for all that start together, and by none of those; each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILL = """
import json, sys
from wire import compiled
compiled.FILL = sys.argv[1] if len(sys.argv) > 1 else compiled.FILL
compiled.fill_cache()
"""
LOAD = """
from wire.codec import kernels
from wire.memory import held
kernels.warm()
stats = kernels.encode_blocks.stats
print(json.dumps([sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), held().used]))
"""


def start(cache: Path, program: str, *words: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": f"{ROOT}:{cache}"}
    command = [sys.executable, "-P", "-c", program, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environ, stdout=pipe, stderr=pipe, text=True)


def end(process: subprocess.Popen[str]) -> str:
    told, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return told


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """With a compiler that takes a while, and writes down that it was called; and one that fails."""
    note = f"open({str(tmp_path / 'called')!r}, 'a').write('x')"
    (tmp_path / "slow.py").write_text(f"import time\n{note}\ntime.sleep(1)\n")
    (tmp_path / "fails.py").write_text(f"{note}\nraise SystemExit('no compiler')\n")
    (tmp_path / "stays.py").write_text(f"{note}\nfrom wire.codec.kernels import __main__\n")
    return tmp_path


def calls(cache: Path) -> int:
    called = cache / "called"
    return len(called.read_text()) if called.exists() else 0


def test_one_compiles_for_all(cache: Path) -> None:
    for process in [start(cache, FILL, "slow") for _ in range(3)]:
        end(process)
    assert calls(cache) == 1
    end(start(cache, FILL, "slow"))
    assert calls(cache) == 1, "the cache is whole"


def test_what_another_version_cached_is_not_taken_for_whole(cache: Path) -> None:
    end(start(cache, FILL, "slow"))
    (stamp,) = cache.rglob("whole-*")
    stamp.rename(stamp.with_name("whole-another"))
    end(start(cache, FILL, "slow"))
    assert calls(cache) == 2


def test_who_waits_for_long_compiles_itself(cache: Path) -> None:
    first = start(cache, FILL, "slow")
    while not calls(cache):
        time.sleep(0.01)
    impatient = start(cache, "from wire import compiled; compiled.LONGEST_S = 0.0\n" + FILL, "slow")
    end(impatient)
    assert calls(cache) == 1
    end(first)


def test_where_it_fails_the_next_one_tries_again(cache: Path) -> None:
    for _ in range(2):
        end(start(cache, FILL, "fails"))
    assert calls(cache) == 2


@pytest.mark.slow
def test_those_that_wait_compile_nothing(tmp_path: Path) -> None:
    told = [json.loads(end(process)) for process in [start(tmp_path, FILL + LOAD) for _ in range(2)]]
    assert [(hits > 0, misses) for hits, misses, _ in told] == [(True, 0)] * 2
    assert len(list(tmp_path.rglob("whole-*"))) == 1, "it ended well"
    hits, misses, used = json.loads(end(start(tmp_path / "none", "import json" + LOAD)))
    assert (hits, misses > 0) == (0, True), "without it everybody does"
    assert used > max(other for _, _, other in told) + 50e6


@pytest.mark.slow
def test_the_compiler_ends_with_whom_it_works_for(cache: Path) -> None:
    process = start(cache, FILL, "stays")
    deadline = time.monotonic() + 60
    while not calls(cache):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate()
    assert children
    while any(Path(f"/proc/{child}/stat").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
