"""Which codec settings the defaults should be: loss against bytes of the synchronous mode, in one process.

    python benchmarks/codec_defaults.py                  the whole search, about half an hour on one core
    python benchmarks/codec_defaults.py --steps 20       a quick look that it works
    python benchmarks/codec_defaults.py --setting '{"codec": "topk", "lr": 0.002, "beta1": 0.5}'     that one alone

Simulates the sync mode with the real codecs: R = 4 streams compute a unit each on the published model, push frames
to two shards, the shards' sum goes to fused AdamW on x, and a delta frame moves the published model. Bytes are the
lengths of the frames: 4 pushes and 2 pulls (two workers) a step; dense is 4 bytes a parameter for each.
The learning rate is tuned on the same grid for the dense codec and for the compressed start. Then one option at a
time is varied and the lowest loss among the settings with at least `--target` times fewer bytes is kept.
Results land in benchmarks/results/codec_defaults.{json,md}; runs that the JSON holds already (same
workload, data and torch) are not repeated.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.one_process import Model, Workload, adamw
from sparsync.lm.corpus import Prepared, prepare
from sparsync.lm.model import GPT, parameter_count
from sparsync.lm.train import CLIP_NORM, share_of_peak
from wire.codec.base import frame_bytes
from wire.codec.chain import delta_codec, push_codec
from wire.config import OptimizerConfig

STREAMS, WORKERS, SHARDS = 4, 2, 2
WEIGHT_DECAY, BETA2 = 0.1, 0.95
SCHEDULE = OptimizerConfig(schedule="cosine", warmup_steps=20, min_lr_ratio=0.1)
LEARNING_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
FORMS = ((1 / 16, 1), (1 / 16, 2), (1 / 8, 1), (1 / 8, 2), (1 / 4, 1), (1 / 4, 2), (1 / 2, 0), (1, 0), (1, 1))
"""(density, magnitude bits) of a push or a delta."""
VALUES = ("sign", "sign1", "sign2")
"""By magnitude bits."""
EVALUATE_EVERY = 100
RESULTS = Path(__file__).parent / "results" / "codec_defaults.json"


@dataclass(frozen=True)
class Setting:
    """One point of the search."""

    codec: str
    lr: float
    push_density: float = 0.25
    push_bits: int = 1
    feedback: str = "ef21"
    eta: float = 1.0
    pull_density: float = 0.25
    pull_bits: int = 1
    beta1: float = 0.9
    seed: int = 0

    def label(self) -> str:
        if self.codec == "dense":
            return f"dense · lr {self.lr:g} · seed {self.seed}"
        push = f"push {fraction(self.push_density)} {self.push_bits} bit {self.feedback} η {self.eta:g}"
        pull = f"pull {fraction(self.pull_density)} {self.pull_bits} bit"
        return f"{push} · {pull} · lr {self.lr:g} β1 {self.beta1:g} · seed {self.seed}"


class Job:
    """One training run under one setting. Planes are [blocks, 4096] float32; parameters are views of x̂."""

    def __init__(self, setting: Setting, work: Workload, text: Prepared) -> None:
        self.setting, self.work = setting, work
        self.model = Model(work, text, seed=setting.seed, windows=128)
        self._build_codecs()
        plane = self.model.plane
        self.x, self.total, self.mean = self.model.published.copy(), plane(), plane()
        betas = (setting.beta1, BETA2)
        self.optimizer = adamw(
            self.model, self.x, self.mean, lr=setting.lr, betas=betas, weight_decay=WEIGHT_DECAY
        )

    def _build_codecs(self) -> None:
        s = self.setting
        self.push = push_codec(
            codec=s.codec,
            density=s.push_density,
            feedback=s.feedback,
            momentum=s.eta,
            values=VALUES[s.push_bits],
        )
        self.pull = delta_codec(codec=s.codec, density=s.pull_density, values=VALUES[s.pull_bits])
        names = self.push.state_planes
        self.streams = [{name: self.model.plane() for name in names} for _ in range(STREAMS)]

    def run(self) -> dict[str, Any]:
        pushed = pulled = 0
        codec_s, started, curve = 0.0, time.perf_counter(), []
        for step in range(self.work.steps):
            if not self.push.estimates:
                self.total[:] = 0
            for stream in range(STREAMS):
                self.model.backward(step * STREAMS + stream, clip_norm=CLIP_NORM)
                before = time.perf_counter()
                pushed += self._push(stream)
                codec_s += time.perf_counter() - before
            np.divide(self.total, np.float32(STREAMS), out=self.mean)
            self._optimize(step)
            before = time.perf_counter()
            pulled += sum(
                frame_bytes(self.pull.publish(self.x, self.model.published, blocks))
                for blocks in self.model.shards
            )
            codec_s += time.perf_counter() - before
            if (step + 1) % EVALUATE_EVERY == 0 and step + 1 < self.work.steps:
                curve.append([step + 1, round(self.model.loss(), 4)])
        return self._summary(pushed, pulled, curve) | {
            "wall_s": round(time.perf_counter() - started, 1),
            "codec_s": round(codec_s, 2),
        }

    def _push(self, stream: int) -> int:
        """Encode for each shard, add what was decoded; the bytes of it."""
        sent = 0
        for blocks in self.model.shards:
            frame = b"".join(self.push.encode(self.model.gradient, self.streams[stream], blocks))
            self.push.add(frame, self.total, blocks)
            sent += len(frame)
        return sent

    def _optimize(self, step: int) -> None:
        share = share_of_peak(step, SCHEDULE, total_steps=self.work.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.setting.lr * share
        self.optimizer.step()

    def _summary(self, pushed: int, pulled: int, curve: list[list[float]]) -> dict[str, Any]:
        loss = self.model.loss()
        self.model.published[:] = self.x
        dense = 4 * self.model.layout.numel * self.work.steps
        return {
            "val_loss": round(loss, 4),
            "val_loss_server": round(self.model.loss(), 4),
            "push_ratio": round(dense * STREAMS / pushed, 2),
            "pull_ratio": round(dense / pulled, 2),
            "ratio": round(dense * (STREAMS + WORKERS) / (pushed + WORKERS * pulled), 2),
            "curve": curve,
        }


class Search:
    """Runs settings once each and keeps the results on disk."""

    def __init__(self, work: Workload, results: Path, target: float) -> None:
        self.work, self.results, self.target = work, results, target
        self.text = prepare("stdlib")
        self.about = describe_run(work, self.text)
        self.runs: list[dict[str, Any]] = self._known()

    def _known(self) -> list[dict[str, Any]]:
        if not self.results.exists():
            return []
        stored = json.loads(self.results.read_text())
        comparable = all(
            stored["about"][key] == self.about[key] for key in ("workload", "data_digest", "torch")
        )
        return list(stored["runs"]) if comparable else []

    def measure(self, setting: Setting) -> dict[str, Any]:
        for run in self.runs:
            if run["setting"] == asdict(setting):
                return run
        run = {
            "setting": asdict(setting),
            "commit": self.about["commit"],
            **Job(setting, self.work, self.text).run(),
        }
        self.runs.append(run)
        self.write()
        print(
            f"{run['val_loss']:.4f}  {run['ratio']:6.1f}x  {run['wall_s']:5.0f} s  {setting.label()}",
            flush=True,
        )
        return run

    def best(self, settings: Iterable[Setting]) -> Setting:
        """The lowest loss among the settings that save enough (dense: among all)."""

        def loss(setting: Setting) -> float:
            run = self.measure(setting)
            enough = setting.codec == "dense" or run["ratio"] >= self.target
            return float(run["val_loss"]) if enough else float("inf")

        return min(settings, key=loss)

    def write(self) -> None:
        self.results.parent.mkdir(parents=True, exist_ok=True)
        self.results.write_text(json.dumps({"about": self.about, "runs": self.runs}, indent=1) + "\n")
        self.results.with_suffix(".md").write_text(table(self.about, self.runs))


def search(s: Search) -> tuple[Setting, Setting]:
    """(best dense setting, best compressed setting), one option after the other.

    β1 comes early: an estimate that lags and AdamW's momentum add up, and half the momentum is worth more than
    twice the bytes. It is varied for the dense codec too.
    """
    dense = s.best(Setting("dense", lr) for lr in LEARNING_RATES)
    dense = s.best([dense, replace(dense, beta1=0.5)])
    best = s.best(Setting("topk", lr) for lr in LEARNING_RATES)
    best = s.best([best, *(replace(best, beta1=beta1) for beta1 in (0.5, 0.0))])
    best = s.best([best, *(replace(best, lr=lr) for lr in LEARNING_RATES)])
    best = s.best([best, *(replace(best, eta=eta) for eta in (0.5, 0.2))])
    best = s.best([best, *(replace(best, push_density=d, push_bits=b) for d, b in FORMS)])
    best = s.best([best, *(replace(best, pull_density=d, pull_bits=b) for d, b in FORMS)])
    best = s.best([best, replace(best, feedback="ef")])
    return dense, best


def confirm(s: Search, settings: Iterable[Setting], seeds: int) -> None:
    """The chosen settings again, with other initial weights and another order of the data."""
    for setting in settings:
        for seed in range(1, seeds):
            s.measure(replace(setting, seed=seed))


def describe_run(work: Workload, text: Prepared) -> dict[str, Any]:
    model = GPT(work.layers, work.width, work.heads, context=work.seq_len)
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": git("rev-parse", "--short", "HEAD"),
        "machine": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "data_digest": text.digest,
        "workload": asdict(work)
        | {"parameters": parameter_count(model), "streams": STREAMS, "workers": WORKERS},
    }


def git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False, cwd=RESULTS.parents[2]
    )
    return done.stdout.strip() or "unknown"


def processor() -> str:
    """The processor's own name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def fraction(density: float) -> str:
    return "1" if density == 1 else f"1/{round(1 / density)}"


