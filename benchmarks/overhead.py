"""Where the time of a worker goes: what the trace of its training thread says, as shares of what it computes.

    python benchmarks/overhead.py [--steps 60] [--rounds 3]

Runs of `sparsync train` with its defaults (two servers, two workers) and `telemetry.trace`, without evaluations:
`sync`, `delayed` and `local` by turns. Of each worker, between its first unit after `WARM_UP` steps and its last one:

    compute     in units, beside the next two: loading, forward, backward, clipping; with local steps the optimizer
    collect     gradients into their plane, and their norm
    compress    encoding, and handing the parts to the network thread
    foresee     where units look ahead: x̂ moved on to where it is expected to be
    apply       x̂ += d
    wait        for deltas, which take in others' units, the network, the servers' work, and deposits
    rest        between units, beside those: plans, deposits, stream state

`added` is collect + compress + foresee + apply + rest: what the training thread does for others. What it waits for
depends on who else needs its core; on two cores five processes do. Writes benchmarks/results/overhead.{json,md,svg}:
the picture is of two steps of the first run in `sync`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import RESULTS, about, table, verdict, write
from sparsync.drawing import Bar, Part, bars
from sparsync.tracing import MAIN, Process, Told, read_processes

WARM_UP = 10
MODES = ("sync", "delayed", "local")
OWN = ("collect", "compress")
BETWEEN = ("foresee", "apply", "wait")
ADDED = (*OWN, "foresee", "apply", "rest")
ALL = ("compute", *OWN, *BETWEEN, "rest")
LIMIT = 0.10
PICTURED = (30, 32)
"""Steps that the picture shows: from the first unit of the first to the first of the second."""
SHOWN = {
    **{name: name for name in (*OWN, "push", "apply", "wait")},
    **dict.fromkeys(("admit", "accept"), "take in"),
    **dict.fromkeys(("aggregate", "optimize", "publish"), "settle"),
    "unit": "compute",
}
"""What the picture calls which spans."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    rounds: dict[str, list[dict[str, dict[str, float]]]] = {mode: [] for mode in MODES}
    picture = ""
    for number in range(chosen.rounds):
        for mode in MODES:
            processes = traced(mode, chosen.steps)
            found = {p.name: seconds(p) for p in processes if p.role == "worker"}
            rounds[mode].append(found)
            print(
                f"round {number}, {mode}: added {100 * median(map(added, found.values())):.1f}%",
                file=sys.stderr,
            )
            picture = picture or timeline(processes)
    result = about(steps=chosen.steps, seconds=rounds)
    write("overhead", result, page(result))
    (RESULTS / "overhead.svg").write_text(picture)
    print(page(result))


def traced(mode: str, steps: int) -> list[Process]:
    """What the roles of one run wrote."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        settings = {"run.steps": steps, "run.eval_every": 0, "telemetry.trace": "true"}
        keys = [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
        subprocess.run(
            [sys.executable, "-P", "-m", "sparsync", "train", "--mode", mode, "--out", str(out), *keys],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return read_processes([out])


def seconds(worker: Process) -> dict[str, float]:
    """Of its training thread, by what it does."""
    spans = [span for span in worker.spans if span.track == MAIN]
    units = [span for span in spans if span.name == "unit" and first_step(worker, span) >= WARM_UP]
    begin, end = units[0].begin, units[-1].end
    told = dict.fromkeys((*OWN, *BETWEEN), 0.0)
    for span in spans:
        if span.name in told and begin <= span.begin and span.end <= end:
            told[span.name] += span.end - span.begin
    in_units = sum(span.end - span.begin for span in units)
    compute = in_units - told["collect"] - told["compress"]
    rest = (end - begin) - in_units - sum(told[name] for name in BETWEEN)
    found = {"compute": compute, **told, "rest": rest}
    return {name: found[name] for name in ALL} | {"units": len(units)}


def first_step(process: Process, span: Told) -> int:
    steps = process.steps(span)
    assert steps is not None
    return steps.start


def added(found: Mapping[str, float]) -> float:
    """To what is computed, as a share of it."""
    return sum(found[name] for name in ADDED) / found["compute"]


# ── the picture ─────────────────────────────────────────────────────────────────────────────────


def timeline(processes: Sequence[Process]) -> str:
    """Two steps of every role: a row for each of its threads, or of what overlaps with others."""
    workers = [process for process in processes if process.role == "worker"]
    origin, end = (
        min(s.begin for p in workers for s in p.spans if s.name == "unit" and first_step(p, s) == step)
        for step in PICTURED
    )
    rows = [row for process in processes for row in _rows(process, origin, end)]
    return bars("Two steps of the default run", rows, unit="milliseconds")


def _rows(process: Process, origin: float, end: float) -> list[Bar]:
    tracks: dict[str, list[Told]] = {}
    for span in sorted(process.spans, key=lambda span: span.begin):
        if span.name in SHOWN and span.begin < end and span.end > origin:
            tracks.setdefault(span.track, []).append(span)
    return [
        Bar(f"{process.name} {track}", tuple(_part(span, origin, end) for span in spans))
        for track, spans in tracks.items()
    ]


def _part(span: Told, origin: float, end: float) -> Part:
    return Part(
        SHOWN[span.name], *(1000 * (min(max(at, origin), end) - origin) for at in (span.begin, span.end))
    )


# ── the page ────────────────────────────────────────────────────────────────────────────────────


def page(result: Mapping[str, Any]) -> str:
    workers = {
        mode: [w for found in rounds for w in found.values()] for mode, rounds in result["seconds"].items()
    }
    rows = []
    for mode, found in workers.items():
        shares = [f"{100 * median(w[name] / w['compute'] for w in found):.1f}%" for name in ALL[1:]]
        unit_ms = 1000 * median(w["compute"] / w["units"] for w in found)
        whole = median(map(added, found))
        rows.append([mode, f"{unit_ms:.0f}", *shares, f"{100 * whole:.1f}%", verdict(whole, LIMIT)])
    header = ("mode", "a unit computes, ms", *ALL[1:], "added", f"limit {100 * LIMIT:.0f}%")
    traces = len(workers[MODES[0]])
    return f"""# Where the time of a worker goes

`python benchmarks/overhead.py --steps {result["steps"]}`: the default run, {traces} traces of a worker in each mode;
medians, as shares of what a worker computes; {result["machine"]}, commit {result["commit"]}.
What the columns mean is told in [overhead.py](../overhead.py); every figure is in [overhead.json](overhead.json).

{table(header, rows)}
Two steps of `sync`, all roles ([picture](overhead.svg); what is nested lies over what it is in):

![Two steps of the default run](overhead.svg)
"""


if __name__ == "__main__":
    main()
