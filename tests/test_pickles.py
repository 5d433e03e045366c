"""No process of ours unpickles anything: heard by an import hook and an audit hook inside real processes.

That no source says so is tests/test_architecture.py's part; here is what really happens, in what others do for us too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVERY_MODULE = """
import importlib, pkgutil
for name in ("wire", "coordinator", "ps", "worker", "sparsync"):
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(package.__path__, name + "."):
        if not found.name.endswith("__main__") and ".lm.train" not in found.name and ".scripts." not in found.name:
            importlib.import_module(found.name)
print("all")
"""


def hooked(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which the hooks are at work."""
    (tmp_path / "hook").mkdir()
    lines = [
        "import sys",
        f"sys.path.insert(0, {str(ROOT)!r})",
        "from tests import pickles",
        "sys.path.pop(0)",
    ]
    (tmp_path / "hook" / "sitecustomize.py").write_text(
        "\n".join([*lines, "pickles.install_from_environment()\n"])
    )
    path = os.pathsep.join([str(tmp_path / "hook"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "SPARSYNC_TEST_PICKLES": str(tmp_path / "offences")}


def offences(tmp_path: Path) -> list[str]:
    path = tmp_path / "offences"
    return path.read_text().splitlines() if path.exists() else []


def python(*arguments: str, tmp_path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=hooked(tmp_path),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def test_no_module_of_ours_asks_for_a_pickling_one(tmp_path: Path) -> None:
    done = python("-c", EVERY_MODULE, tmp_path=tmp_path, cwd=tmp_path)
    assert done.stdout.split() == ["all"], done.stderr
    assert offences(tmp_path) == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import pickle", "wire.bad imports pickle"),
        ("def f():\n    from _pickle import loads\nf()", "wire.bad imports _pickle"),
        ("import json\njson.codecs.__dict__.get('x')", None),
        (
            "from multiprocessing.reduction import ForkingPickler as P\nimport datetime\n"
            "sent = bytes(P.dumps(datetime.date(2026, 1, 1)))\nP.loads(sent)",
            "wire.bad has datetime.date unpickled",
        ),
    ],
)
def test_the_hooks_bite(source: str, told: str | None, tmp_path: Path) -> None:
    module = f"import types; exec({source!r}, {{'__name__': 'wire.bad'}})"
    done = python("-c", module, tmp_path=tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert offences(tmp_path) == ([] if told is None else [told])


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_no_role_has_anything_unpickled_in_a_whole_run(tmp_path: Path) -> None:
    script = ROOT / "tests" / "cluster" / "scripts" / "paced.py"
    settings = ["-s", "run.steps=6", "-s", "durability.stream_state_every=2"]
    done = python(
        *("-P", "-m", "sparsync", "train", "--workers", "1", "--servers", "1", *settings),
        *("--out", str(tmp_path / "run"), "--", str(script)),
        tmp_path=tmp_path,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert offences(tmp_path) == []
    heard = (tmp_path / "offences.processes").read_text()
    for process in (
        "sparsync train",
        "sparsync coordinator",
        "sparsync ps",
        "sparsync worker",
        "worker.heartbeat",
    ):
        assert process in heard
