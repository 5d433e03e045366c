"""Experiments on what the modes promise: each is one grid of `sparsync bench modes`, and a rule for its verdict.

    python benchmarks/experiments.py 12 [--steps 2000] [--seeds 0,1,2] [--lrs 1e-3,2e-3,4e-3,8e-3,1.6e-2] [--out DIR]

Every method is tuned on the same learning rates (`sparsync bench modes` says how). Runs are kept under DIR/NUMBER, and
the same command goes on where it was interrupted. Writes benchmarks/results/experiment-NUMBER.{json,md}: all figures,
and the verdict. Losses are means over the seeds at equal tokens; ratios of bytes count both ways at the sockets.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import ROOT, table, write
from benchmarks.findings import (
    Finding,
    Result,
    at_least,
    at_most,
    best_of,
    figure,
    mean,
    moved,
    ratio,
    rows,
    worse,
)
from sparsync.bench.modes.presets import SLOWLY

COMMON = "--model 4x160x4 --seq-len 128 --batch-size 4 --copies 40 --windows 256"
LOCAL = "local+sync.local_steps=15"
DILOCO = ("diloco+local_steps=15", "diloco+local_steps=15+muon=1")
NO_MEMORY = "push.feedback=ef+push.decay=0.000001"
"""Error feedback that forgets: β = 0, as near as the configuration lets us."""


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


def near_ddp(result: Result) -> list[Finding]:
    """Of those whose loss is within 1%, the method with the fewest bytes; DDP with AdamW, and with our optimizer."""
    found = rows(result)
    dense = {c["case"]["method"]: c["bytes_dense"] for c in result["cases"] if not c["error"]}
    findings = []
    for name, reference in (("DDP with AdamW", "ddp"), ("DDP with Muon", "ddp+muon=1")):
        near = [
            fewer
            for label in found
            if label.startswith("local")
            and (gap := worse(found, label, reference)) is not None
            and gap <= 0.01
            if (fewer := ratio(dense[label], moved(found, label))) is not None
        ]
        best = max(near, default=0.0) if reference in found else None
        findings += [
            at_least(f"fewer bytes than dense fp32, both ways, within 1% of {name}", best, 300),
            at_least("the same, stretched", best, 1000),
        ]
    return findings


def near_diloco(result: Result) -> list[Finding]:
    """Against the better of DiLoCo with AdamW and with our optimizer."""
    found = rows(result)
    theirs = best_of(found, DILOCO)
    return [
        at_most(f"{LOCAL} against {theirs}", worse(found, LOCAL, theirs), 0.005),
        at_least("fewer bytes", ratio(moved(found, theirs), moved(found, LOCAL)), 16),
    ]


def feedback(result: Result) -> list[Finding]:
    return [at_least("loss without error feedback", worse(rows(result), f"{LOCAL}+{NO_MEMORY}", LOCAL), 0.03)]


SPARSE = f"{LOCAL}+push.density=0.015625"
PLAIN = (SPARSE, f"{SPARSE}+optimizer.outer_lr=0.7")
MOMENTA = (
    f"{SPARSE}+optimizer.outer_lr=0.7+optimizer.outer_momentum=0.9+optimizer.outer_nesterov=true",
    f"{SPARSE}+optimizer.outer_lr=0.7+optimizer.outer_momentum=0.3",
)
"""DiLoCo's outer step, and a little of plain momentum that comes to the same length of step."""


def momentum(result: Result) -> list[Finding]:
    """The best with momentum against the best without, each at its best outer rate."""
    found = rows(result)
    gain = worse(found, best_of(found, PLAIN), best_of(found, MOMENTA))
    return [at_most("gain by outer momentum at a density of 1/64", gain, 0.003)]


ALPHAS = (0.7, 1.0, 1.4)
"""Outer rates: a γ above 0 makes steps longer, which an outer rate can do as well."""
GAMMAS = {
    gamma: tuple(
        f"{SPARSE}+optimizer.aggregate=count+optimizer.count_power={gamma}+optimizer.outer_lr={alpha}"
        for alpha in ALPHAS
    )
    for gamma in (0, 0.5, 1)
}


def gamma(result: Result) -> list[Finding]:
    """The best γ of ½ or more against none, each at its best outer rate."""
    found = rows(result)
    counted = best_of(found, [*GAMMAS[0.5], *GAMMAS[1]])
    gain = worse(found, best_of(found, GAMMAS[0]), counted)
    return [at_least("gain of γ ≥ 1/2 over γ = 0, R = 8, each at its best α", gain, 0.005)]


PULLS = {kept: f"{LOCAL}+pull.density={kept / 4096}" for kept in (128, 64)}
DENSE_PULL = f"{LOCAL}+pull.codec=dense"


