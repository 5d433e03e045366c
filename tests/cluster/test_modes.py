"""The audit in every mode: each unit is applied once, whatever is done to workers, in whichever order (P2, P5).

The script of `examples/audit.py` pushes -1 at coordinate i for unit i; the servers sum. Beside what the script
sees, the test reads x and x̂ from the run's last checkpoint.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.cluster.conftest import ROOT, ByHand, Starter, slow
from tests.cluster.proxy import Front
from tests.cluster.roles import DRAIN_S, NOTICED_S, STOPPED_S, Cluster, wait_since
from tests.cluster.running import POLL_S, Run, seconds_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
AUDIT = ROOT / "examples" / "audit.py"
LOSSLESS = {"push.codec": "dense", "pull.codec": "dense", "optimizer.aggregate": "sum"}
STREAMS, STEPS, PAUSE_S = 4, 1024, 0.03
"""As many units as one block has elements, and so slow that no history here is longer."""
FRAME_BYTES = 2 * STREAMS * STEPS * 4
"""Of a push to one of two servers, each of which holds two of the four rows."""
MODES: dict[str, dict[str, object]] = {
    "sync": {"sync.mode": "sync"},
    "ssp": {"sync.mode": "ssp", "sync.staleness": 2},
    "async": {"sync.mode": "async"},
    "delayed": {"sync.mode": "delayed"},
    "quorum": {"sync.mode": "sync", "sync.quorum": 3, "sync.deadline_s": 0.1},
}
Proxies = list[Front]


# --- what is counted -----------------------------------------------------------------------------


def check_audit(run: Run, summary: dict[str, Any]) -> None:
    """Every unit of the settled steps stands once in each copy, on the servers and as published; no other does."""
    units = STREAMS * summary["steps"]
    assert units > 0
    for model in ("model", "published"):
        copies = load_file(run.out / "checkpoints" / f"step-{summary['steps']}" / f"{model}.safetensors")
        counts = copies["copies"]
        wrong = {
            int(i): counts[:, i].tolist() for i in (counts[:, :units] != 1).any(axis=0).nonzero()[0][:20]
        }
        assert not wrong, f"{model}: applied other than once: {wrong} of {units} units\n{run.story()}"
        assert not counts[:, units:].any(), f"{model}: units beyond the last step were applied"
    audit = json.loads((run.out / "audit.json").read_text())
    assert (audit["units"], audit["applied_once"]) == (units, units)
    assert audit["copies_agree"] and audit["elsewhere_zero"]
    assert summary["units_settled"] + summary["units_empty"] == units
    assert summary["units_empty"] == 0


# --- histories -----------------------------------------------------------------------------------


class History:
    """What happens to the workers of one run: drawn from a seed; every worker that is left ends well.

    Args:
        cluster: of which these workers are at work.
    """

    def __init__(self, cluster: Cluster, names: list[str], draw: random.Random) -> None:
        self.cluster, self.draw = cluster, draw
        self.working = list(names)
        self._started = len(names)

    def take(self) -> str:
        """One of those at work, who is from now on no more."""
        name = self.draw.choice(sorted(self.working))
        self.working.remove(name)
        return name

    def pause(self, at_most_s: float) -> None:
        """A moment in which work goes on."""
        time.sleep(self.draw.uniform(0.0, at_most_s))

    def add(self) -> str:
        """One more worker, under a name of its own; until it works."""
        name = f"w-{self._started}"
        self._started += 1
        self.again(name)
        return name

    def again(self, name: str) -> None:
        """Started under a name that is free again, as a service manager does; until it works."""
        self.cluster.start_worker(name)
        self.cluster.wait_working(name)
        self.working.append(name)

    def kill(self) -> str:
        """`kill -9`; noticed within two seconds."""
        name = self.take()
        at = self.cluster.kill_worker(name)
        died = self.cluster.wait_given_up(name, at)
        assert seconds_until(died, at) <= 2.0, died
        return name

    def drain(self) -> str:
        """SIGTERM or `sparsync drain`: exit code 0 within ten seconds."""
        name = self.take()
        if self.draw.random() < 0.5:
            self.cluster.term(name)
        else:
            self.cluster.command("drain", name)
        assert self.cluster.wait_left(name) <= DRAIN_S
        return name

    def stop(self) -> tuple[str, int, datetime]:
        """SIGSTOP, with or without the heartbeat process: name, incarnation, when."""
        name = self.take()
        incarnation = self.cluster.incarnation(name)
        return name, incarnation, self.cluster.stop(name, heartbeat=self.draw.random() < 0.5)

    def cont(self, name: str, incarnation: int, at: datetime) -> None:
        """SIGCONT 8 s after it was stopped: it was given up, and joins again by itself, in the same process."""
        died = self.cluster.wait_given_up(name, at)
        assert seconds_until(died, at) <= NOTICED_S, died
        wait_since(at, STOPPED_S)
        self.cluster.cont(name)
        again = self.cluster.wait_joined(name, after=incarnation, limit_s=15)
        assert again["pid"] == self.cluster.own_pid(name)
        self.cluster.wait_working(name, after=incarnation)
        self.working.append(name)

    def everything(self) -> None:
        """One is stopped for 8 s; meanwhile one is killed, one comes, one is sent away."""
        self.pause(0.5)
        stopped = self.stop()
        self.pause(2.0)
        killed = self.kill()
        if self.draw.random() < 0.5:
            self.again(killed)
        else:
            self.add()
        self.pause(1.0)
        self.drain()
        self.cont(*stopped)
        self.pause(1.0)


def begin(by_hand: ByHand, changes: dict[str, object], *, steps: int = STEPS, workers: int = 3) -> Cluster:
    """The audit on two servers with w-0, w-1 …, all at work."""
    members = {"cluster.servers": 2, "cluster.workers": workers}
    cluster = by_hand(
        {**LOSSLESS, **members, "run.steps": steps, **changes}, script=[AUDIT, "--pause", str(PAUSE_S)]
    )
    cluster.start_servers(2)
    for i in range(workers):
        cluster.start_worker(f"w-{i}")
    for i in range(workers):
        cluster.wait_working(f"w-{i}")
    return cluster


@pytest.mark.parametrize("mode", ["async", slow("quorum"), slow("sync"), slow("ssp"), slow("delayed")])
def test_each_unit_counts_once(mode: str, by_hand: ByHand, seed: int) -> None:
    cluster = begin(by_hand, MODES[mode])
    history = History(cluster, ["w-0", "w-1", "w-2"], random.Random(seed))
    history.everything()
    check_audit(cluster, cluster.halt())


@pytest.mark.parametrize(
    "way", [("async", "ssp", "sync"), slow(("delayed", "async", "delayed", "sync"))], ids=" ".join
)
def test_the_mode_is_switched_to_and_fro(by_hand: ByHand, seed: int, way: tuple[str, ...]) -> None:
    """From sync on through other modes and back while a worker is killed, one comes, and one is sent away."""
    cluster = begin(by_hand, MODES["sync"])
    history = History(cluster, ["w-0", "w-1", "w-2"], random.Random(seed))
    acts = [history.kill, history.add, history.drain, lambda: history.pause(1.0)][: len(way)]
    history.draw.shuffle(acts)
    for mode, act in zip(way, acts, strict=True):
        cluster.command("set", f"sync.mode={mode}")
        history.pause(0.3)
        act()
        status = cluster.wait_until(f"mode {mode}", lambda s, mode=mode: s["mode"] == mode)
        cluster.wait_for_steps(status["step"] + 3)
    summary = cluster.halt()
    check_audit(cluster, summary)
    assert summary["mode"] == "sync"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ssp", "async", "quorum"])
def test_killed_workers_of_train_come_back(mode: str, train: Starter, seed: int) -> None:
    """To the last step, under `sparsync train`, which starts dead workers again."""
    draw, steps = random.Random(seed), 200
    changes = {**LOSSLESS, **MODES[mode], "run.steps": steps}
    run = train(changes, flags=["--workers", "3", "--servers", "2"], script=[AUDIT, "--pause", "0.02"])
    run.wait_for("begun")
    for number in range(2):
        time.sleep(draw.uniform(0.0, 0.5))
        name = draw.choice(sorted(run.pids("worker")))
        run.kill_worker(name)
        run.wait_for_another("died", number, limit_s=10)
        run.wait_for_another("joined", 5 + number)
    summary = run.finish()
    assert summary["steps"] == steps
    check_audit(run, summary)


@pytest.mark.slow
def test_more_workers_than_units_a_step_come_too_late_and_are_told(train: Starter) -> None:
    """Three of them with one unit a step: each is two steps late or more. With sixteen they are less than one."""
    changes = {"sync.mode": "async", "run.steps": 300, "run.eval_every": 0}
    late = train({**changes, "sync.units_per_step": 1}, flags=["--workers", "3", "--servers", "1"])
    summary = late.finish()
    (told,) = late.events("late_units")
    assert (told["workers"], told["units_per_step"]) == (3, 1) and told["steps"] > 1.5
    seen = {int(steps): count for steps, count in summary["staleness"].items()}
    assert sum(steps * count for steps, count in seen.items()) > sum(seen.values()), seen
    shared = train(
        {**changes, "sync.units_per_step": 16, "run.steps": 60}, flags=["--workers", "3", "--servers", "1"]
    )
    seen = {int(steps): count for steps, count in shared.finish()["staleness"].items()}
    assert sum(steps * count for steps, count in seen.items()) < sum(seen.values()), seen
    assert not shared.events("late_units")


@pytest.mark.slow
def test_the_audit_bites_in_async(train: Starter, tmp_path: Path) -> None:
    """A unit that counts twice is found, and no other."""
    script = Path(shutil.copy(AUDIT, tmp_path / "audit.py"))
    planted = script.read_text().replace(
        "loss.backward()", "loss.backward(torch.tensor(2.0 if unit == 17 else 1.0))"
    )
    script.write_text(planted)
    changes = {**LOSSLESS, **MODES["async"], "run.steps": 8}
    run = train(changes, flags=["--workers", "2", "--servers", "1"], script=[script])
    ended = run.wait()
    assert ended.code == 70, run.story()
    assert "1 of 32 units were not applied exactly once" in ended.talk
    assert json.loads((run.out / "audit.json").read_text())["wrong"] == {"17": [2.0, 2.0]}


# --- accepted on one of two shards ---------------------------------------------------------------


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    """In front of two servers that are to listen on the ports behind them."""
    made = [Front() for _ in range(2)]
    yield made
    for proxy in made:
        proxy.close()


@pytest.mark.parametrize("mode", [slow("async"), slow("sync"), slow("ssp"), slow("delayed")])
def test_a_unit_that_stands_on_one_shard_only(mode: str, by_hand: ByHand, proxies: Proxies) -> None:
    """Its worker is stopped before the other shard has it; another redoes it there; then the first goes on.

    What the first had sent to the other shard comes through after all, when its unit has been redone.
    """
    members = {"cluster.servers": 2, "cluster.workers": 2, "run.steps": STEPS}
    cluster = by_hand({**LOSSLESS, **members, **MODES[mode]}, script=[AUDIT, "--pause", str(PAUSE_S)])
    for number, proxy in enumerate(proxies):
        cluster.start_server(f"ps-{number}", "--listen", proxy.target, "--advertise", proxy.address)
    for name in ("victim", "heir"):
        cluster.start_worker(name)
    for name in ("victim", "heir"):
        cluster.wait_working(name)
    victim, before = cluster.own_pid("victim"), cluster.incarnation("victim")
    there, not_there = proxies

    not_there.hold(victim)
    wait_sent(there, victim)
    at = cluster.stop("victim")
    died = cluster.wait_given_up("victim", at)
    assert seconds_until(died, at) <= NOTICED_S
    cluster.wait_for_more_steps(3)
    redone = sent_more(not_there, there, cluster.own_pid("heir"))
    assert redone > FRAME_BYTES / 2, f"{redone} bytes more to the shard that lacked the unit"
    not_there.release(victim)
    wait_since(at, STOPPED_S)
    cluster.cont("victim")

    again = cluster.wait_joined("victim", after=before, limit_s=15)
    assert again["pid"] == victim
    cluster.wait_working("victim", after=before)
    cluster.wait_for_more_steps(3)
    check_audit(cluster, cluster.halt())


def wait_sent(proxy: Front, pid: int, *, limit_s: float = 20.0) -> None:
    """Until this process has sent a whole push through `proxy`: two of them, or one and then no more."""
    began, quiet_since = proxy.sent(pid), time.monotonic()
    deadline, last = quiet_since + limit_s, began
    while time.monotonic() < deadline:
        if (sent := proxy.sent(pid)) != last:
            last, quiet_since = sent, time.monotonic()
        whole = last - began >= FRAME_BYTES and time.monotonic() - quiet_since > 0.5
        if whole or last - began >= 2.5 * FRAME_BYTES:
            return
        time.sleep(POLL_S)
    raise AssertionError(f"{proxy.sent(pid) - began} bytes in {limit_s:g} s, a push has {FRAME_BYTES}")


def sent_more(here: Front, there: Front, pid: int) -> float:
    """How many bytes more this process has sent here than there: the median over a while of equal pushes to both."""
    found = []
    for _ in range(100):
        found.append(here.sent(pid) - there.sent(pid))
        time.sleep(2 * POLL_S)
    return statistics.median(found)


# --- longer histories ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", [*MODES, "all of them"])
def test_long_histories(mode: str, by_hand: ByHand, seed: int) -> None:
    """Two minutes of it, in one mode or through all of them in turns."""
    draw = random.Random(seed)
    cluster = begin(by_hand, MODES["sync" if mode == "all of them" else mode], steps=8 * STEPS, workers=4)
    history = History(cluster, [f"w-{i}" for i in range(4)], draw)
    began = time.monotonic()
    while time.monotonic() - began < 120:
        if mode == "all of them":
            cluster.command("set", f"sync.mode={draw.choice(['sync', 'delayed', 'ssp', 'async'])}")
        history.everything()
        while len(history.working) < 4:
            history.add()
        cluster.wait_for_more_steps(2)
    for name in history.working:
        cluster.wait_working(name)
    check_audit(cluster, cluster.halt())