def table(about: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """The results as markdown, best loss first."""
    work = about["workload"]
    lines = [
        "# Codec settings: validation loss against bytes",
        "",
        f"{work['parameters']:,} parameters ({work['layers']} layers, width {work['width']}), {work['steps']} steps of "
        f"{work['streams']} units of {work['batch_size']} x {work['seq_len']} bytes; two workers, two shards. "
        f"{about['machine']}, {about['threads']} thread, torch {about['torch']}, commit {about['commit']}, "
        f"data {about['data_digest'][:12]}. `{about['command']}`",
        "",
        "Loss is on held-out files, on the published model (x̂) and on the servers' own (x). Ratios are bytes of the",
        "dense codec over bytes of frames: up, down, and both (four pushes and two pulls a step).",
        "",
        "| push | feedback | η | pull | β1 | lr | seed | loss x̂ | loss x | up | down | both |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [row(run) for run in sorted(runs, key=lambda run: run["val_loss"])]) + "\n"


def row(run: dict[str, Any]) -> str:
    """One run as a line of the table."""
    s = Setting(**run["setting"])
    losses = f"{run['val_loss']:.4f} | {run['val_loss_server']:.4f}"
    ratios = f"{run['push_ratio']:.1f} | {run['pull_ratio']:.1f} | {run['ratio']:.1f}"
    rest = f"{s.beta1:g} | {s.lr:g} | {s.seed} | {losses} | {ratios}"
    if s.codec == "dense":
        return f"| dense | | | dense | {rest} |"
    push = f"{fraction(s.push_density)}, {s.push_bits} bit | {s.feedback} | {s.eta:g}"
    return f"| {push} | {fraction(s.pull_density)}, {s.pull_bits} bit | {rest} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument(
        "--target", type=float, default=18.0, help="least saving of bytes that a choice must have"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each of the two chosen settings")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--setting", type=json.loads, action="append", help="measure this one; may be repeated"
    )
    a = parser.parse_args()
    torch.set_num_threads(1)
    work = Workload(a.layers, a.width, 4, seq_len=128, batch_size=a.batch_size, steps=a.steps)
    s = Search(work, a.results, a.target)
    if a.setting:
        for setting in a.setting:
            s.measure(Setting(**setting))
        return
    dense, best = search(s)
    confirm(s, (dense, best), a.seeds)
    print(f"dense: {dense.label()}\nchosen: {best.label()}\n{a.results.with_suffix('.md')}")


if __name__ == "__main__":
    main()
