"""300 simulated workers against one coordinator: joining, beating, and losing it for five seconds.

    python benchmarks/members.py [--members 300] [--steady-s 20] [--outage-s 5] [--setting KEY=VALUE …]
    python benchmarks/members.py --name heartbeats --tls --one-core --members 1000 --beats-per-s 3300

A real coordinator and 2 real servers; the workers (benchmarks/simulated.py) hold real connections, two each, in a few
processes. There are as many streams as workers, so that each is given one; they compute none, but report progress
once a second, as workers with units of a second do. The coordinator is lost by SIGSTOP, and comes back by SIGCONT.
*Back*: a status asked after that shows that every worker was heard since, with nobody dead.
*Late*: how much older than the interval the newest heartbeat of a worker is when the coordinator is asked, over all
workers and all times. `--one-core` leaves the coordinator one core, and everybody else the others.
Writes benchmarks/results/NAME.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from benchmarks.cluster import Cluster, role_environment, tls_words
from benchmarks.figures import about, table, verdict, write
from benchmarks.simulated import NAME
from wire.rpc.identity import Role

SERVERS, PROCESSES = 2, 4
JOIN_LIMIT_S = 120.0
BACK_S = 15.0
MEMBERS = 300
MEMORY_MB = 200.0
"""For so many."""
BEATS_A_S = 3000.0
"""With the coordinator on one core, at least."""
CORES = 1.0
LATE_S = 0.2
SHARES = (0.5, 0.9, 0.99, 1.0)
AFTER_S = 15.0
"""Watched after the outage, so that a death that follows from it is seen."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--members", type=int, default=MEMBERS)
    options.add_argument("--steady-s", type=float, default=20.0, help="undisturbed, to measure load")
    options.add_argument("--outage-s", type=float, default=5.0, help="0: none")
    options.add_argument("--beats-per-s", type=float, help="of all together; without it one a second each")
    options.add_argument("--report-s", type=float, default=1.0, help="between two reports of a worker")
    options.add_argument("--tls", action="store_true", help="everything under mutual TLS")
    options.add_argument("--one-core", action="store_true")
    options.add_argument("--name", default="members", help="of the results")
    options.add_argument(
        "--setting", action="append", default=[], metavar="KEY=VALUE", help="such as sync.mode=async"
    )
    chosen = options.parse_args()
    settings: dict[str, object] = {
        "cluster.workers": chosen.members,
        "sync.units_per_step": chosen.members,
        "run.steps": 10_000_000,
        **dict(setting.split("=", 1) for setting in chosen.setting),
    }
    interval_s = chosen.members / chosen.beats_per_s if chosen.beats_per_s else 1.0
    settings["cluster.heartbeat_interval_s"] = interval_s
    told = {key: getattr(chosen, key) for key in ("members", "tls", "one_core")}
    result = about(settings=chosen.setting, interval_s=interval_s, name=chosen.name, **told)
    with (
        tempfile.TemporaryDirectory() as directory,
        Cluster(Path(directory), settings, tls=chosen.tls) as cluster,
    ):
        if chosen.one_core:
            pin(cluster.pid("coordinator"), {0})
            os.sched_setaffinity(
                0, set(range(1, os.cpu_count() or 1))
            )  # what is started from here on inherits it
        for number in range(SERVERS):
            cluster.start_server(f"ps-{number}")
        for number in range(SERVERS):
            cluster.wait_for("joined", after=number)
        words = [*tls_words(cluster.security(Role.WORKER, NAME)), "--report-s", str(chosen.report_s)]
        with Crowd(cluster.address, chosen.members, words) as crowd:
            result |= measure(
                cluster, crowd, steady_s=chosen.steady_s, outage_s=chosen.outage_s, interval_s=interval_s
            )
            result["end"] = cluster.end()
    write(chosen.name, result, page(result))
    print(page(result))


