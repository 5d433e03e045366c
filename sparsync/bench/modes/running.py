"""One case: its processes run to their end, its copies are evaluated, and what they left becomes its result.

A case has a directory of its own, which is emptied first. What stays in it: case.json, run/events.jsonl,
run/summary.json, run/config.toml and the recorders' lines; or, where it failed, the logs as well.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsync.bench.modes.cases import Case
from sparsync.bench.modes.links import Lines, Network, link
from sparsync.bench.modes.reading import result
from sparsync.bench.modes.recorder import loads
from wire.clock import Deadline, monotonic_clock
from wire.config import ENV_PREFIX, environment

SCRIPTS = "sparsync.bench.modes.scripts"
POLL_S = 0.1
END_S = 20.0
"""For the processes of a case to be gone once they are killed."""
SHOWN = 1500
"""Letters of a log's end in an error."""
STAYS = ("events.jsonl", "summary.json", "config.toml")


class Failed(Exception):
    """A case did not come to its end; what its processes said last."""


def run(case: Case, directory: Path, *, network: Network, limit_s: float) -> dict[str, Any]:
    """The result of a case.

    Raises: Failed; SparsyncError where the link cannot be made.
    """
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "run").mkdir(parents=True)
    (directory / "case.json").write_text(json.dumps(asdict(case), indent=1) + "\n")
    with network.lines(link(case.link), workers=case.workers, cluster=case.is_cluster) as lines:
        processes = cluster if case.is_cluster else ranks
        with processes(case, directory, lines) as started:
            wait(started, directory, limit_s=limit_s)
    assert lines.shaped == case.shaped, (lines.shaped, case)
    found = read(directory, losses=evaluated(case, directory), arrives=arrives(case))
    tidy(directory)
    return found


# ── processes ───────────────────────────────────────────────────────────────────────────────────


@contextmanager
def cluster(case: Case, directory: Path, lines: Lines) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The launcher of a cluster, which starts all others."""
    (directory / "lines.json").write_text(json.dumps(asdict(lines)))
    with _ended([_start(f"{SCRIPTS}.cluster", directory, "cluster", within=lines.hub)]) as started:
        yield started


@contextmanager
def ranks(case: Case, directory: Path, lines: Lines) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Every rank of a baseline."""
    started = list[subprocess.Popen[bytes]]()
    with _ended(started):
        for rank in range(case.workers):
            name, within = f"rank-{rank}", lines.within(rank)
            started.append(
                _start(f"{SCRIPTS}.baseline", directory, name, str(rank), within=within, at=lines.interface)
            )
        yield started


def _start(
    module: str, directory: Path, name: str, *words: str, within: Sequence[str] = (), at: str = "lo"
) -> subprocess.Popen[bytes]:
    """In a session of its own: an interrupt is for us, who end it."""
    command = [*within, sys.executable, "-P", "-m", module, str(os.getpid()), str(directory), *words]
    with (directory / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**plain_environment(), "GLOO_SOCKET_IFNAME": at},
            start_new_session=True,
        )


def plain_environment() -> Mapping[str, str]:
    """Ours without a configuration, and one thread a process."""
    kept = {k: v for k, v in environment().items() if not (k.startswith(ENV_PREFIX) and "__" in k)}
    return {**kept, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@contextmanager
def _ended(started: list[subprocess.Popen[bytes]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Whatever happens, none of them is left; their children end with them."""
    try:
        yield started
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait(END_S)


def wait(started: Sequence[subprocess.Popen[bytes]], directory: Path, *, limit_s: float) -> None:
    """Until all have ended well. Raises: Failed."""
    deadline = Deadline(monotonic_clock, limit_s)
    going = list(started)
    while going:
        if deadline.passed:
            raise Failed(f"not done after {limit_s:g} s (--limit-s)\n{story(directory)}")
        with suppress(subprocess.TimeoutExpired):
            going[0].wait(POLL_S)
        codes = [process.poll() for process in going]
        if bad := [code for code in codes if code]:
            raise Failed(f"a process ended with {bad[0]}\n{story(directory)}")
        going = [process for process, code in zip(going, codes, strict=True) if code is None]


def story(directory: Path) -> str:
    """The ends of the logs."""
    logs = [*sorted(directory.glob("*.log")), *sorted(directory.glob("run/logs/*.log"))]
    return "\n".join(f"--- {log}\n{log.read_text(errors='replace')[-SHOWN:]}" for log in logs)


# ── what they left ──────────────────────────────────────────────────────────────────────────────


def evaluated(case: Case, directory: Path) -> dict[int, float | None]:
    """The validation loss of each copy, by its number, as all methods are evaluated at the end of their runs."""
    import torch
    from safetensors.torch import load_file

    from sparsync.lm.corpus import prepare
    from sparsync.lm.dataset import validation_batches, validation_loss
    from sparsync.lm.model import GPT

    torch.set_num_threads(1)
    config = case.config
    text = prepare(config.data.source, config.data.cache_dir)
    held_out = validation_batches(text.val, config.data.seq_len, case.work.windows)
    model = GPT(config.model.layers, config.model.width, config.model.heads, context=config.data.seq_len)
    model.eval()
    own = dict(model.named_parameters())
    losses = dict[int, float | None]()
    for path in directory.glob("copy-*.safetensors"):
        with torch.no_grad():
            for name, kept in load_file(path).items():
                own[name].copy_(kept)
        loss = validation_loss(model, held_out)
        losses[int(path.stem.partition("-")[2])] = loss if math.isfinite(loss) else None
    return losses


def arrives(case: Case) -> bool:
    """Whether units are settled as they arrive, each for itself."""
    sync = case.config.sync
    bounded = sync.mode == "local" and sync.staleness is not None
    return case.is_cluster and (bounded or sync.mode in ("ssp", "async"))


def read(directory: Path, *, losses: Mapping[int, float | None], arrives: bool) -> dict[str, Any]:
    """The result of the files in a case's directory. Raises: Failed."""
    try:
        return result(
            events=loads((directory / "run" / "events.jsonl").read_text()),
            summary=json.loads((directory / "run" / "summary.json").read_text()),
            workers={path.stem: loads(path.read_text()) for path in sorted(directory.glob("worker-*.jsonl"))},
            losses=losses,
            arrives=arrives,
        )
    except (OSError, ValueError) as error:
        raise Failed(f"{directory}: its files make no result ({error})\n{story(directory)}") from None


def tidy(directory: Path) -> None:
    """What its figures came from stays; copies, checkpoints, the servers' logs and all else goes."""
    for path in (directory / "run").iterdir():
        if path.name not in STAYS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in directory.iterdir():
        if path.is_file() and path.suffix not in (".json", ".jsonl"):
            path.unlink()
