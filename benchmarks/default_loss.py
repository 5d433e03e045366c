"""The default run against the dense codec: validation loss and bytes at the sockets, each on the same grid of
learning rates.

    python benchmarks/default_loss.py [--steps 300]

Every row is a whole `sparsync train` in real processes. Rows that benchmarks/results/default_loss.json holds
already, from the same data and settings, are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from wire.codec.values import Values
from wire.config import complete, load

RESULTS = Path(__file__).parent / "results" / "default_loss.json"
LEARNING_RATES = (2e-3, 1e-3, 4e-3)
CODECS: dict[str, dict[str, object]] = {
    "default": {},
    "dense": {"push.codec": "dense", "pull.codec": "dense"},
}
KEPT = (
    "val_loss",
    "val_loss_server",
    "train_loss",
    "bytes_pushed",
    "bytes_pulled",
    "bytes_state",
    "bytes_dense",
)


def main() -> None:
    options = argparse.ArgumentParser(description="validation loss of the default run against dense")
    options.add_argument("--steps", type=int, default=300)
    steps = options.parse_args().steps
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for lr in LEARNING_RATES:
        for codec in reversed(CODECS):
            asked = {"codec": codec, "sent": sent(codec), "lr": lr, "steps": steps}
            if not any(asked.items() <= row.items() for row in rows):
                rows.append(measure(codec, lr, steps))
                write(rows)
                print(rows[-1], flush=True)
    best = {codec: min(r["val_loss"] for r in rows if r["sent"] == sent(codec)) for codec in CODECS}
    print(f"best of each: {best}; default is {best['default'] / best['dense'] - 1:+.2%} against dense")


def sent(codec: str) -> str:
    """What values go up and down, whatever the defaults are by now."""
    config = complete(load(None, [f"{key}={value}" for key, value in CODECS[codec].items()], {}).config)
    ways = [(way, Values.named(way.values, codec=way.codec)) for way in (config.push, config.pull)]
    return " / ".join(f"{values.name.lower()}, coarse {way.coarse:g}" for way, values in ways)


def measure(codec: str, lr: float, steps: int) -> dict[str, Any]:
    """One run, and how many fewer bytes than dense it moved."""
    settings = {"run.steps": steps, "optimizer.lr": lr, **CODECS[codec]}
    keys = [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
    with tempfile.TemporaryDirectory() as directory:
        command = ["-m", "sparsync", "train", "--json", "--out", f"{directory}/run", *keys]
        done = subprocess.run(
            [sys.executable, "-P", *command], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    summary = json.loads(done.stdout)
    ratio = summary["bytes_dense"] / (summary["bytes_pushed"] + summary["bytes_pulled"])
    figures = {name: summary[name] for name in KEPT}
    return {
        "codec": codec,
        "sent": sent(codec),
        "lr": lr,
        "steps": steps,
        **figures,
        "fewer_bytes": round(ratio, 2),
    }


def write(rows: list[dict[str, Any]]) -> None:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    about = {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": asked.stdout.strip(),
    }
    RESULTS.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
