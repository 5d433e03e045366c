"""State of optimizers as bytes: what is loaded trains on bit for bit; what cannot be told without pickle is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn

from sparsync.optim import CombinedOptimizer
from wire.config import OptimizerConfig
from wire.errors import ModelMismatch, UsageError
from worker.inner import Inner, outer

Maker = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
MAKERS: dict[str, Maker] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    "averaged": lambda p: torch.optim.ASGD(p, lr=1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "combined": lambda p: combined(list(p)),
}


def combined(parameters: list[nn.Parameter]) -> CombinedOptimizer:
    matrices, vectors = ([p for p in parameters if p.dim() == dims] for dims in (2, 1))
    return CombinedOptimizer(torch.optim.Muon(matrices, lr=1e-2), torch.optim.AdamW(vectors, lr=1e-2))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        net(torch.randn(4, 5)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def bits(net: nn.Module) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in net.parameters())


@pytest.mark.parametrize("kind", MAKERS)
def test_another_worker_trains_on(kind: str) -> None:
    net = model()
    optimizer = MAKERS[kind](net.parameters())
    train(net, optimizer, range(6))
    blob = Inner(optimizer).save()
    other = model()
    other.load_state_dict(net.state_dict())
    heir = MAKERS[kind](other.parameters())
    inner = Inner(heir)
    inner.begin(inner.load(blob))
    assert inner.save() == blob
    train(net, optimizer, range(6, 10))
    train(other, heir, range(6, 10))
    assert bits(net) == bits(other)


def test_state_of_other_parts_is_refused() -> None:
    net = model()
    blob = Inner(combined(list(net.parameters()))).save()
    matrices, vectors = ([p for p in net.parameters() if p.dim() == dims] for dims in (2, 1))
    other = CombinedOptimizer(torch.optim.Muon(matrices), torch.optim.SGD(vectors))
    with pytest.raises(
        UsageError, match=r"that of CombinedOptimizer\(Muon, AdamW\), this script trains with"
    ):
        Inner(other).load(blob)


@pytest.mark.parametrize("kind", ["adamw", "momentum", "combined"])
def test_streams_take_turns(kind: str) -> None:
    """Two streams on one optimizer move as on two."""
    apart = [model() for _ in range(2)]
    for stream, net in enumerate(apart):
        train(net, MAKERS[kind](net.parameters()), range(10 * stream, 10 * stream + 6))
    shared = model()
    inner = Inner(MAKERS[kind](shared.parameters()))
    states: list[Any] = [inner.load(inner.origin) for _ in range(2)]
    weights = [[p.detach().clone() for p in shared.parameters()] for _ in range(2)]
    for turn in range(0, 6, 2):
        for stream in range(2):
            with torch.no_grad():
                for p, saved in zip(shared.parameters(), weights[stream], strict=True):
                    p.copy_(saved)
            inner.begin(states[stream])
            train(shared, inner._optimizer, range(10 * stream + turn, 10 * stream + turn + 2))
            states[stream] = inner.state
            weights[stream] = [p.detach().clone() for p in shared.parameters()]
    for stream, net in enumerate(apart):
        assert [w.tolist() for w in weights[stream]] == [p.tolist() for p in net.parameters()]


def test_a_bad_unit_is_undone() -> None:
    net = model()
    inner = Inner(torch.optim.AdamW(net.parameters(), lr=1e-2))
    train(net, inner._optimizer, range(2))
    before = inner.save()
    for _ in range(2):
        inner.begin(inner.state)
        train(net, inner._optimizer, range(2, 4))
        assert inner.save() != before
        inner.restore()
        assert inner.save() == before


def test_what_is_neither_tensor_nor_json_is_named() -> None:
    net = model()
    inner = Inner(torch.optim.SGD(net.parameters(), lr=0.1))
    inner.state[next(net.parameters())] = {"seen": {1, 2}}
    with pytest.raises(UsageError, match=r"seen holds a set"):
        inner.save()
    inner.state.clear()
    inner.state["global"] = {"step": 1}
    with pytest.raises(UsageError, match="SGD keeps state under str 'global'"):
        inner.save()


def test_another_optimizers_state_is_refused() -> None:
    net = model()
    blob = Inner(torch.optim.AdamW(net.parameters())).save()
    with pytest.raises(UsageError, match="that of AdamW, this script trains with SGD"):
        Inner(torch.optim.SGD(net.parameters(), lr=0.1)).load(blob)


def test_the_outer_optimizer_has_the_groups_of_the_inner_one() -> None:
    net = model()
    inner = torch.optim.Adagrad([{"params": [p]} for p in net.parameters()])
    spec = outer(inner, OptimizerConfig(outer_lr=0.7, outer_momentum=0.9, outer_nesterov=True))
    assert spec.kind == "sgd" and len(spec.groups) == 4
    assert spec.groups[0] == {
        "lr": 0.7,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "nesterov": 1.0,
        "maximize": 0.0,
    }
    with pytest.raises(ModelMismatch, match="LBFGS"):
        outer(torch.optim.LBFGS(net.parameters()), OptimizerConfig())
