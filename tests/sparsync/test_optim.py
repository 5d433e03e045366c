"""A combined optimizer does what its parts would do, each on its own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from sparsync.optim import CombinedOptimizer


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def parts(net: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for matrices, AdamW for biases in two groups."""
    matrices, vectors = ([p for p in net.parameters() if p.dim() == dims] for dims in (2, 1))
    groups = [{"params": vectors[:1], "lr": 0.1}, {"params": vectors[1:]}]
    return torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(groups, lr=0.01)


def falling(optimizer: torch.optim.Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 1 / (1 + step))


def backward(net: nn.Module, step: int) -> float:
    torch.manual_seed(step)
    loss = net(torch.randn(4, 5)).square().mean()
    loss.backward()
    return loss.item()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_it_steps_as_its_parts_would_alone() -> None:
    """Under a scheduler; state is saved after three steps and loaded into another."""
    net, alone = model(), model()
    optimizer, apart = CombinedOptimizer(*parts(net)), parts(alone)
    schedulers = [falling(each) for each in (optimizer, *apart)]
    for step in range(6):
        if step == 3:
            saved = optimizer.state_dict()
            optimizer = CombinedOptimizer(*parts(net))
            optimizer.load_state_dict(saved)
            schedulers[0] = LambdaLR(optimizer, lambda step: 1 / (1 + step), last_epoch=2)
        backward(net, step)
        backward(alone, step)
        for each in (optimizer, *apart):
            each.step()
            each.zero_grad()
        for scheduler in schedulers:
            scheduler.step()
    assert same(net, alone)
    assert len(optimizer.state) == 4


def test_what_its_parts_hold_already_goes_on() -> None:
    net, alone = model(), model()
    first, apart = parts(net), parts(alone)
    for optimizers, each in ((first, net), (apart, alone)):
        backward(each, 0)
        for optimizer in optimizers:
            optimizer.step()
    combined = CombinedOptimizer(*first)
    backward(net, 1)
    backward(alone, 1)
    combined.step()
    for part in apart:
        part.step()
    assert same(net, alone)


def test_a_copy_steps_too() -> None:
    net = model()
    optimizer = CombinedOptimizer(*parts(net))
    twin, its_own = copy.deepcopy((net, optimizer))
    for each, stepped in ((net, optimizer), (twin, its_own)):
        backward(each, 0)
        stepped.step()
    assert same(net, twin) and its_own.name == "CombinedOptimizer(Muon, AdamW)"


def test_a_closure_is_called_once() -> None:
    net, alone = model(), model()
    calls = []

    def closure() -> float:
        calls.append(backward(net, 0))
        return calls[-1]

    assert CombinedOptimizer(*parts(net)).step(closure) == calls[0]
    backward(alone, 0)
    for part in parts(alone):
        part.step()
    assert (len(calls), same(net, alone)) == (1, True)


def test_a_parameter_belongs_to_one_part() -> None:
    net = model()
    with pytest.raises(ValueError, match="more than one parameter group"):
        CombinedOptimizer(*parts(net), torch.optim.SGD(net[0].parameters(), lr=0.1))


def test_all_parts_step_without_a_closure() -> None:
    net = model()
    with pytest.raises(ValueError, match="LBFGS in a CombinedOptimizer"):
        CombinedOptimizer(torch.optim.LBFGS(net.parameters()))


def test_groups_are_given_to_the_parts() -> None:
    net = model()
    optimizer = CombinedOptimizer(*parts(net))
    with pytest.raises(ValueError, match="give it to one of the parts before"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
