"""Parameters as planes, and the inner optimizer as a specification."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wire.errors import ModelMismatch
from wire.layout import BLOCK, FROZEN
from worker.parameters import Parameters, learning_rates, specify
from worker.planes import HOST, Plane

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
AT_PLACES = pytest.mark.parametrize(
    "place",
    [
        pytest.param(HOST, id="host"),
        pytest.param(torch.device("cpu"), id="cpu"),
        pytest.param(torch.device("cuda:0"), id="cuda", marks=[pytest.mark.gpu, NO_CUDA]),
    ],
)


class Mixed(nn.Module):
    """Tied, frozen, of two dtypes, one without gradient, one sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4, sparse=True)
        self.tied = nn.Linear(4, 3, bias=False)
        self.tied.weight = self.embedding.weight
        self.brief = nn.Parameter(torch.full((5,), 1.0, dtype=torch.bfloat16))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(BLOCK + 1))


def mixed(place: torch.device | None = HOST) -> tuple[Mixed, torch.optim.Optimizer, Parameters]:
    torch.manual_seed(0)
    model = Mixed().to(place or "cpu")
    inner = torch.optim.SGD(
        [{"params": [model.brief, model.frozen]}, {"params": [model.embedding.weight, model.unused]}], lr=0.5
    )
    return model, inner, Parameters(model, inner, place=place)


def seen(plane: Plane) -> np.ndarray:
    return plane if isinstance(plane, np.ndarray) else plane.cpu().numpy()


def test_the_layout_names_each_parameter_once_with_its_group() -> None:
    _, _, parameters = mixed()
    assert [(p.name, p.dtype, p.group) for p in parameters.layout.parameters] == [
        ("brief", "bfloat16", 0),
        ("frozen", "float32", FROZEN),
        ("unused", "float32", 1),
        ("embedding.weight", "float32", 1),
    ]
    assert parameters.layout.blocks == 5


@AT_PLACES
def test_moving_the_plane_moves_the_model(place: torch.device | None) -> None:
    model, _, parameters = mixed(place)
    before = model.embedding.weight.detach().clone()
    assert model.embedding.weight.data_ptr() % 64 == 0
    parameters.published += 1.0
    parameters.refresh()
    assert torch.equal(model.embedding.weight, before + 1)
    assert model.tied.weight is model.embedding.weight
    assert model.brief.tolist() == [2.0] * 5
    assert model.brief.dtype == torch.bfloat16
    assert model.frozen.tolist() == [2.0, 2.0]


@AT_PLACES
def test_a_difference_is_from_where_the_unit_began(place: torch.device | None) -> None:
    """Ahead of x̂, rounded as the parameter is; from x̂ itself once that was shown."""
    model, _, parameters = mixed(place)
    parameters.published += 1.0
    parameters.refresh()
    for offset in (0.3, 0.0):  # 0.3 beside 2 is no bfloat16
        if offset:
            parameters.gradient[:] = offset
            parameters.look_ahead()
        else:
            parameters.gradient[:] = 9.0  # of another unit
            parameters.show()
        before = model.embedding.weight.detach().clone()
        with torch.no_grad():
            model.embedding.weight -= 0.5
            model.brief += 1.0
        parameters.moved()
        norm_sq = parameters.collect_difference()
        told = dict(zip(parameters.layout.parameters, parameters.layout.first_block, strict=False))
        starts = {described.name: first * BLOCK for described, first in told.items()}
        found = seen(parameters.gradient).reshape(-1)
        moved = (before - model.embedding.weight.detach()).cpu()
        weight = found[starts["embedding.weight"] :][: moved.numel()]
        assert np.array_equal(weight, moved.reshape(-1).numpy()), offset
        assert found[starts["brief"] :][:5].tolist() == [-1.0] * 5, offset
        assert norm_sq == pytest.approx(float((moved**2).sum()) + 5.0)


