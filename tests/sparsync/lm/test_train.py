"""The trainer's own decisions: schedule, parameter groups, number of steps, sample."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sparsync.lm.model import GPT
from sparsync.lm.train import (
    build_optimizer,
    build_scheduler,
    planned_steps,
    readable,
    share_of_peak,
    write_sample,
)
from wire.config import Config, DataConfig, OptimizerConfig, RunConfig, SyncConfig


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(1, 16, 2, context=8)


def shares(steps: int, *, total: int, **config: Any) -> list[float]:
    chosen = OptimizerConfig(**config)
    return [share_of_peak(step, chosen, total_steps=total) for step in range(steps)]


@pytest.mark.parametrize(
    ("schedule", "half_way", "at_a_quarter"),
    [("cosine", 0.55, 0.1 + 0.9 * (2 + 2**0.5) / 4), ("linear", 0.55, 0.775), ("constant", 1.0, 1.0)],
)
def test_the_schedule_rises_then_falls_to_its_floor(
    schedule: str, half_way: float, at_a_quarter: float
) -> None:
    found = shares(130, total=110, schedule=schedule, warmup_steps=10, min_lr_ratio=0.1)
    assert found[:11] == pytest.approx([*(n / 10 for n in range(1, 11)), 1.0])
    assert (found[35], found[60]) == pytest.approx((at_a_quarter, half_way))
    assert found[110:] == pytest.approx([1.0 if schedule == "constant" else 0.1] * 20)
    assert found[10:111] == sorted(found[10:111], reverse=True)


@pytest.mark.parametrize("total", [1, 5, 10])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_run_shorter_than_its_warm_up_only_rises(schedule: str, total: int) -> None:
    found = shares(total, total=total, schedule=schedule, warmup_steps=10)
    assert found == [pytest.approx((step + 1) / 10) for step in range(total)]


def test_without_warm_up_it_begins_at_the_peak() -> None:
    assert shares(1, total=100, warmup_steps=0, min_lr_ratio=0.0) == [1.0]


def test_the_scheduler_drives_both_groups(model: GPT) -> None:
    config = OptimizerConfig(lr=0.5, warmup_steps=2, betas=(0.9, 0.95))
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, total_steps=10)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_matrices_decay_and_vectors_do_not(model: GPT, name: str, kind: type) -> None:
    optimizer = build_optimizer(
        model, OptimizerConfig(name=name, lr=0.5, betas=(0.9, 0.95), weight_decay=0.3)
    )
    assert type(optimizer) is kind
    matrices, vectors = optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert {p.dim() for p in matrices["params"]} == {2}
    assert {p.dim() for p in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


def test_muon_steps_the_hidden_matrices_and_adamw_the_rest(model: GPT) -> None:
    optimizer = build_optimizer(model, OptimizerConfig(name="muon", lr=0.5, weight_decay=0.3))
    hidden, embeddings, vectors = (set(group["params"]) for group in optimizer.param_groups)
    assert embeddings == {model.tokens.weight, model.positions.weight}
    assert hidden == {p for p in model.parameters() if p.dim() == 2} - embeddings
    assert vectors == {p for p in model.parameters() if p.dim() == 1}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 0.5]


def test_epochs_become_steps_with_a_short_last_one() -> None:
    by_steps = Config(run=RunConfig(steps=70))
    assert planned_steps(by_steps, samples=10**6) == 70
    by_epochs = Config(
        run=RunConfig(epochs=3), data=DataConfig(batch_size=8), sync=SyncConfig(units_per_step=4)
    )
    assert planned_steps(by_epochs, samples=64) == 6
    assert planned_steps(by_epochs, samples=65) == 9


def test_samples_are_safe_on_a_terminal() -> None:
    assert readable(b"a\tb\nc\x00\x1b[2J\xff") == "a\tb\nc\ufffd\ufffd[2J\ufffd"


def test_the_sample_is_readable_text_and_the_same_again(model: GPT, tmp_path: Path) -> None:
    write_sample(model, tmp_path / "sample.txt", seed=3)
    text = (tmp_path / "sample.txt").read_text()
    assert text.startswith("def ")
    write_sample(model, tmp_path / "again.txt", seed=3)
    assert (tmp_path / "again.txt").read_text() == text
