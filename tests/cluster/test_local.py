"""Local steps: a cluster computes what R copies of the loop compute in one process, whoever is killed meanwhile.

The loop below is the oracle: each stream's own AdamW takes the steps of a round from the same model, the differences
are summed in stream order, divided once, and torch's SGD takes the outer step.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from sparsync.lm.corpus import prepare
from sparsync.lm.dataset import TokenDataset
from sparsync.lm.model import GPT
from sparsync.lm.train import CLIP_NORM, build_optimizer, build_scheduler
from tests.cluster.conftest import Starter
from tests.cluster.test_digests import equal_runs
from tests.cluster.test_oracle import config_of, digest
from wire.config import Config
from wire.rounds import Rounds
from worker.data import Order
from worker.randomness import seed_all

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
LOCAL = {"sync.mode": "local", "sync.local_steps": 4, "run.steps": 22, "optimizer.min_lr_ratio": 0.1}
DENSE = {"push.codec": "dense", "pull.codec": "dense"}
MOMENTUM = {"optimizer.outer_lr": 0.7, "optimizer.outer_momentum": 0.9, "optimizer.outer_nesterov": "true"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train_alone(config: Config) -> nn.Module:
    """The run of `config` in this process, without any of Sparsync's servers, sessions or codecs."""
    seed_all("run", config.run.seed)
    text = prepare(config.data.source, config.data.cache_dir)
    dataset = TokenDataset(text.train, config.data.seq_len)
    model = GPT(config.model.layers, config.model.width, config.model.heads, context=config.data.seq_len)
    inner = build_optimizer(model, config.optimizer)
    scheduler = build_scheduler(inner, config.optimizer, total_steps=config.run.steps)
    rates, inner._opt_called = [], True  # the order is ours
    for _ in range(config.run.steps):
        rates.append([group["lr"] for group in inner.param_groups])
        scheduler.step()
    streams, rounds = config.sync.units_per_step, Rounds.of(config)
    order = Order(config.run.seed, len(dataset), config.data.batch_size, streams)
    states = [inner.state, *(defaultdict(dict) for _ in range(streams - 1))]
    published = [p.detach().clone() for p in model.parameters()]
    outer = torch.optim.SGD(
        [nn.Parameter(p.clone()) for p in published],
        lr=config.optimizer.outer_lr,
        momentum=config.optimizer.outer_momentum,
        nesterov=config.optimizer.outer_nesterov,
        fused=True,
    )
    x = outer.param_groups[0]["params"]
    for round_ in range(rounds.rounds_of(config.run.steps)):
        total = [torch.zeros_like(p) for p in published]
        for stream in range(streams):
            inner.state = states[stream]
            with torch.no_grad():
                for p, there in zip(model.parameters(), x, strict=True):
                    p.copy_(there)
            for step in rounds.steps_of(round_):
                for group, rate in zip(inner.param_groups, rates[step], strict=True):
                    group["lr"] = rate
                take_step(model, inner, dataset, order.indices(step, stream).tolist())
            for there, p, summed in zip(x, model.parameters(), total, strict=True):
                summed += there.detach() - p.detach()
        for there, summed in zip(x, total, strict=True):
            there.grad = summed / streams
        outer.step()
    with torch.no_grad():
        for p, there in zip(model.parameters(), x, strict=True):
            p.copy_(there)
    return model


def take_step(
    model: nn.Module, inner: torch.optim.Optimizer, dataset: TokenDataset, indices: list[int]
) -> None:
    x, y = default_collate([dataset[i] for i in indices])
    _, loss = model(x, y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    inner.step()
    inner.zero_grad()


def test_the_run_is_the_oracles(train: Starter, settings: dict[str, object], seed: int) -> None:
    """Dense, with Nesterov's momentum; a short last round; while a worker is killed, whose heir replays its streams."""
    changes = {**LOCAL, **DENSE, **MOMENTUM, "durability.stream_state_every": 2}
    expected = digest(train_alone(config_of({**settings, **changes})))
    run = train(changes)
    run.wait_for_step(random.Random(seed).choice([3, 7, 11]))
    run.kill_worker(run.carriers()[-1])
    summary = run.finish()
    assert summary["params_digest"] == summary["published_digest"] == expected
    assert (summary["steps"], summary["units_settled"], summary["samples"]) == (22, 6 * 4, 22 * 4 * 2)
    assert [e["step"] for e in run.events("step")] == [3, 7, 11, 15, 19, 21]
    assert [e["step"] for e in run.events("evaluated") if e["model"] == "published"] == [0, 12, 20, 22]
    assert [path.name for path in (run.out / "checkpoints").iterdir()] == ["step-22"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"optimizer.name": "sgd", "optimizer.lr": 0.1}], ids=["adamw", "sgd"]
)
def test_plain_averaging_is_the_oracles(
    train: Starter, settings: dict[str, object], changes: dict[str, object]
) -> None:
    changes = {**LOCAL, **DENSE, "sync.warmup_rounds": 2, "sync.warmup_local_steps": 2, **changes}
    summary = train(changes).finish()
    assert summary["params_digest"] == digest(train_alone(config_of({**settings, **changes})))


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["mean", "count"])
def test_machines_change_nothing(train: Starter, aggregate: str) -> None:
    changes = {**LOCAL, "optimizer.aggregate": aggregate}
    first = train(changes).finish()
    for servers, workers in ((1, 1), (4, 3), (2, 4)):
        flags = ["--servers", str(servers), "--workers", str(workers)]
        equal_runs(first, train(changes, flags=flags).finish())


@pytest.mark.slow
def test_a_run_is_resumed_on_other_machines(train: Starter) -> None:
    """Also where the checkpoint was asked for, and whatever the steps at which rounds end."""
    whole = train(LOCAL).finish()
    half = train({**LOCAL, "run.steps": 12})
    half.finish()
    flags = ["--servers", "1", "--workers", "3"]
    equal = train({"run.steps": 22}, out=half.out, flags=flags).finish()
    # the learning rates of twelve steps are others than those of twenty-two
    assert equal["steps"] == whole["steps"] == 22


@pytest.mark.slow
def test_a_run_that_began_step_by_step_goes_on_with_local_steps(train: Starter) -> None:
    begun = train({"run.steps": 10})
    begun.finish()
    run = train({"run.steps": 21, "sync.mode": "local", "sync.local_steps": 4}, out=begun.out)
    summary = run.finish()
    assert summary["steps"] == 21
    assert [e["step"] for e in run.events("step")] == [13, 17, 20]
    assert summary["val_loss"] < 5.3
