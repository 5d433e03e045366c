"""Workers of speeds 1:1:4 on the default model: who waits in sync, ssp and async, and what loss equal tokens buy.

    python benchmarks/speeds.py [--steps 50] [--seeds 0] [--base-s 0.5] [--modes sync ssp async]

A coordinator, 2 servers and 3 workers with the defaults of `sparsync train`, but for the number of workers and of
steps, and one evaluation, at the end. The speeds are made by sleeping (benchmarks/scripts/throttled.py): a unit of
the fast worker takes `base-s`, of the slow ones four times that (below `cluster.straggler_s`, as long as base-s is
below 1.25). Modes take turns within each seed.

*Waits*: a worker's `wait_share` of status, but from the first look at the run at which each has computed a unit to
the last one at which some unit is not begun by anybody; the seconds are found from status (`waited_s`). It tells them
with each unit, so what a worker waits after its last one is taken from its script's times; and what it told late
cannot make it more than the time outside units.
*Outside units*: of that same time, and by the scripts alone, what no unit of the worker took: waiting, applying
deltas, loading. *Tail*: from its last unit to the last one of the run.
*Late*: units that took over a tenth longer than they were to, as the machine was too slow; many of them spoil a run.
*Working*: from the first unit's beginning to the last one's end, whoever computed them.
Writes benchmarks/results/speeds.{json,md}.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.cluster import START_S, Cluster
from benchmarks.figures import ROOT, about, table, verdict, write
from wire.errors import SparsyncError

SCRIPT = ROOT / "benchmarks" / "scripts" / "throttled.py"
MODES = ("sync", "ssp", "async")
SPEEDS = {"fast": 4.0, "slow-0": 1.0, "slow-1": 1.0}
SERVERS = 2
STREAMS = 4
"""`sync.units_per_step` as it is by default."""
SAMPLE_S = 1.0
SLACK = 10.0
"""A run may take so many times what its fast worker would need alone."""
LATE = 1.1
WAIT_SHARE = 0.05
OFF_SPEED = 0.15
"""The fast worker's units to a slow one's may differ so much from their speeds."""
KEPT = (
    *("steps", "wall_s", "tokens", "tokens_per_s", "train_loss", "val_loss", "val_loss_server"),
    *("units_settled", "units_empty", "staleness", "mass_returned", "mass_lost", "recoveries", "replayed"),
)

Status = dict[str, Any]
Unit = dict[str, float]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=50)
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--base-s", type=float, default=0.5, help="a unit of the fast worker")
    options.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    chosen = options.parse_args()
    result: dict[str, Any] = about(
        steps=chosen.steps, seeds=chosen.seeds, base_s=chosen.base_s, speeds=SPEEDS, runs=[]
    )
    for seed, mode in itertools.product(chosen.seeds, chosen.modes):
        run = measure(mode, seed=seed, steps=chosen.steps, base_s=chosen.base_s)
        result["runs"].append(run)
        write("speeds", result, page(result))
        waits = {name: worker["wait_share"] for name, worker in run["workers"].items()}
        print(
            f"{mode}, seed {seed}: {run['wall_s']:.0f} s, loss {run['val_loss']:.4f}, waits {waits}",
            file=sys.stderr,
        )
    print(page(result))


def unit_s(name: str, base_s: float) -> float:
    """Seconds that a unit of a worker is to take."""
    return base_s * max(SPEEDS.values()) / SPEEDS[name]


# --- measuring ---------------------------------------------------------------------------


def measure(mode: str, *, seed: int, steps: int, base_s: float) -> dict[str, Any]:
    """One run to its end, and its figures."""
    settings = {
        "sync.mode": mode,
        "run.seed": seed,
        "run.steps": steps,
        "run.eval_every": 0,
        "cluster.workers": len(SPEEDS),
        "sync.units_per_step": STREAMS,
    }
    limit_s = START_S + SLACK * steps * STREAMS * base_s
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        with Cluster(directory, settings) as cluster:
            for number in range(SERVERS):
                cluster.start_server(f"ps-{number}")
            for name in SPEEDS:
                seconds = str(unit_s(name, base_s))
                cluster.start_worker(name, [SCRIPT, name, directory, "--unit-s", seconds])
            samples = watch(cluster, limit_s=limit_s)
            ended = cluster.end()
        summary = json.loads((directory / "run" / "summary.json").read_text())
        units = {name: read_units(directory / f"units-{name}.jsonl") for name in SPEEDS}
    load = round(os.getloadavg()[0], 2)
    if summary["error"] or summary["steps"] != steps:
        raise RuntimeError(
            f"{mode}: {summary['ended']} ({summary['error']}) after {summary['steps']} of {steps} steps"
        )
    found = workers(samples, units, base_s=base_s)
    working = working_s(units)
    return {
        "mode": mode,
        "seed": seed,
        **{name: summary[name] for name in KEPT},
        "working_s": round(working, 2),
        "tokens_per_s_working": round(summary["tokens"] / working, 1),
        "off_speed": round(off_speed(found), 4),
        "workers": found,
        "load_average": load,
        "end": ended,
    }


def watch(cluster: Cluster, *, limit_s: float) -> list[Status]:
    """The status, about once a second, until the run has ended; `at`: this machine's monotonic clock.

    Raises: RuntimeError when time is up.
    """
    samples: list[Status] = []
    deadline = time.monotonic() + limit_s
    while not cluster.events("ended"):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the run has not ended after {limit_s:.0f} s:\n{cluster.story()}")
        time.sleep(SAMPLE_S)
        with suppress(SparsyncError):  # it may have gone meanwhile
            status = cluster.status()
            samples.append({**status, "at": time.monotonic()})
    return samples


def read_units(path: Path) -> list[Unit]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- what it comes to --------------------------------------------------------------------


def waited_s(status: Status, worker: Mapping[str, Any]) -> float:
    """Seconds that a worker has told of, from tokens a second of compute and the share that waiting has of both."""
    tokens = worker["units"] * status["tokens"] / status["units_settled"]
    compute_s = tokens / worker["tokens_per_s"]
    return float(compute_s * worker["wait_share"] / (1.0 - worker["wait_share"]))


def by_name(status: Status) -> dict[str, dict[str, Any]]:
    return {worker["name"]: worker for worker in status["workers"]}


def worked(samples: Sequence[Status], *, until: float) -> tuple[Status, Status]:
    """The first look at which each worker has computed a unit, and the last one before `until`.

    Raises: ValueError where the run was too short for both.
    """
    looks = [s for s in samples if s["at"] < until and len(s["workers"]) == len(SPEEDS)]
    begun = [s for s in looks if all(map(_rated, s["workers"]))]
    if len(begun) < 2:
        raise ValueError(
            f"{len(begun)} looks at the run while all worked, expected at least 2; raise --steps"
        )
    return begun[0], begun[-1]


def _rated(worker: Mapping[str, Any]) -> bool:
    return bool(worker["units"] and worker["tokens_per_s"])


def workers(
    samples: Sequence[Status], units: Mapping[str, Sequence[Unit]], *, base_s: float
) -> dict[str, dict[str, Any]]:
    """Figures of each worker."""
    run_end = max(unit["ended"] for own in units.values() for unit in own)
    first, last = worked(samples, until=max(unit["began"] for own in units.values() for unit in own))
    watched_s = last["at"] - first["at"]
    found = {}
    for name, own in units.items():
        before, after = waited_s(first, by_name(first)[name]), waited_s(last, by_name(last)[name])
        idle_s = max(0.0, last["at"] - own[-1]["ended"])
        waited = max(0.0, after - before) + idle_s  # status rounds: it may seem to go back
        outside_s = outside(own, since=first["at"], until=last["at"])
        spans = [unit["ended"] - unit["began"] for unit in own]
        found[name] = {
            "unit_s_told": unit_s(name, base_s),
            "unit_s": round(statistics.median(spans), 4),
            "units": len(own),
            "late": sum(span > LATE * unit_s(name, base_s) for span in spans),
            "asleep": round(sum(unit["slept"] for unit in own) / sum(spans), 4),
            "watched_s": round(watched_s, 2),
            "wait_s": round(min(waited, outside_s), 3),
            "wait_share": round(min(waited, outside_s) / watched_s, 4),
            "wait_share_of_all": by_name(samples[-1])[name]["wait_share"],
            "outside_units": round(outside_s / watched_s, 4),
            "tail_s": round(run_end - own[-1]["ended"], 3),
            "staleness": by_name(samples[-1])[name]["staleness"],
            "longest_gaps_s": gaps(own),
        }
    return found


def outside(units: Sequence[Unit], *, since: float, until: float) -> float:
    """Seconds of a time that no unit took."""
    inside = sum(max(0.0, min(unit["ended"], until) - max(unit["began"], since)) for unit in units)
    return until - since - inside


def working_s(units: Mapping[str, Sequence[Unit]]) -> float:
    """From the first unit's beginning to the last one's end."""
    all_ = [unit for own in units.values() for unit in own]
    return max(unit["ended"] for unit in all_) - min(unit["began"] for unit in all_)


def gaps(units: Sequence[Unit]) -> list[float]:
    """The three longest times between the end of a unit and the beginning of the next one, longest first."""
    between = (b["began"] - a["ended"] for a, b in itertools.pairwise(units))
    return [round(seconds, 3) for seconds in sorted(between, reverse=True)[:3]]


def off_speed(found: Mapping[str, Mapping[str, Any]]) -> float:
    """How far the fast worker's units to a slow one's are from their speeds, of the slow one that is further off."""
    fast = max(SPEEDS, key=lambda name: SPEEDS[name])
    ratios = {name: found[fast]["units"] / found[name]["units"] for name in SPEEDS if name != fast}
    return float(max(abs(ratio * SPEEDS[name] / SPEEDS[fast] - 1.0) for name, ratio in ratios.items()))


# --- telling -----------------------------------------------------------------------------


RUN = (
    "mode|seed|wall s|working s|tokens/s|loss of x̂|against sync|loss of x|staleness: units|mass returned|load"
)
WORKER = f"mode|seed|worker|units|unit s|asleep|late|waits|limit {WAIT_SHARE:.0%}|outside units|tail s"
SPEED = f"mode|seed|units|off by|limit {OFF_SPEED:.0%}"


def page(result: dict[str, Any]) -> str:
    runs = result["runs"]
    sync = {run["seed"]: run["val_loss"] for run in runs if run["mode"] == "sync"}
    told = ", ".join(f"{name} {speed:g}" for name, speed in result["speeds"].items())
    tables = {
        "The run": table(RUN.split("|"), (run_row(run, sync.get(run["seed"])) for run in runs)),
        "Each worker": table(
            WORKER.split("|"), (worker_row(run, name) for run in runs for name in run["workers"])
        ),
        "Units as speeds": table(SPEED.split("|"), map(speed_row, runs)),
    }
    return (
        "# Workers of unequal speed\n\n"
        f"Speeds: {told}; a unit of the fast worker takes {result['base_s']:g} s. {SERVERS} servers, {STREAMS} units "
        f"a step, {result['steps']} steps of the default model; {result['machine']}, commit {result['commit']}, seeds "
        f"{result['seeds']}. Every value: [speeds.json](speeds.json); what the words mean and how it was made: "
        "[speeds.py](../speeds.py).\n" + "".join(f"\n## {title}\n\n{rows}" for title, rows in tables.items())
    )


def run_row(run: Mapping[str, Any], sync: float | None) -> list[object]:
    stale = ", ".join(f"{steps}: {units}" for steps, units in run["staleness"].items())
    against = "" if sync is None else f"{run['val_loss'] / sync - 1.0:+.2%}"
    return [
        *(run["mode"], run["seed"], run["wall_s"], run["working_s"], f"{run['tokens_per_s_working']:.0f}"),
        *(f"{run['val_loss']:.4f}", against, f"{run['val_loss_server']:.4f}"),
        *(stale, run["mass_returned"], run["load_average"]),
    ]


def worker_row(run: Mapping[str, Any], name: str) -> list[object]:
    found = run["workers"][name]
    held = verdict(found["wait_share"], WAIT_SHARE) if run["mode"] == "async" else ""
    return [
        *(
            run["mode"],
            run["seed"],
            name,
            found["units"],
            found["unit_s"],
            f"{found['asleep']:.0%}",
            found["late"],
        ),
        *(f"{found['wait_share']:.2%}", held, f"{found['outside_units']:.2%}", found["tail_s"]),
    ]


def speed_row(run: Mapping[str, Any]) -> list[object]:
    units = " : ".join(str(found["units"]) for found in run["workers"].values())
    held = verdict(run["off_speed"], OFF_SPEED) if run["mode"] == "async" else ""
    return [run["mode"], run["seed"], units, f"{run['off_speed']:.1%}", held]


if __name__ == "__main__":
    main()
