"""One rank of a baseline: plain PyTorch on the same model, samples and schedule as the clusters.

    python -m sparsync.bench.modes.scripts.baseline PARENT DIRECTORY RANK

DIRECTORY holds case.json, and the file by which the ranks find each other over gloo. A step takes R units, as in a
cluster; each rank computes R / ranks of them. Rank 0 writes DIRECTORY/run/{events.jsonl,summary.json} as a coordinator
does.

- `one`: g = mean of the units' clipped gradients, in stream order; AdamW. What `sync` computes with the dense codec,
  bit for bit.
- `ddp`: DistributedDataParallel, a rank's units as one batch; g = mean over ranks, then clipped; AdamW. `-fp16`,
  `-powersgd`: its hooks.
- `diloco`: R replicas, each H steps of clipped AdamW; then x − mean(replicas) is the gradient of SGD with Nesterov
  momentum (2311.08105).

Each with `muon=1`: Muon in AdamW's place, as far as the built-in trainer takes it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import default_collate

from sparsync.bench.modes import stragglers
from sparsync.bench.modes.cases import Case, case_of
from sparsync.bench.modes.methods import values
from sparsync.bench.modes.recorder import DATA, Copies, Pace, Recorder, parameters
from sparsync.bench.modes.scripts import stopper
from sparsync.bench.modes.scripts.ledger import Ledger
from sparsync.lm.corpus import prepare
from sparsync.lm.dataset import TokenDataset, validation_batches, validation_loss
from sparsync.lm.model import GPT, parameter_count
from sparsync.lm.train import CLIP_NORM, build_optimizer, build_scheduler
from sparsync.orphan_guard import end_with_parent
from wire.clock import monotonic_clock
from wire.config import Config
from wire.rpc.meter import SocketMeter
from worker.data import Order
from worker.randomness import seed_all

PATIENCE = timedelta(hours=1)
"""A rank waits so long for the others; whoever runs the case ends it earlier."""


def main() -> None:
    end_with_parent(int(sys.argv[1]))
    directory, rank = Path(sys.argv[2]), int(sys.argv[3])
    case = case_of(json.loads((directory / "case.json").read_text()))
    torch.set_num_threads(1)
    if case.workers > 1:
        store = f"file://{directory / 'store'}"
        dist.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=case.workers, timeout=PATIENCE
        )
    bench = Bench(case, directory, rank)
    TRAIN[case.kind](bench)
    bench.finish()
    if case.workers > 1:
        dist.barrier()
        os._exit(0)  # all is written; torch's threads, where they outlive the interpreter, abort the process


class Bench:
    """What all kinds share: model, data, records; the units of this rank."""

    def __init__(self, case: Case, directory: Path, rank: int) -> None:
        self.case, self.rank = case, rank
        self.keys = values(case.settings)
        config = case.config
        name = "muon" if self.keys["muon"] else config.optimizer.name
        self.optimizer = config.optimizer.model_copy(update={"name": name})
        self.config: Config = config
        seed_all("run", config.run.seed)
        text = prepare(config.data.source, config.data.cache_dir)
        self._dataset = TokenDataset(text.train, config.data.seq_len)
        self._held_out = validation_batches(text.val, config.data.seq_len, case.work.windows)
        self.model = GPT(
            config.model.layers, config.model.width, config.model.heads, context=config.data.seq_len
        )
        streams = config.sync.units_per_step
        self.streams = range(rank * streams // case.workers, (rank + 1) * streams // case.workers)
        self._order = Order(config.run.seed, len(self._dataset), config.data.batch_size, streams)
        self._pattern = stragglers.pattern(case.straggler)
        pace = Pace(self._pattern, rank, case.seed, case.work.unit_s)
        self.recorder = Recorder(directory, pace, SocketMeter(lambda *ends: DATA))
        self._directory = directory
        self._ledger = Ledger(directory / "run") if rank == 0 else None
        self._stops = self._pattern.stops(rank, case.workers)
        self._copies = Copies(directory, worker=rank, steps=config.run.steps, count=case.work.copies)

    def keep(self, step: int) -> None:
        """A copy for evaluation, where it is due."""
        if self._ledger is not None and self._copies.due(step):
            self.recorder.begin()
            self._ledger.write("scalars", step=step, **self._copies.keep(parameters(self.model), step))
            self.recorder.pass_to("kept_s")

    def loss(self, model: Callable[..., Any], step: int, *streams: int) -> tuple[Any, int]:
        """Forward of a unit, or of several as one batch, as late as a straggler's; and its tokens."""
        indices = [i for stream in streams for i in self._order.indices(step, stream).tolist()]
        x, y = default_collate([self._dataset[i] for i in indices]) if indices else self._nothing()
        self.recorder.begin()
        if self._stops:
            stopper.start(self._pattern.stop_after_s, self._pattern.stop_for_s)
            self._stops = False
        self.recorder.sleep(units=len(streams))
        _, loss = model(x, y)
        return (loss, y.numel()) if indices else (loss * 0.0, 0)

    def _nothing(self) -> tuple[Tensor, Tensor]:
        """A batch for a unit behind the end of an epoch: it is computed, and counts nothing."""
        x, y = self._dataset[0]
        return x[None], y[None]

    def closed(self, step: int, losses: Sequence[float], tokens: int) -> None:
        """The model has made a step. tokens: of this rank."""
        if self._ledger is not None:
            self._ledger.step(step, sum(losses) / len(losses), tokens * self.case.workers)

    def finish(self) -> None:
        """The loss of the final model, and what became of it all; behind the last step."""
        self.recorder.close()
        moved = torch.tensor(SocketMeter(lambda *ends: DATA).sample().get(DATA, (0, 0)), dtype=torch.float64)
        if self.case.workers > 1:
            dist.all_reduce(moved)
        if self._ledger is None:
            return
        self.model.eval()
        loss = validation_loss(self.model, self._held_out)
        units = self.config.run.steps * self.config.sync.units_per_step
        elements = parameter_count(self.model)
        self._ledger.finish(
            loss,
            params=elements,
            data_digest=self._dataset.digest,
            units_settled=units,
            bytes_pushed=int(moved[0]),
            bytes_pulled=int(moved[1]),
            bytes_dense=8 * elements * units,
            model=self.model,
        )


