"""Random numbers keyed by what is computed."""

from __future__ import annotations

import random

import numpy as np
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