@AT_PLACES
def test_looking_ahead_leaves_the_plane_and_what_is_frozen_alone(place: torch.device | None) -> None:
    model, _, parameters = mixed(place)
    parameters.published += 1.0
    parameters.refresh()
    plane, weight = seen(parameters.published).copy(), model.embedding.weight.detach().clone()
    for offset in (1.5, -0.5):  # again for the next stream
        parameters.gradient[:] = offset
        parameters.look_ahead()
        assert torch.equal(model.embedding.weight, weight + offset)
        assert model.brief.tolist() == [2.0 + offset] * 5 and model.frozen.tolist() == [2.0, 2.0]
        assert (seen(parameters.published) == plane).all()
    published = parameters.named_copies()
    assert torch.equal(published["embedding.weight"], weight.cpu()) and set(published) == set(
        dict(model.named_parameters())
    )
    assert published["brief"].tolist() == [2.0] * 5 and published["brief"].dtype == torch.bfloat16
    published["embedding.weight"].zero_()
    assert (seen(parameters.published) == plane).all()
    parameters.show()
    assert torch.equal(model.embedding.weight, weight) and model.brief.tolist() == [2.0] * 5
    parameters.published += 1.0
    parameters.refresh()
    assert torch.equal(model.embedding.weight, weight + 1)


@AT_PLACES
def test_gradients_are_collected_whatever_their_form(place: torch.device | None) -> None:
    model, _, parameters = mixed(place)
    parameters.gradient += 9.0  # of the unit before
    model.embedding(torch.tensor([1, 1, 2], device=place)).sum().backward()
    model.brief.grad = torch.full_like(model.brief, 3.0)
    norm_sq = parameters.collect()
    embedding = parameters.gradient[4, :12].reshape(3, 4)
    assert embedding.tolist() == [[0] * 4, [2] * 4, [1] * 4]
    assert parameters.gradient[0, :5].tolist() == [3.0] * 5
    assert not parameters.gradient[2, :].any()
    assert not parameters.gradient[3, :1].any()
    assert norm_sq == pytest.approx(4 * 4 + 4 * 1 + 5 * 9)


@AT_PLACES
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_shows_in_the_norm_and_is_named(
    bad: float, place: torch.device | None
) -> None:
    model, _, parameters = mixed(place)
    model.brief.grad = torch.ones_like(model.brief)
    model.unused.grad = torch.full_like(model.unused, bad)
    assert not torch.isfinite(torch.tensor(parameters.collect()))
    assert parameters.first_bad_gradient() == "unused"


def test_a_parameter_that_is_not_the_models_is_refused() -> None:
    model = nn.Linear(2, 2)
    inner = torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(ModelMismatch, match="steps 1 parameters that are not the model's"):
        Parameters(model, inner)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (nn.Parameter(torch.ones(2, dtype=torch.float64)), "is float64"),
        (nn.Parameter(torch.empty(0)), "is empty"),
        (nn.UninitializedParameter(), "has no shape yet"),
    ],
)
def test_what_cannot_be_cut_into_blocks_is_refused_by_name(parameter: nn.Parameter, message: str) -> None:
    model = nn.Linear(2, 2)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    model.odd = parameter
    with pytest.raises(ModelMismatch, match=f"'odd' {message}"):
        Parameters(model, inner)


def test_a_specification_has_every_group() -> None:
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    inner = torch.optim.AdamW(
        [{"params": [first], "lr": 0.1}, {"params": [second], "weight_decay": 0.0}], lr=0.2
    )
    spec = specify(inner)
    assert spec.kind == "adamw"
    assert [(g["lr"], g["weight_decay"], g["beta2"]) for g in spec.groups] == [
        (0.1, 0.01, 0.999),
        (0.2, 0.0, 0.999),
    ]
    assert learning_rates(inner) == (0.1, 0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.Adam(p), "cannot run Adam:"),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), "amsgrad"),
        (lambda p: torch.optim.SGD(p, momentum=0.9, dampening=0.1), "dampening"),
    ],
)
def test_what_the_servers_do_not_run_is_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelMismatch, match=message):
        specify(make([nn.Parameter(torch.ones(1))]))
