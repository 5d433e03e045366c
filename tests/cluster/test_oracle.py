"""With dense push and pull, a cluster computes what one process computes with plain PyTorch, bit for bit.

The loop below is the oracle: the units of a step one after the other, summed in stream order, divided
once by the number of those that are not empty, then one step of torch's own fused optimizer. In `delayed` it computes
them where each stream expects the parameters to be by then (docs/numerics.md), but for the steps at which the run is
whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from sparsync.lm.corpus import prepare
from sparsync.lm.dataset import TokenDataset
from sparsync.lm.model import GPT
from sparsync.lm.train import CLIP_NORM, build_optimizer, build_scheduler
from tests.cluster.conftest import Starter
from wire.config import Config, complete, load
from wire.layout import BLOCK
from worker.data import Order
from worker.randomness import seed_all

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train_alone(config: Config) -> nn.Module:
    """The run of `config` in this process, without any of Sparsync's servers, sessions or codecs."""
    seed_all("run", config.run.seed)  # as a worker seeds before the user's script
    text = prepare(config.data.source, config.data.cache_dir)
    dataset = TokenDataset(text.train, config.data.seq_len)
    model = GPT(config.model.layers, config.model.width, config.model.heads, context=config.data.seq_len)
    optimizer = build_optimizer(model, config.optimizer)
    scheduler = build_scheduler(optimizer, config.optimizer, total_steps=config.run.steps)
    streams = config.sync.units_per_step
    order = Order(config.run.seed, len(dataset), config.data.batch_size, streams)
    earlier = before = parameters_of(model)
    expecting = [Expecting(config, before) for _ in range(streams)]
    for step in range(config.run.steps):
        now, gradients = parameters_of(model), []
        for stream in range(streams):
            indices = order.indices(step, stream).tolist()
            put(model, now)
            if not lags(config, step):
                expecting[stream].arrive()
            else:
                put(model, expecting[stream].ahead(before, earlier if lags(config, step - 1) else None))
            own = unit_gradient(model, dataset, indices) if indices else []
            gradients += [own] if indices else []
            expecting[stream].send(own or [torch.zeros_like(p) for p in now])
        put(model, now)
        earlier, before = before, now
        for parameter, units in zip(model.parameters(), zip(*gradients, strict=True), strict=True):
            total = torch.zeros_like(parameter)
            for unit in units:
                total += unit
            parameter.grad = total if config.optimizer.aggregate == "sum" else total / len(gradients)
        optimizer.step()
        scheduler.step()
    return model


def lags(config: Config, step: int) -> bool:
    """Whether the units of a step are computed on the parameters of the step before."""
    intervals = (config.run.checkpoint_every, config.durability.stream_state_every)
    whole = step == 0 or any(interval and step % interval == 0 for interval in intervals)
    return config.sync.mode == "delayed" and not whole


class Expecting:
    """Where one stream takes the parameters to be when its next unit counts."""

    def __init__(self, config: Config, like: list[torch.Tensor]) -> None:
        self._weight = config.sync.look_ahead
        self._beta = np.float32(config.optimizer.betas[0] if config.optimizer.name == "adamw" else 0.0)
        self._along, self._squares, self._last = (
            [np.zeros(len(in_blocks(p))) for p in like] for _ in range(3)
        )
        self._units: list[list[np.ndarray]] = []
        self._met = False

    def arrive(self) -> None:
        """Nothing is on its way any more."""
        self._units, self._met = [], False

    def send(self, gradient: list[torch.Tensor]) -> None:
        self._units = [*self._units[-1:], [in_blocks(g) for g in gradient]]

    def ahead(self, before: list[torch.Tensor], earlier: list[torch.Tensor] | None) -> list[torch.Tensor]:
        """`earlier`: the step before that; None: the run was whole in between."""
        if self._weight == 0:
            return before
        found = []
        for i, parameter in enumerate(before):
            here = in_blocks(parameter)
            move = here - in_blocks(earlier[i]) if earlier is not None else np.zeros_like(here)
            if earlier is not None and self._met and len(self._units) == 2:
                counted = self._units[0][i]
                new = self._beta * self._last[i] - inner(move, counted)
                self._along[i] = 0.97 * self._along[i] + (1 - 0.97) * new
                self._squares[i] = 0.97 * self._squares[i] + (1 - 0.97) * inner(counted, counted)
            self._last[i] = inner(move, self._units[-1][i])
            gain = np.where(self._squares[i] > 0, self._along[i] / np.maximum(self._squares[i], 1e-300), 0)
            gain = (self._weight * gain).astype(np.float32)[:, None]
            there = here + (self._beta * move - gain * self._units[-1][i])
            found.append(torch.from_numpy(there.reshape(-1)[: parameter.numel()]).view(parameter.shape))
        self._met = earlier is not None
        return found


