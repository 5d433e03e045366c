"""Tokens a second of the default run against two independent single-thread PyTorch loops on the same cores.

The loops train the same model on batches of the same size with their own fused AdamW and
exchange nothing: what two workers could reach at most. Both are run in turn, A B A B …, so
that a machine whose speed drifts slows both; ratios are taken pair by pair.

    python benchmarks/scaling.py [--steps 60] [--rounds 3] [--json]

Writes benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "scaling.json"
WARM_UP = 3


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--loop", type=int, metavar="UNITS", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.loop:
        print(plain_loop(chosen.loop))
        return
    rounds = [one_round(chosen.steps) for _ in range(chosen.rounds)]
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": commit(),
        "steps": chosen.steps,
        "rounds": rounds,
        "ratio": summary([r["ratio"] for r in rounds]),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def one_round(steps: int) -> dict[str, float]:
    """The cluster, then the two loops over as many units as the cluster's workers computed."""
    cluster = cluster_rate(steps)
    loops = loops_rate(2 * steps)
    print(
        f"cluster {cluster:.0f} tokens/s, loops {loops:.0f} tokens/s: {cluster / loops:.3f}", file=sys.stderr
    )
    return {"cluster_tokens_per_s": cluster, "loops_tokens_per_s": loops, "ratio": cluster / loops}


def cluster_rate(steps: int) -> float:
    """Of the default run of `steps` steps, from its first unit to the last settled step, without evaluations."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        command = ["-m", "sparsync", "train", "--json", "--out", str(out), "-s", f"run.steps={steps}"]
        subprocess.run(
            [sys.executable, "-P", *command, "-s", "run.eval_every=0"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    closed = [line for line in lines if line["event"] == "step"][WARM_UP:]
    tokens = sum(line["tokens"] for line in closed[1:])
    return tokens / (closed[-1]["s"] - closed[0]["s"])


def loops_rate(units: int) -> float:
    """Sum of the rates of two plain loops that run at the same time."""
    command = [sys.executable, "-P", __file__, "--loop", str(units)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(2)
    ]
    return sum(float(process.communicate()[0]) for process in running)


def plain_loop(units: int) -> float:
    """Tokens a second of forward, backward, clip and AdamW on the default model, one thread."""
    import torch

    from sparsync.lm.corpus import prepare
    from sparsync.lm.dataset import TokenDataset
    from sparsync.lm.model import GPT
    from wire.config import Config, complete

    config = complete(Config())
    assert config.optimizer.lr is not None
    torch.set_num_threads(1)
    torch.manual_seed(config.run.seed)
    dataset = TokenDataset(prepare(config.data.source).train, config.data.seq_len)
    model = GPT(config.model.layers, config.model.width, config.model.heads, context=config.data.seq_len)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr, fused=True)
    tokens, began = 0, 0.0
    for unit in range(units + WARM_UP):
        if unit == WARM_UP:
            tokens, began = 0, time.perf_counter()
        size = config.data.batch_size
        pairs = [dataset[unit * size + i] for i in range(size)]
        x, y = (torch.stack(part) for part in zip(*pairs, strict=True))
        _, loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += y.numel()
    return tokens / (time.perf_counter() - began)


def summary(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return asked.stdout.strip()


if __name__ == "__main__":
    main()