def pull(result: Result) -> list[Finding]:
    found = rows(result, workers=2)
    down = [(mean(rows(result, workers=w), PULLS[128], "bytes_down"), w) for w in (2, 4, 8)]
    egress = [total / workers for total, workers in down if total is not None]
    spread = ratio(max(egress), min(egress)) if len(egress) == len(down) else None
    return [
        at_most("k_d = 128 against a dense pull", worse(found, PULLS[128], DENSE_PULL), 0.005),
        at_most("k_d = 64 against a dense pull", worse(found, PULLS[64], DENSE_PULL), 0.01),
        at_most("egress a worker, most to least of 2, 4 and 8 workers", spread, 1.05),
    ]


def speeds(result: Result) -> list[Finding]:
    """Without a baseline, sync, which comes first, is the reference that times are against."""
    found = rows(result)
    return [
        at_most("async against sync at equal tokens", worse(found, "async", "sync"), 0.01),
        at_least("async sooner than sync at sync's loss + 1%", mean(found, "async", "sooner_slack"), 1.6),
        at_least("async sooner than sync at sync's loss", mean(found, "async", "sooner"), 1.6),
    ]


FORCED = f"async+{SLOWLY}+sync.max_staleness=64"
RETURNED = f"{FORCED}+push.codec=dense"
NOT_RETURNED = f"{RETURNED}+{NO_MEMORY}"
"""A dense push leaves no rest: all that these two remember from unit to unit, or forget, is what was returned."""
LIMITS = ((2.5, 0.007), (5.0, 0.015), (math.inf, 0.03))
"""Mean staleness up to which a loss may be so much higher."""


def stale(result: Result) -> list[Finding]:
    """One unit a step and more workers than that: every unit is stale, by what all others send meanwhile."""
    findings = []
    for group in result["groups"]:
        found = {row["label"]: row for row in group["rows"]}
        steps = mean(found, FORCED, "staleness")
        limit = next(share for most, share in LIMITS if (steps or 0.0) <= most)
        claim = f"async against sync, {figure(steps)} steps stale in the mean ({group['workers']} workers)"
        findings.append(at_most(claim, worse(found, FORCED, "sync"), limit))
        if steps is not None and steps >= 3.5:
            gain = worse(found, NOT_RETURNED, RETURNED)
            findings.append(at_least(f"gain of what is returned ({group['workers']} workers)", gain, 0.0))
    return findings


ALIKE = "--stragglers none --links unlimited"
EXPERIMENTS = {
    1: Experiment(
        "sync with dense codecs computes what one process computes",
        f"--modes sync --codecs dense --baselines one --workers 1,2,4 {ALIKE}",
        same_bits,
    ),
    3: Experiment(
        "local steps come within 1% of DDP at a three-hundredth of the bytes",
        f"--modes local+sync.local_steps=4,local+sync.local_steps=8,{LOCAL},local+sync.local_steps=30,{SPARSE} "
        f"--baselines ddp,ddp+muon=1 --workers 4 {ALIKE}",
        near_ddp,
    ),
    4: Experiment(
        "sparse local steps come within 0.5% of dense DiLoCo at a sixteenth of the bytes",
        f"--modes {LOCAL} --baselines {','.join(('ddp', *DILOCO))} --workers 4 {ALIKE}",
        near_diloco,
    ),
    5: Experiment(
        "error feedback is needed",
        f"--modes {LOCAL},{LOCAL}+{NO_MEMORY} --baselines ddp --workers 4 {ALIKE}",
        feedback,
    ),
    6: Experiment(
        "outer momentum does not help sparse pushes",
        f"--modes {','.join((*PLAIN, *MOMENTA))} --baselines ddp --workers 4 {ALIKE}",
        momentum,
    ),
    7: Experiment(
        "counting who sent an element helps",
        f"--modes {','.join(itertools.chain(*GAMMAS.values()))} --baselines ddp --workers 4 --streams 8 {ALIKE}",
        gamma,
    ),
    10: Experiment(
        "sparse deltas cost little, and a worker's share of egress does not grow",
        f"--modes {','.join(PULLS.values())},{DENSE_PULL} --baselines one --workers 2,4,8 --streams 8 {ALIKE}",
        pull,
    ),
    12: Experiment(
        "async outruns sync where speeds are 1:1:2:4, at its loss",
        f"--modes sync:sync+{SLOWLY},async:async+{SLOWLY} --baselines none --workers 4 --unit-s 0.4 "
        "--stragglers slow:4/4/2/1 --links unlimited",
        speeds,
    ),
    13: Experiment(
        "stale units cost little, and what is returned is worth it",
        f"--modes sync:sync+{SLOWLY},{FORCED},{RETURNED},{NOT_RETURNED} --baselines none --workers 2,4,8 --streams 1 "
        f"--batch-size 16 --unit-s 1 {ALIKE}",
        stale,
    ),
}
"""Number -> experiment. The second is a test: tests/cluster/test_mass.py."""


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
