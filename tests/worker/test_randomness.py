"""Random numbers keyed by what is computed."""

from __future__ import annotations

import random
import traceback

import numpy as np
import pytest
import torch

from worker.randomness import seed_all, untouched


def drawn() -> tuple[float, float, float]:
    return torch.rand(1).item(), float(np.random.rand()), random.random()


def test_a_key_gives_its_numbers_whatever_came_before() -> None:
    seed_all("unit", 1, 2, 3)
    first = drawn()
    drawn()
    seed_all("unit", 1, 2, 3)
    assert drawn() == first
    for other in (("unit", 1, 3, 2), ("sample", 1, 2, 3), ("unit", 12, 3)):
        seed_all(*other)
        assert not set(drawn()) & set(first)


def test_untouched_leaves_the_state_even_after_an_error() -> None:
    seed_all("run", 0)
    expected = drawn()
    seed_all("run", 0)
    try:
        with untouched():
            drawn()
            raise KeyError
    except KeyError:
        pass
    assert drawn() == expected


@pytest.mark.skipif(torch.accelerator.is_available(), reason="seeds go to the accelerator at once")
def test_no_stack_is_told_to_an_accelerator_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*args: object) -> None:
        raise AssertionError("the stack was put into words")

    monkeypatch.setattr(traceback, "format_stack", told)
    seed_all("unit", 1)


def test_the_numbers_are_those_of_torch_itself() -> None:
    seed_all("unit", 7)
    state = torch.get_rng_state()
    torch.manual_seed(torch.initial_seed())
    assert torch.equal(torch.get_rng_state(), state)
