"""The answer to a push is lost, and with it the server or not: the push counts once (P1, P2, P3).

The fault proxy resets a connection just when a call is answered: the server has it, and has made it durable; the
worker cannot know, and sends the same bytes again, to the same server or to the one that came back from its log.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sparsync.faults.rules import Faults, Rule
from tests.cluster.conftest import ROOT, ByHand, Starter
from tests.cluster.proxy import Front
from tests.cluster.roles import Cluster
from tests.cluster.test_digests import equal_runs
from tests.cluster.test_modes import AUDIT, LOSSLESS, MODES, check_audit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
PACED = ROOT / "tests" / "cluster" / "scripts" / "paced.py"
STEPS, PAUSE_S = 100, 0.1
SETTINGS: dict[str, object] = {"run.steps": STEPS, "cluster.servers": 2, "durability.stream_state_every": 5}
PUSH_BYTES = 512
"""Whatever sends more than that is a push or a deposit."""
LOST_S = 60.0
OFTEN = 0.2
"""The chance of each answer."""


class Lossy(Front):
    """A proxy in front of one server that loses answers when it is told to.

    Attributes: `lost`, how many so far.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self.lost, self._seen = seed, 0, threading.Event()
        super().__init__(say=self._count)

    def lose(self, chance: float) -> None:
        """From now on, that chance of each answer."""
        self._seen.clear()
        self.misbehave(Faults([Rule(lose_answers=chance, answered_bytes=PUSH_BYTES)], seed=self._seed))

    def wait_lost(self) -> None:
        """Until an answer has been lost since `lose`."""
        assert self._seen.wait(LOST_S), f"no answer was lost within {LOST_S:g} s"

    def _count(self, text: str) -> None:
        if "with the answer" in text:
            self.lost += 1
            self._seen.set()


@pytest.fixture
def lossy(seed: int) -> Iterator[list[Lossy]]:
    made = [Lossy(seed + i) for i in range(2)]
    yield made
    for proxy in made:
        proxy.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The summary of the run in which one worker did it all, and nothing happened."""
    starter = Starter(tmp_path_factory.mktemp("alone"), {}, environ)
    yield starter(SETTINGS, flags=["--workers", "1"], script=[PACED]).finish()
    starter.end()


def begin(
    by_hand: ByHand, lossy: list[Lossy], script: Path, changes: Mapping[str, object] | None = None
) -> Cluster:
    """Two servers behind a proxy each and two workers, which have settled a step."""
    cluster = by_hand(
        {**SETTINGS, "cluster.workers": 2, **(changes or {})}, script=[script, "--pause", str(PAUSE_S)]
    )
    for number in range(2):
        start_server(cluster, lossy, number)
    for i in range(2):
        cluster.start_worker(f"w-{i}")
    cluster.wait_for_steps(1)
    return cluster


def start_server(cluster: Cluster, lossy: list[Lossy], number: int) -> None:
    own = lossy[number]
    cluster.start_server(f"ps-{number}", "--listen", own.target, "--advertise", own.address)


def lose_answers(cluster: Cluster, lossy: list[Lossy]) -> None:
    """Every fifth one of both servers for some steps."""
    for proxy in lossy:
        proxy.lose(OFTEN)
    for proxy in lossy:
        proxy.wait_lost()
    cluster.wait_for_more_steps(8)
    for proxy in lossy:
        proxy.lose(0.0)


def lose_answer_and_server(cluster: Cluster, lossy: list[Lossy], number: int) -> None:
    """`kill -9` of the server whose answer is lost; all of its answers are, until it is dead. Then it is started."""
    lossy[number].lose(1.0)
    lossy[number].wait_lost()
    cluster.kill_worker(f"ps-{number}")
    lossy[number].lose(0.0)
    moved = len(cluster.events("moved"))
    start_server(cluster, lossy, number)
    cluster.wait_for_another("moved", moved)
    cluster.wait_for_more_steps(2)


def lose_all_sorts(cluster: Cluster, lossy: list[Lossy], draw: random.Random) -> None:
    """Answers alone, then twice one with its server."""
    lose_answers(cluster, lossy)
    for _ in range(2):
        lose_answer_and_server(cluster, lossy, draw.randrange(2))
        cluster.wait_for_more_steps(draw.randrange(1, 4))
    assert all(proxy.lost for proxy in lossy)
    print(f"answers lost: {[proxy.lost for proxy in lossy]}")
    assert not cluster.events("died"), "nobody but the killed servers was away"


@pytest.mark.slow
def test_the_bits_stay(by_hand: ByHand, alone: dict[str, Any], lossy: list[Lossy], seed: int) -> None:
    """Default codecs: whoever counted a push twice, or not at all, would have other residuals and another model."""
    cluster = begin(by_hand, lossy, PACED)
    lose_all_sorts(cluster, lossy, random.Random(seed))
    cluster.hurry()
    equal_runs(alone, cluster.finish())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["async", "sync", "ssp", "quorum"])
def test_each_unit_counts_once(mode: str, by_hand: ByHand, lossy: list[Lossy], seed: int) -> None:
    cluster = begin(by_hand, lossy, AUDIT, {**LOSSLESS, **MODES[mode], "run.steps": 1024})
    lose_all_sorts(cluster, lossy, random.Random(seed))
    check_audit(cluster, cluster.halt())
