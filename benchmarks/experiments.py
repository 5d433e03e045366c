"""Experiments on what the modes promise: each is one grid of `sparsync bench modes` and a verdict.

    python benchmarks/experiments.py 12 [--steps 2000] [--seeds 0,1,2] [--lrs 1e-3,2e-3,4e-3,8e-3,1.6e-2] [--out DIR]

Every method is tuned on the same learning rates (`sparsync bench modes` says how). Runs are kept under DIR/NUMBER, and
the same command goes on where it was interrupted. Writes benchmarks/results/experiment-NUMBER.{json,md}: all figures,
and the verdict. Losses are means over the seeds at equal tokens, bytes those at the sockets.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import ROOT, table, write
from benchmarks.findings import Finding, Result, at_least, at_most, figure, mean, ratio, rows, worse
from sparsync.bench.modes.presets import SLOWLY

COMMON = "--model 4x160x4 --seq-len 128 --batch-size 4 --copies 40 --windows 256"
WORKERS = (2, 4, 8)


@dataclass(frozen=True)
class Experiment:
    """`words`: of `sparsync bench modes`."""

    claim: str
    words: str
    verdict: Callable[[Result], list[Finding]]


# --- verdicts ----------------------------------------------------------------------------


def same_bits(result: Result) -> list[Finding]:
    """Of each seed all runs must come to one model."""
    digests = dict[tuple[int, float], set[str]]()
    for case in result["cases"]:
        if not case["error"]:
            at = (case["case"]["seed"], case["case"]["lr"])
            digests.setdefault(at, set()).add(case["params_digest"])
    failed = any(case["error"] for case in result["cases"])
    most = max(map(len, digests.values()), default=0)
    return [at_most("different models of one seed", None if failed or not most else most, 1)]


def egress(result: Result) -> list[Finding]:
    """Bytes down of one worker, as more of them are added."""
    down = [(mean(rows(result, workers=w), "sync", "bytes_down"), w) for w in WORKERS]
    each = [total / workers for total, workers in down if total is not None]
    spread = ratio(max(each), min(each)) if len(each) == len(down) else None
    return [at_most("bytes down a worker, most to least of 2, 4 and 8 workers", spread, 1.05)]


def speeds(result: Result) -> list[Finding]:
    """Without a baseline, sync, which comes first, is the reference that times are against."""
    found = rows(result)
    return [
        at_most("async against sync at equal tokens", worse(found, "async", "sync"), 0.01),
        at_least("async sooner than sync at sync's loss + 1%", mean(found, "async", "sooner_slack"), 1.6),
        at_least("async sooner than sync at sync's loss", mean(found, "async", "sooner"), 1.6),
    ]


ALIKE = "--stragglers none --links unlimited"
EXPERIMENTS = {
    1: Experiment(
        "sync with dense codecs computes what one process computes",
        f"--modes sync --codecs dense --baselines one --workers 1,2,4 {ALIKE}",
        same_bits,
    ),
    10: Experiment(
        "what a worker receives does not grow with their number",
        f"--modes sync --baselines one --workers {','.join(map(str, WORKERS))} --streams 8 {ALIKE}",
        egress,
    ),
    12: Experiment(
        "async outruns sync where speeds are 1:1:2:4, at its loss",
        f"--modes sync:sync+{SLOWLY},async:async+{SLOWLY} --baselines none --workers 4 --unit-s 0.4 "
        "--stragglers slow:4/4/2/1 --links unlimited",
        speeds,
    ),
}
"""Number -> experiment. The second is a test: tests/cluster/test_mass.py. Claims on losses alone: `claims.py`."""


# --- the program -------------------------------------------------------------------------


def main() -> None:
    known = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known.add_argument("number", type=int, choices=EXPERIMENTS)
    known.add_argument("--steps", default="2000")
    known.add_argument("--seeds", default="0,1,2")
    known.add_argument("--lrs", default="1e-3,2e-3,4e-3,8e-3,1.6e-2")
    known.add_argument("--out", type=Path, default=ROOT / "bench-experiments")
    chosen = known.parse_args()
    experiment = EXPERIMENTS[chosen.number]
    words = [*COMMON.split(), *experiment.words.split(), "--steps", chosen.steps, "--seeds", chosen.seeds]
    result = bench([*words, "--lrs", chosen.lrs, "--out", str(chosen.out / str(chosen.number))])
    findings = experiment.verdict(result)
    told = {
        "experiment": chosen.number,
        "claim": experiment.claim,
        "command": "sparsync bench modes " + " ".join(words),
        "findings": [vars(finding) for finding in findings],
        "failed": [
            {"case": case["case"], "error": case["error"]} for case in result["cases"] if case["error"]
        ],
        **{key: result[key] for key in ("about", "options", "learning_rates", "groups")},
    }
    write(f"experiment-{chosen.number}", told, page(told, findings))
    print(page(told, findings))


def bench(words: Sequence[str]) -> Result:
    """The whole result; failed cases are in it."""
    command = [sys.executable, "-P", "-m", "sparsync", "bench", "modes", "--json", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if not done.stdout:
        raise SystemExit(done.returncode)
    found: Result = json.loads(done.stdout)
    return found


def page(told: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    about = told["about"]
    verdicts = [(f.claim, figure(f.found), f"{f.limit:g}", VERDICTS[f.kept]) for f in findings]
    return (
        f"# Experiment {told['experiment']}: {told['claim']}\n\n"
        f"`{told['command']}`; {about['machine']['cpu']}, {about['machine']['cores']} cores, "
        f"commit {about['commit']}.\n\n"
        + table(("claim", "found", "limit", ""), verdicts)
        + _failed(told["failed"])
        + "".join(map(_group, told["groups"]))
    )


def _failed(failed: Sequence[Mapping[str, Any]]) -> str:
    """What is missing above and below; the same command tries it again."""
    if not failed:
        return ""
    listed = [(f["case"]["method"], f["case"]["seed"], f["error"].splitlines()[0]) for f in failed]
    return "\n## Failed\n\n" + table(("method", "seed", "why"), listed)


def _group(group: Mapping[str, Any]) -> str:
    title = f"{group['workers']} workers, link {group['link']}, stragglers {group['straggler']}"
    return f"\n## {title}\n\n" + table(HEADER, map(_row, group["rows"]))


VERDICTS = {None: "–", True: "kept", False: "MISSED"}
HEADER = ("method", "lr", "seeds", "loss", "±", "against", "tokens/s", "waiting", "fewer bytes", "staleness")


def _row(row: Mapping[str, Any]) -> list[object]:
    def mean(name: str, digits: int) -> str:
        return "–" if row[name] is None else f"{row[name]['mean']:.{digits}f}"

    spread = "–" if row["loss"] is None else f"{row['loss']['sd']:.4f}"
    against = "–" if row["against"] is None else f"{row['against']['mean']:+.2%}"
    return [
        *(row["label"], f"{row['lr']:g}", row["seeds"], mean("loss", 4), spread, against),
        *(mean("tokens_per_s", 0), mean("waiting", 3), figure(row["fewer_bytes"]), mean("staleness", 2)),
    ]


if __name__ == "__main__":
    main()