def pin(pid: int, cores: set[int]) -> None:
    """Leave these cores to all threads of a process, and to those that they start."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cores)


# --- the workers -------------------------------------------------------------------------


class Crowd:
    """Processes full of simulated workers; what they told last."""

    def __init__(self, coordinator: str, members: int, words: Sequence[str]) -> None:
        self.members = members
        shares = [range(members)[i::PROCESSES] for i in range(PROCESSES)]
        first, self._processes = 0, []
        for share in shares:
            command = [
                sys.executable,
                "-P",
                "-m",
                "benchmarks.simulated",
                coordinator,
                str(first),
                str(len(share)),
                *words,
            ]
            self._processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**role_environment(), "GRPC_VERBOSITY": "ERROR"},
                    text=True,
                )
            )
            first += len(share)
        self._told: list[dict[str, Any]] = [{} for _ in self._processes]
        self._readers = [threading.Thread(target=self._read, args=(i,)) for i in range(PROCESSES)]
        for reader in self._readers:
            reader.start()

    def _read(self, index: int) -> None:
        stream = self._processes[index].stdout
        assert stream is not None
        for line in stream:
            self._told[index] = json.loads(line)

    def count(self, key: str) -> int:
        """The sum of a figure over all processes."""
        return sum(told.get(key, 0) for told in self._told)

    @property
    def problems(self) -> list[str]:
        return [problem for told in self._told for problem in told.get("problems", ())]

    def wait_for(self, key: str, least: int, limit_s: float) -> None:
        """Raises: RuntimeError when the figure does not rise so high in time."""
        deadline = time.monotonic() + limit_s
        while self.count(key) < least:
            if time.monotonic() > deadline:
                found = f"{self.count(key)} of {least} {key} within {limit_s:g} s"
                raise RuntimeError(f"{found}; problems: {self.problems[:5]}")
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process, reader in zip(self._processes, self._readers, strict=True):
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reader.join()


class Load:
    """Processor and memory of one process."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._cpu_s, self._at = self._spent(), time.monotonic()
        self.peak_mb = 0.0

    def _spent(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def look(self) -> None:
        self.peak_mb = max(self.peak_mb, self._process.memory_info().rss / 1e6)

    def lap(self) -> float:
        """Cores used since the last call."""
        cpu_s, at = self._spent(), time.monotonic()
        share = (cpu_s - self._cpu_s) / (at - self._at)
        self._cpu_s, self._at = cpu_s, at
        self.look()
        return round(share, 3)


# --- measuring ---------------------------------------------------------------------------


def measure(
    cluster: Cluster, crowd: Crowd, *, steady_s: float, outage_s: float, interval_s: float
) -> dict[str, Any]:
    """All joined, a quiet time, an outage, the time after it."""
    load = Load(cluster.pid("coordinator"))
    crowd.wait_for("joined", crowd.members, JOIN_LIMIT_S)
    crowd.wait_for("with_work", crowd.members, JOIN_LIMIT_S)
    joining = load.lap()
    joined = [e["at"] for e in cluster.events("joined") if e["role"] == "worker"]
    begun = cluster.wait_for("begun")["at"]
    beats, began = crowd.count("beats"), time.monotonic()
    ages = watch(cluster, load, steady_s)
    rate = (crowd.count("beats") - beats) / (time.monotonic() - began)
    quiet = load.lap()
    found = {
        "join_all_s": round(joined[-1] - joined[0], 3),
        "begun_after_first_join_s": round(begun - joined[0], 3),
        "cores_while_joining": joining,
        "beats_per_s": round(rate, 1),
        "cores": quiet,
        "oldest_beat_s": round(ages[-1], 3),
        "late_s": {
            share: round(max(0.0, ages[int(share * (len(ages) - 1))] - interval_s), 3) for share in SHARES
        },
        "broken_before": crowd.count("broken"),
    }
    if outage_s:
        found |= lose(cluster, crowd, load, outage_s)
    return found | {
        "broken": crowd.count("broken"),
        "died": [{"name": e["name"], "reason": e["reason"]} for e in cluster.events("died")],
        "present_at_the_end": len(present(cluster)),
        "problems": crowd.problems[:10],
        "peak_mb": round(load.peak_mb, 1),
        "load_average": os.getloadavg()[0],
    }


def lose(cluster: Cluster, crowd: Crowd, load: Load, outage_s: float) -> dict[str, Any]:
    """The coordinator is away for a while, and comes back."""
    cluster.signal("coordinator", signal.SIGSTOP)
    time.sleep(outage_s)
    back_s = come_back(cluster, crowd.members)
    after = load.lap()
    oldest_after = watch(cluster, load, AFTER_S)[-1]
    return {
        "outage_s": outage_s,
        "back_s": back_s,
        "cores_while_coming_back": after,
        "cores_after": load.lap(),
        "oldest_beat_after_s": round(oldest_after, 3),
    }


def present(cluster: Cluster) -> list[dict[str, Any]]:
    return [w for w in cluster.status()["workers"] if w["gone"] is None]


def watch(cluster: Cluster, load: Load, seconds: float) -> list[float]:
    """Ages of the workers' newest heartbeats in all statuses of this time, the least first."""
    ages, until = list[float](), time.monotonic() + seconds
    while time.monotonic() < until:
        ages += [w["beat_age_s"] or 0.0 for w in present(cluster)]
        load.look()
        time.sleep(1.0)
    return sorted(ages)


def come_back(cluster: Cluster, members: int) -> float | None:
    """Continue the coordinator; seconds until a status shows that all were heard since. None: not all came back."""
    cluster.signal("coordinator", signal.SIGCONT)
    began = time.monotonic()
    while (asked := time.monotonic()) - began < 2 * BACK_S:
        workers = present(cluster)
        heard = sum(w["beat_age_s"] is not None and w["beat_age_s"] < asked - began for w in workers)
        if heard == members:
            return round(time.monotonic() - began, 3)
        time.sleep(0.05)
    return None


def page(result: dict[str, Any]) -> str:
    memory = [MEMORY_MB, verdict(result["peak_mb"], MEMORY_MB)] if result["members"] <= MEMBERS else ["", ""]
    pinned = result["one_core"]  # it cannot take more; what counts is how many it hears with that
    beats = [BEATS_A_S, verdict(BEATS_A_S, result["beats_per_s"])] if pinned else ["", ""]
    cores = ["", ""] if pinned else [CORES, verdict(result["cores"], CORES)]
    rows: list[list[object]] = [
        ["from the first worker's joining to the last one's, s", result["join_all_s"], "", ""],
        ["heartbeats a second", result["beats_per_s"], *beats],
        ["coordinator, cores", result["cores"], *cores],
        ["coordinator, cores while all join", result["cores_while_joining"], "", ""],
        ["coordinator, peak memory, MB", result["peak_mb"], *memory],
        ["heartbeats late, s (p99)", result["late_s"][0.99], LATE_S, verdict(result["late_s"][0.99], LATE_S)],
        ["died", len(result["died"]), 0, verdict(len(result["died"]), 0)],
        ["connections that broke", result["broken"], "", ""],
        ["load average of the machine at the end", result["load_average"], "", ""],
    ]
    if "outage_s" in result:
        back = result["back_s"] if result["back_s"] is not None else float("inf")
        rows.append([f"all back after {result['outage_s']:g} s, s", back, BACK_S, verdict(back, BACK_S)])
        rows.append(["oldest heartbeat afterwards, s", result["oldest_beat_after_s"], "", ""])
    how = [", mutual TLS"] * result["tls"] + [", the coordinator on one core"] * result["one_core"]
    return (
        f"# {result['members']} workers at one coordinator\n\n"
        f"{result['machine']}, shared by all of them{''.join(how)}, commit {result['commit']}"
        f"{', with ' + ', '.join(result['settings']) if result['settings'] else ''}. "
        f"Every value: [{result['name']}.json]({result['name']}.json); made by [members.py](../members.py).\n\n"
        + table(["figure", "found", "limit", ""], rows)
    )


if __name__ == "__main__":
    main()
