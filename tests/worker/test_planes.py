"""Planes on the host and on a device: where they are, and what is done with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wire.codec.base import Blocks
from wire.layout import BLOCK
from worker.planes import HOST, Plane, add, copy_of, norm, place_of_planes, plane_of, set_to, zeros_like

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
AT_PLACES = pytest.mark.parametrize(
    "place",
    [
        pytest.param(HOST, id="host"),
        pytest.param(CPU, id="cpu"),
        pytest.param(torch.device("cuda:0"), id="cuda", marks=[pytest.mark.gpu, NO_CUDA]),
    ],
)
SHARDS = [
    Blocks(np.array([0, 2]), np.array([BLOCK, 3], np.int32), np.array([0, 2])),
    Blocks(np.array([1]), np.array([10], np.int32), np.array([1])),
]


def seen(plane: Plane) -> np.ndarray:
    return plane if isinstance(plane, np.ndarray) else plane.cpu().numpy()


def ones(place: torch.device | None) -> Plane:
    return plane_of(torch.ones(3 * BLOCK, device=place or "cpu"), place)


@pytest.mark.parametrize(
    ("choice", "device", "place"),
    [
        ("auto", CPU, HOST),
        ("auto", GPU, GPU),
        ("auto", torch.device("mps"), HOST),
        ("host", GPU, HOST),
        ("device", CPU, CPU),
        ("device", GPU, GPU),
    ],
)
def test_where_planes_are(choice: str, device: torch.device, place: torch.device | None) -> None:
    assert place_of_planes(choice, device) == place


@AT_PLACES
def test_a_plane_is_the_memory_that_it_was_made_of(place: torch.device | None) -> None:
    flat = torch.zeros(2 * BLOCK, device=place or "cpu")
    plane = plane_of(flat, place)
    plane[1, 2] = 5.0
    assert plane.shape == (2, BLOCK) and flat[BLOCK + 2] == 5
    assert isinstance(plane, np.ndarray) == (place is HOST)


@AT_PLACES
def test_new_planes_are_memory_of_their_own(place: torch.device | None) -> None:
    plane = ones(place)
    zeros, copy = zeros_like(plane), copy_of(plane)
    assert type(zeros) is type(copy) is type(plane)
    add(plane, zeros)
    add(plane, zeros)
    assert (seen(zeros) == 2).all() and (seen(copy) == 1).all() and (seen(plane) == 1).all()
    set_to(zeros, copy)
    assert (seen(copy) == 2).all()


@AT_PLACES
def test_only_real_elements_of_some_blocks_are_set_and_measured(place: torch.device | None) -> None:
    plane = zeros_like(ones(place))
    set_to(ones(place), plane, SHARDS[0])
    found = seen(plane)
    assert (
        (found[0] == 1).all() and not found[1].any() and (found[2, :3] == 1).all() and not found[2, 3:].any()
    )
    assert norm(plane, SHARDS) == pytest.approx(math.sqrt(BLOCK + 3))
    assert norm(ones(place), SHARDS[1:]) == pytest.approx(math.sqrt(10))
