"""`sparsync chaos` in a synchronous run: whoever is struck, and whenever, not a bit changes (P1 to P4)."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.conftest import ByHand, Starter
from tests.cluster.running import MARK, POLL_S, SPARSYNC, Run, Train, command
from tests.cluster.test_digests import equal_runs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
PACED = Path(__file__).parent / "scripts" / "paced.py"
SETTINGS: dict[str, object] = {
    "cluster.servers": 2,
    "cluster.restarts": 100,
    "durability.stream_state_every": 5,
}
STARTED_S = 60.0
"""For a role that was killed to be there again, on a machine that is busy."""
Undisturbed = Callable[[int], dict[str, Any]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[Undisturbed]:
    """`undisturbed(steps)`: the summary of the run in which one worker did it all, and nothing happened."""
    starter = Starter(tmp_path_factory.mktemp("undisturbed"), {}, environ)
    summaries: dict[int, dict[str, Any]] = {}

    def of(steps: int) -> dict[str, Any]:
        if steps not in summaries:
            summaries[steps] = starter(
                {**SETTINGS, "run.steps": steps}, flags=["--workers", "1"], script=[PACED]
            ).finish()
        return summaries[steps]

    yield of
    starter.end()


@pytest.fixture
def paced(tmp_path: Path, environ: dict[str, str]) -> Iterator[Callable[..., Train]]:
    """`paced(steps, pause_s=…)`: a run of three workers that takes its time until the file `hurry` is there."""
    starter = Starter(tmp_path, {}, environ)

    def start(steps: int, *, pause_s: float) -> Train:
        return starter(
            {**SETTINGS, "run.steps": steps},
            flags=["--workers", "3"],
            script=[PACED, "--pause", str(pause_s)],
        )

    yield start
    starter.end()


def strike(
    run: Run, *, seed: int, every_s: float, for_s: float, kinds: str, roles: str, environ: Mapping[str, str]
) -> dict[str, Any]:
    """`sparsync chaos` to its end; what it says that came of it."""
    words = [
        "--seed",
        str(seed),
        "--every",
        f"{every_s}s",
        "--for",
        f"{for_s}s",
        "--kinds",
        kinds,
        "--roles",
        roles,
    ]
    done = subprocess.run(
        [*SPARSYNC, "chaos", str(run.out), *words, "--json"],
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=for_s + 60,
        check=False,
    )
    print(done.stderr)
    assert done.returncode == 0, f"{done.stderr}\n{run.story()}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_workers_are_killed_and_stopped(
    paced: Callable[..., Train], undisturbed: Undisturbed, environ: dict[str, str], seed: int
) -> None:
    run = paced(100, pause_s=0.2)
    run.wait_for_step(1)
    chaos: dict[str, Any] = {"every_s": 3.0, "for_s": 20.0, "kinds": "kill,stop", "roles": "worker"}
    found = strike(run, seed=seed, environ=environ, **chaos)
    (run.out / "hurry").touch()
    summary = run.finish(150)
    equal_runs(undisturbed(100), summary)
    assert found["struck"] >= 3 and found["longest_stall_s"] > 0.2 and found["steps"] > 3, found
    kills = [fault for fault in found["faults"] if fault["kind"] == "kill" and fault["target"]]
    assert summary["restarts"] >= len(kills) - 1, "all but one that died in the last moment are started again"


@pytest.mark.slow
def test_servers_are_cut_off(
    by_hand: ByHand, undisturbed: Undisturbed, environ: dict[str, str], seed: int
) -> None:
    """`sparsync proxy` in front of each; the network in between goes away for seconds, and loses nothing."""
    cluster = by_hand({**SETTINGS, "run.steps": 100}, script=[PACED, "--pause", "0.2"])
    proxies = []
    try:
        for number in range(2):
            with socket.create_server(("127.0.0.1", 0)) as found:
                target = "{}:{}".format(*found.getsockname())
            words = [*SPARSYNC, "proxy", "--target", target, "--latency", "2ms", "--seed", str(seed)]
            proxies.append(subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, text=True))
            told = proxies[-1].stdout
            assert told is not None
            cluster.start_server(f"ps-{number}", "--listen", target, "--advertise", told.readline().strip())
        for name in ("w-0", "w-1"):
            cluster.start_worker(name)
        cluster.wait_for_steps(1)
        chaos: dict[str, Any] = {"every_s": 4.0, "for_s": 20.0, "kinds": "partition,slow", "roles": "ps"}
        found_out = strike(cluster, seed=seed, environ=environ, **chaos)
        cluster.hurry()
        summary = cluster.finish()
    finally:
        for proxy in proxies:
            proxy.kill()
            proxy.communicate()
    assert found_out["struck"] >= 2 and found_out["longest_stall_s"] > 0.5, found_out
    equal_runs(undisturbed(100), summary)


# --- all roles -----------------------------------------------------------------------------------


class Helpers:
    """Workers that somebody starts by hand beside those of `train`, again and again until they leave by themselves."""

    def __init__(self, run: Train, environ: Mapping[str, str]) -> None:
        self._run, self._environ = run, {**environ, MARK: run._mark}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def look(self, names: list[str]) -> None:
        """Start those of the names that are not there."""
        for name in names:
            process = self._processes.get(name)
            if process is None or process.poll() not in (None, 0):
                self._processes[name] = self._start(name)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        own = ["--coordinator", self._run.address, "--name", name, "--data-dir", str(self._run.out / name)]
        with (self._run.out / "logs" / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*SPARSYNC, "worker", *own, str(PACED), "--pause", "0.8"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ,
                start_new_session=True,
            )

    def dismiss(self) -> None:
        """SIGTERM to those that are there."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """All of them have left well, but for those that were killed."""
        codes = {name: process.wait(STARTED_S) for name, process in self._processes.items()}
        assert set(codes.values()) <= {0, -signal.SIGKILL}, codes


def wait_serving(run: Train) -> None:
    """Until a coordinator of the run is there, as after its restart."""
    deadline = time.monotonic() + STARTED_S
    while not any("coordinator" in process.cmdline() for process in alive(run)):
        assert not run.over() and time.monotonic() < deadline, f"no coordinator:\n{run.story()}"
        time.sleep(10 * POLL_S)


def alive(run: Train) -> Iterator[psutil.Process]:
    for process in run.processes():
        try:
            process.cmdline()
        except psutil.Error:
            continue
        yield process


def drain(run: Train, name: str, environ: Mapping[str, str]) -> None:
    """Until the worker has been asked to leave; a coordinator that is away is asked again."""
    deadline = time.monotonic() + STARTED_S
    while command("drain", name, "--no-wait", "--coordinator", run.address, environ=environ).returncode != 0:
        assert not run.over() and time.monotonic() < deadline, f"{name} could not be asked:\n{run.story()}"
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thirty_kills_over_all_roles(
    paced: Callable[..., Train], undisturbed: Undisturbed, environ: dict[str, str], seed: int
) -> None:
    """300 steps, default codecs; 10 kills among 3 workers, 10 among 5, 10 among 2; servers and coordinator too."""
    run = paced(300, pause_s=0.8)
    helpers, extra = Helpers(run, environ), ["extra-0", "extra-1"]
    chaos: dict[str, Any] = {
        "every_s": 6.0,
        "kinds": "kill",
        "roles": "worker,ps,coordinator",
        "environ": environ,
    }
    run.wait_for_step(1)
    killed: list[str] = []
    for phase in range(3):
        present = extra if phase == 1 else []
        if phase == 2:
            drain(run, "worker-2", environ)
            helpers.dismiss()
        while len(killed) < 10 * (phase + 1):
            wait_serving(run)
            helpers.look(present)
            for_s = 6.0 * min(
                2, 10 * (phase + 1) - len(killed)
            )  # no longer: helpers are looked after in between
            found = strike(run, seed=seed + len(killed), for_s=for_s, **chaos)
            killed += [fault["target"] for fault in found["faults"] if fault["target"]]
    (run.out / "hurry").touch()
    summary = run.finish(300)
    helpers.wait()
    print(f"killed {killed}; recoveries {summary['recoveries']}, restarts {summary['restarts']}")
    equal_runs(undisturbed(300), summary)
    assert {"coordinator"} < {name.split(" ")[0] for name in killed}