def in_blocks(values: torch.Tensor) -> np.ndarray:
    """float32 [blocks, 4096], the last one filled up with zeros."""
    flat = values.detach().reshape(-1).numpy()
    return np.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)


def inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [blocks]: products of rows, summed by halves."""
    sums = a.astype(np.float64) * b
    while (half := sums.shape[1] // 2) > 0:
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


def parameters_of(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def put(model: nn.Module, values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(value)


def unit_gradient(model: nn.Module, dataset: TokenDataset, indices: list[int]) -> list[torch.Tensor]:
    """The clipped gradient of one unit, parameter by parameter."""
    model.zero_grad()
    x, y = default_collate([dataset[i] for i in indices])
    _, loss = model(x, y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    return [p.grad for p in model.parameters() if p.grad is not None]


def digest(model: nn.Module) -> str:
    """sha256 over the parameters as little-endian fp32, in `named_parameters()` order."""
    content = hashlib.sha256()
    for _, parameter in model.named_parameters():
        content.update(parameter.detach().numpy().astype("<f4").tobytes())
    return content.hexdigest()


def config_of(settings: dict[str, object]) -> Config:
    return complete(load(None, [f"{key}={value}" for key, value in settings.items()], {}).config)


def test_the_small_run(
    undisturbed: Callable[[str], dict[str, Any]], settings: dict[str, object], text: Path
) -> None:
    expected = digest(train_alone(config_of(settings)))
    summary = undisturbed("dense")
    assert summary["params_digest"] == expected
    assert summary["published_digest"] == expected


def test_one_step_behind(train: Starter, settings: dict[str, object]) -> None:
    """With checkpoints and deposits on the way, before which the pipeline drains."""
    changes = {
        "sync.mode": "delayed",
        "run.checkpoint_every": 7,
        "durability.stream_state_every": 5,
        "push.codec": "dense",
        "pull.codec": "dense",
    }
    summary = train(changes, flags=["--workers", "3"]).finish()
    assert summary["params_digest"] == digest(train_alone(config_of({**settings, **changes})))
    assert summary["pure"]
    assert summary["staleness"] == {"0": 4 * 6, "1": 4 * 14}, "the steps 0 5 7 10 14 15 drain"


@pytest.mark.slow
def test_one_step_behind_without_looking_ahead(train: Starter, settings: dict[str, object]) -> None:
    changes = {"sync.mode": "delayed", "sync.look_ahead": 0.0, "push.codec": "dense", "pull.codec": "dense"}
    summary = train(changes, flags=["--workers", "2"]).finish()
    assert summary["params_digest"] == digest(train_alone(config_of({**settings, **changes})))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "changes", [{}, {"optimizer.name": "sgd", "optimizer.lr": 0.05}], ids=["adamw", "sgd"]
)
def test_the_default_run(train: Starter, settings: dict[str, object], changes: dict[str, object]) -> None:
    """The default model with its cosine, past the end of an epoch and its short and empty units."""
    own = {k: v for k, v in settings.items() if k in ("data.source", "data.cache_dir")}
    changes = {
        "run.steps": 60,
        "model.layers": 4,
        "model.width": 256,
        "data.seq_len": 128,
        "data.batch_size": 8,
        "optimizer.warmup_steps": 20,
        "optimizer.min_lr_ratio": 0.1,
        "run.eval_every": 0,
        "push.codec": "dense",
        "pull.codec": "dense",
        **changes,
    }
    summary = train(changes).finish(300)
    assert summary["params_digest"] == digest(train_alone(config_of({**own, **changes})))