# ── the kinds ───────────────────────────────────────────────────────────────────────────────────


def alone(bench: Bench) -> None:
    """One process: the units of a step one after the other."""
    model, recorder, steps = bench.model, bench.recorder, bench.config.run.steps
    optimizer = build_optimizer(model, bench.optimizer)
    scheduler = build_scheduler(optimizer, bench.optimizer, total_steps=steps)
    for step in range(steps):
        bench.keep(step)
        totals, losses, tokens = [torch.zeros_like(p) for p in model.parameters()], list[float](), 0
        for stream in bench.streams:
            loss, size = bench.loss(model, step, stream)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            recorder.computed()
            if size:
                for total, p in zip(totals, model.parameters(), strict=True):
                    total += p.grad if p.grad is not None else 0.0
                losses.append(loss.item())
            model.zero_grad()
            recorder.sent(size)
            tokens += size
        for total, p in zip(totals, model.parameters(), strict=True):
            p.grad = total / len(losses)
        optimizer.step()
        scheduler.step()
        model.zero_grad()
        recorder.pass_to("sent_s")
        bench.closed(step, losses, tokens)


def ddp(bench: Bench) -> None:
    """DistributedDataParallel; the hook is wrapped to see when the last gradient was there.

    A rank's units are one batch, as one uses it: the mean over its tokens is the mean of the units' losses, but where
    an epoch ends with fewer samples.
    """
    model, recorder, steps = bench.model, bench.recorder, bench.config.run.steps
    optimizer = build_optimizer(model, bench.optimizer)
    scheduler = build_scheduler(optimizer, bench.optimizer, total_steps=steps)
    watch = Watch()
    parallel = DistributedDataParallel(model, bucket_cap_mb=bench.keys["bucket_mb"] or None)
    state, hook = HOOKS[bench.case.kind](bench.keys)
    parallel.register_comm_hook(state, watch.around(hook))
    for step in range(steps):
        bench.keep(step)
        loss, size = bench.loss(parallel, step, *bench.streams)
        loss.backward()
        exposed_s = watch.since_last()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        recorder.computed(waited_s=exposed_s)
        optimizer.step()
        scheduler.step()
        model.zero_grad()
        recorder.sent(size, units=len(bench.streams))
        bench.closed(step, [loss.item()], size)


