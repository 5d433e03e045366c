"""The trainer's own decisions: schedule, parameter groups, number of steps, sample."""

from pathlib import Path

import pytest
import torch

from sparsync.lm.model import GPT
from sparsync.lm.train import (
    build_optimizer,
    build_scheduler,
    planned_steps,
    printable,
    warmup_cosine,
    write_sample,
)
from wire.config import Config, DataConfig, OptimizerConfig, RunConfig, SyncConfig


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(1, 16, 2, context=8)


def test_the_schedule_rises_then_falls_to_its_floor() -> None:
    shares = [warmup_cosine(step, 10, 110, 0.1) for step in range(130)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == shares[10] == 1.0
    assert shares[60] == pytest.approx(0.55)
    assert shares[110:] == pytest.approx([0.1] * 20)
    assert shares[10:111] == sorted(shares[10:111], reverse=True)


@pytest.mark.parametrize("total", [1, 5, 10])
def test_a_run_shorter_than_its_warm_up_only_rises(total: int) -> None:
    shares = [warmup_cosine(step, 10, total, 0.1) for step in range(total)]
    assert shares == [pytest.approx((step + 1) / 10) for step in range(total)]


def test_without_warm_up_it_begins_at_the_peak() -> None:
    assert warmup_cosine(0, 0, 100, 0.0) == 1.0


def test_the_scheduler_drives_both_groups(model: GPT) -> None:
    config = OptimizerConfig(lr=0.5, warmup_steps=2)
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, total_steps=10)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_matrices_decay_and_vectors_do_not(model: GPT, name: str, kind: type) -> None:
    optimizer = build_optimizer(model, OptimizerConfig.model_validate({"name": name, "weight_decay": 0.3}))
    assert type(optimizer) is kind
    matrices, vectors = optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert {p.dim() for p in matrices["params"]} == {2}
    assert {p.dim() for p in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


def test_epochs_become_steps_with_a_short_last_one() -> None:
    by_steps = Config(run=RunConfig(steps=70))
    assert planned_steps(by_steps, samples=10**6) == 70
    by_epochs = Config(
        run=RunConfig(epochs=3), data=DataConfig(batch_size=8), sync=SyncConfig(units_per_step=4)
    )
    assert planned_steps(by_epochs, samples=64) == 6
    assert planned_steps(by_epochs, samples=65) == 9


def test_samples_are_safe_on_a_terminal() -> None:
    assert printable(b"a\tb\nc\x00\x1b[2J\xff") == "a\tb\nc\ufffd\ufffd[2J\ufffd"


def test_the_sample_is_readable_text_and_the_same_again(model: GPT, tmp_path: Path) -> None:
    write_sample(model, tmp_path / "sample.txt", seed=3)
    text = (tmp_path / "sample.txt").read_text()
    assert text.startswith("def ")
    write_sample(model, tmp_path / "again.txt", seed=3)
    assert (tmp_path / "again.txt").read_text() == text
