"""A line fitted with a scheduler of torch's own, whose rate depends on the one before; each unit logs its rates."""

import argparse
import time

import torch
from torch.optim import lr_scheduler

import sparsync

LENGTH = 24
"""Steps that the schedules are made for, however many the run has."""


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Two groups, with a rate each."""
    weight, bias = model.parameters()
    return torch.optim.SGD([{"params": [weight], "lr": 0.1}, {"params": [bias], "lr": 0.02}])


def scheduler_of(name: str, inner: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    if name == "one_cycle":
        return lr_scheduler.OneCycleLR(inner, max_lr=[0.1, 0.3], total_steps=LENGTH + 1, cycle_momentum=False)
    warm_up = lr_scheduler.LinearLR(inner, start_factor=0.1, total_iters=5)
    falling = lr_scheduler.CosineAnnealingLR(inner, T_max=LENGTH - 5, eta_min=1e-4)
    return lr_scheduler.SequentialLR(inner, [warm_up, falling], milestones=[5])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scheduler", required=True)
    parser.add_argument("--pause", type=float, default=0.0)
    args = parser.parse_args()
    model = torch.nn.Linear(8, 1)
    inner = optimizer_of(model)
    with sparsync.join(model, inner, scheduler=scheduler_of(args.scheduler, inner)) as session:
        for _ in session.units():
            time.sleep(args.pause)
            x = torch.randn(16, 8)
            loss = torch.nn.functional.mse_loss(model(x), x.sum(dim=1, keepdim=True))
            loss.backward()
            rates = {f"lr{n}": group["lr"] for n, group in enumerate(inner.param_groups)}
            session.log(**rates)
            session.step(loss)


if __name__ == "__main__":
    main()