class Watch:
    """When a hook had handed its bucket over last: from then on only communication is left, and what follows it.

    A hook compresses before it hands over, which is computing; what PowerSGD computes between its two all-reduces is
    not told apart from waiting.
    """

    def __init__(self) -> None:
        self._handed_over = monotonic_clock.now()

    def since_last(self) -> float:
        return monotonic_clock.now() - self._handed_over

    def around(self, hook: Callable[..., torch.futures.Future[Tensor]]) -> Callable[..., object]:
        def watched(state: object, bucket: Any) -> torch.futures.Future[Tensor]:
            under_way = hook(state, bucket)
            self._handed_over = monotonic_clock.now()
            return under_way

        watched.__annotations__.clear()  # torch compares them with classes, and here they are texts
        return watched


def _powersgd(keys: dict[str, float]) -> tuple[object, Callable[..., torch.futures.Future[Tensor]]]:
    state = powerSGD_hook.PowerSGDState(
        process_group=None,
        matrix_approximation_rank=int(keys["rank"]),
        start_powerSGD_iter=int(keys["start"]),
    )
    return state, powerSGD_hook.powerSGD_hook


HOOKS: dict[str, Callable[[dict[str, float]], tuple[object, Callable[..., torch.futures.Future[Tensor]]]]] = {
    "ddp": lambda keys: (None, default_hooks.allreduce_hook),
    "ddp-fp16": lambda keys: (None, default_hooks.fp16_compress_hook),
    "ddp-powersgd": _powersgd,
}


def diloco(bench: Bench) -> None:
    """Dense DiLoCo; a rank computes its replicas one after the other."""
    steps, local_steps = bench.config.run.steps, int(bench.keys["local_steps"])
    model, recorder = bench.model, bench.recorder
    outer = torch.optim.SGD(
        model.parameters(),
        lr=bench.keys["outer_lr"],
        momentum=bench.keys["outer_momentum"],
        nesterov=bench.keys["outer_momentum"] > 0,
    )
    replicas = [Replica(bench, stream) for stream in bench.streams]
    rounds = range(0, steps, local_steps)
    for first in rounds:
        bench.keep(first)
        last = min(first + local_steps, steps)
        x = [p.detach().clone() for p in model.parameters()]
        mean = [torch.zeros_like(p) for p in x]
        told = [replica.train(model, range(first, last), x, mean) for replica in replicas]
        flat = torch.cat([ahead.view(-1) for ahead in mean])
        if bench.case.workers > 1:
            dist.all_reduce(flat)
        parts = torch.split(flat, [before.numel() for before in x])
        for p, before, ahead in zip(model.parameters(), x, parts, strict=True):
            p.data.copy_(before)
            p.grad = before - ahead.view_as(before) / bench.config.sync.units_per_step
        recorder.pass_to("waited_s")
        outer.step()
        model.zero_grad()
        recorder.pass_to("sent_s")
        units = [unit for replica in told for unit in replica]
        bench.closed(last - 1, [loss for loss, _ in units], sum(tokens for _, tokens in units))


class Replica:
    """One stream's inner optimizer."""

    def __init__(self, bench: Bench, stream: int) -> None:
        self._bench, self._stream = bench, stream
        self._optimizer = build_optimizer(bench.model, bench.optimizer)
        self._scheduler = build_scheduler(
            self._optimizer, bench.optimizer, total_steps=bench.config.run.steps
        )

    def train(
        self, model: nn.Module, steps: range, x: Sequence[Tensor], total: Sequence[Tensor]
    ) -> list[tuple[float, int]]:
        """From `x` through those steps; adds where it comes to `total`. (loss, tokens) of each."""
        for p, before in zip(model.parameters(), x, strict=True):
            p.data.copy_(before)
        told = list[tuple[float, int]]()
        for step in steps:
            loss, size = self._bench.loss(model, step, self._stream)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            self._bench.recorder.computed()
            self._optimizer.step()
            self._scheduler.step()
            model.zero_grad()
            self._bench.recorder.sent(size)
            told.append((loss.item(), size))
        for ahead, p in zip(total, model.parameters(), strict=True):
            ahead += p.detach()
        return told


TRAIN: dict[str, Callable[[Bench], None]] = {
    "one": alone,
    **dict.fromkeys(HOOKS, ddp),
    "diloco": diloco,
}


if __name__ == "__main__":
    main()
