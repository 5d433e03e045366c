"""Stream state beside the planes: buffers, scaler, the user's objects."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from wire.errors import UsageError
from worker.state import Extras, dump, parse


def test_a_tree_comes_back_as_it_was() -> None:
    tree = {
        "tensors": {
            "bf16": torch.ones(2, 3, dtype=torch.bfloat16),
            "scalar": torch.tensor(3),
            "none": torch.empty(0),
        },
        "list": [1, 2.5, "x", None, True, {"deep": torch.arange(4)[::2]}],
        7: {"__tensor__": "a user's own key", "pairs": [1]},
    }
    back = parse(dump(tree))
    assert torch.equal(back["tensors"]["bf16"], tree["tensors"]["bf16"])
    assert back["tensors"]["bf16"].dtype == torch.bfloat16
    assert back["tensors"]["scalar"].item() == 3
    assert back["tensors"]["none"].shape == (0,)
    assert back["list"][:5] == [1, 2.5, "x", None, True]
    assert back["list"][5]["deep"].tolist() == [0, 2]
    assert back[7] == {"__tensor__": "a user's own key", "pairs": [1]}


def test_what_is_neither_tensor_nor_json_is_refused_by_path() -> None:
    with pytest.raises(UsageError, match="state at /a/1 holds a set"):
        dump({"a": [0, {1, 2}]})


class Moving(nn.Module):
    """Buffers of three kinds: changed in place, assigned anew, not persistent."""

    in_place: torch.Tensor
    anew: torch.Tensor
    passing: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("in_place", torch.zeros(2))
        self.register_buffer("anew", torch.zeros(2))
        self.register_buffer("passing", torch.zeros(2), persistent=False)
        self.register_buffer("absent", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.in_place += 1
        self.anew = self.anew + 1
        self.passing += 1
        return self.norm(x)


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.count = state["count"]


def test_streams_are_swapped_whole() -> None:
    torch.manual_seed(0)
    model, counter = Moving(), Counter()
    extras = Extras(model, None, {"counter": counter})
    states = {0: extras.initial, 1: extras.initial}
    for stream, times in ((0, 3), (1, 1), (0, 1)):
        extras.load(stream, states[stream])
        for _ in range(times):
            model(torch.randn(4, 2))
            counter.count += stream == 0
        states[stream] = extras.save(stream)
    for stream, times in ((0, 4), (1, 1)):
        extras.load(stream, states[stream])
        assert model.in_place.tolist() == [times] * 2
        assert model.anew.tolist() == [times] * 2
        assert int(model.norm.num_batches_tracked or 0) == times
    assert model.passing.tolist() == [5, 5]
    extras.load(0, states[0])
    assert counter.count == 4
    assert "state" not in parse(states[1])


def test_a_buffer_that_grew_comes_back_in_its_size() -> None:
    model = Moving()
    extras = Extras(model, None, {})
    model.anew = torch.ones(5)
    grown = extras.save(0)
    extras.load(0, extras.initial)
    assert model.anew.tolist() == [0, 0]
    extras.load(0, grown)
    assert model.anew.tolist() == [1] * 5


def test_a_compiled_model_has_the_names_of_the_plain_one() -> None:
    plain = Moving()
    wrapped = nn.Module()
    wrapped._orig_mod = plain
    assert parse(Extras(wrapped, None, {}).initial).keys() == parse(Extras(plain, None, {}).initial).keys()
    assert parse(Extras(wrapped, None, {}).initial)["buffers"].keys() == {
        "in_place",
        "anew",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }


def test_nothing_to_swap_is_an_empty_blob() -> None:
    extras = Extras(nn.Linear(2, 2), None, {})
    assert extras.empty
    assert extras.save(0) == extras.initial == b""
    extras.load(0, b"")


def test_the_scaler_travels_with_its_stream() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    extras = Extras(nn.Linear(2, 2), scaler, {})
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0})
    lowered = extras.save(1)
    extras.load(1, extras.initial)
    assert scaler.get_scale() == 8.0
    extras.load(1, lowered)
    assert scaler.get_scale() == 2.0
