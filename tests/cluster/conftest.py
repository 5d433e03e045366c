"""Clusters of real processes on a small text; after each test, no process of its runs is left."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.roles import Cluster
from tests.cluster.running import Train

ROOT = Path(__file__).parents[2]
SMALL = {
    "run.steps": 20,
    "run.eval_every": 10,
    "model.layers": 2,
    "model.width": 64,
    "data.seq_len": 64,
    "data.batch_size": 2,
    "optimizer.warmup_steps": 8,
    "optimizer.min_lr_ratio": 1,
}
"""A model of 130,000 parameters whose learning rate does not depend on the length of the run."""

Start = Callable[..., Train]
ByHand = Callable[..., Cluster]


def slow(*values: object) -> Any:
    """Parameters of a test that only `make test-all` runs: others of the same test stand for them."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of every command: one thread a process, no configuration of the user's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SPARSYNC_", "COVERAGE", "PYTEST_"))}
    paths = str(ROOT)
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus: source code of sorts, the same at every run."""
    draw = random.Random(1)
    path = tmp_path_factory.mktemp("corpus")
    names = [f"{v}_{n}" for v in ("read", "write", "open", "close") for n in ("file", "line", "page", "name")]
    for number in range(40):
        functions = [
            f"def {draw.choice(names)}({draw.choice(names)}):\n    return {draw.randrange(100)}\n\n"
            for _ in range(150)
        ]
        (path / f"file{number}.py").write_text("".join(functions))
    return path


@pytest.fixture(scope="session")
def settings(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What all small runs have in common."""
    return {**SMALL, "data.source": text, "data.cache_dir": tmp_path_factory.mktemp("tokens")}


class Starter:
    """Starts runs, and answers for their processes at the end."""

    def __init__(self, base: Path, settings: Mapping[str, object], environ: Mapping[str, str]) -> None:
        self._base, self._settings, self._environ = base, settings, environ
        self._trains: list[Train] = []

    def __call__(
        self,
        changes: Mapping[str, object] | None = None,
        *,
        without: Sequence[str] = (),
        out: Path | None = None,
        **more: Any,
    ) -> Train:
        """A run with the small settings, `without` some, and `changes`; `more` as `Train` takes it.

        With `out` of an earlier run it is resumed there.
        """
        small = {k: v for k, v in self._settings.items() if k not in without}
        settings, flags = {**small, **(changes or {})}, list(more.pop("flags", ()))
        if out is None:
            out = self._base / f"run-{len(self._trains)}"
            flags += ["--out", str(out)]
        else:
            settings, flags = dict(changes or {}), [*flags, "--resume", str(out)]
        train = Train(out, settings, flags=flags, environ=self._environ, **more)
        self._trains.append(train)
        return train

    def end(self) -> None:
        left = [line for train in self._trains for line in train.end()]
        assert not left, "processes were left:\n" + "\n".join(left)


@pytest.fixture
def train(tmp_path: Path, settings: dict[str, object], environ: dict[str, str]) -> Iterator[Starter]:
    starter = Starter(tmp_path, settings, environ)
    yield starter
    starter.end()


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, object], environ: dict[str, str]
) -> Iterator[Callable[[str], dict[str, Any]]]:
    """`undisturbed(codec)`: the summary of the small run with that codec both ways, 2 servers, 2 workers."""
    starter = Starter(tmp_path_factory.mktemp("undisturbed"), settings, environ)
    summaries: dict[str, dict[str, Any]] = {}

    def of(codec: str) -> dict[str, Any]:
        if codec not in summaries:
            summaries[codec] = starter({"push.codec": codec, "pull.codec": codec}).finish()
        return summaries[codec]

    yield of
    starter.end()


@pytest.fixture
def by_hand(tmp_path: Path, environ: dict[str, str]) -> Iterator[ByHand]:
    """`by_hand(settings, script=…)`: a coordinator; the test starts the other roles, one by one."""
    clusters: list[Cluster] = []

    def start(settings: Mapping[str, object], **more: Any) -> Cluster:
        base = tmp_path / f"cluster-{len(clusters)}"
        clusters.append(Cluster(base, settings, environ=environ, **more))
        return clusters[-1]

    yield start
    left = [line for cluster in clusters for line in cluster.end()]
    assert not left, "processes were left:\n" + "\n".join(left)


@pytest.fixture
def seed() -> int:
    """Of the random moments of one test: printed, and taken from SPARSYNC_TEST_SEED where that is set."""
    chosen = int(os.environ.get("SPARSYNC_TEST_SEED") or random.randrange(1_000_000))
    print(f"to repeat: SPARSYNC_TEST_SEED={chosen}")
    return chosen
