"""The default run in every mode, and with the dense codec: validation loss, rate, and bytes at the sockets.

    python benchmarks/default_loss.py [--steps 300] [--run local]

Every row is a whole `sparsync train` in real processes: the default codec and the dense one on a grid of learning
rates, the modes at the rate that each has by default. Rows that benchmarks/results/default_loss.json holds already, of
the same run, values sent, rate and steps, are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.figures import RESULTS, about
from sparsync.bench.modes.cases import sends
from wire.config import Config, complete, load

FILE = RESULTS / "default_loss.json"
LEARNING_RATES = (2e-3, 1e-3, 4e-3)
RUNS: dict[str, dict[str, object]] = {
    "dense": {"push.codec": "dense", "pull.codec": "dense"},
    "default": {},
    "delayed": {"sync.mode": "delayed"},
    "async": {"sync.mode": "async"},
    "local": {"sync.mode": "local"},
}
TUNED = ("dense", "default")
KEPT = (
    "val_loss",
    "val_loss_server",
    "train_loss",
    "wall_s",
    "tokens_per_s",
    "bytes_pushed",
    "bytes_pulled",
    "bytes_state",
    "bytes_dense",
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--run", action="append", choices=RUNS, help="only these")
    chosen = options.parse_args()
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    for run in chosen.run or RUNS:
        for lr in LEARNING_RATES if run in TUNED else (None,):
            config = configured(run, lr)
            asked = {"run": run, "sent": sends(config), "lr": config.optimizer.lr, "steps": chosen.steps}
            if not any(asked.items() <= row.items() for row in rows):
                rows.append({**asked, **about(), **measure(run, lr, chosen.steps)})
                FILE.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
                print(rows[-1], flush=True)


def configured(run: str, lr: float | None) -> Config:
    return complete(load(None, settings_of(run, lr), {}).config)


def settings_of(run: str, lr: float | None) -> list[str]:
    rate = {} if lr is None else {"optimizer.lr": lr}
    return [f"{key}={value}" for key, value in {**rate, **RUNS[run]}.items()]


def measure(run: str, lr: float | None, steps: int) -> dict[str, Any]:
    """One run, and how many fewer bytes than dense it moved."""
    keys = [word for setting in (f"run.steps={steps}", *settings_of(run, lr)) for word in ("-s", setting)]
    with tempfile.TemporaryDirectory() as directory:
        command = ["-m", "sparsync", "train", "--json", "--out", f"{directory}/run", *keys]
        done = subprocess.run(
            [sys.executable, "-P", *command], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    summary = json.loads(done.stdout)
    ratio = summary["bytes_dense"] / (summary["bytes_pushed"] + summary["bytes_pulled"])
    return {**{name: summary[name] for name in KEPT}, "fewer_bytes": round(ratio, 2)}


if __name__ == "__main__":
    main()
