"""The loss plot: well-formed SVG for any curves, and the right curves out of the events."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsync.drawing import HEIGHT, WIDTH, nice_ticks
from sparsync.plot import MAX_POINTS, Losses, loss_svg, read_losses, smooth, thin

SVG = "{http://www.w3.org/2000/svg}"


def step(number: int, loss: Any) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": loss, "tokens": 4096, "s": float(number)}


def evaluated(number: int, loss: Any, model: str = "published") -> dict[str, Any]:
    return {"event": "evaluated", "step": number, "model": model, "loss": loss}


def test_curves_from_events() -> None:
    events = [
        step(0, 5.5),
        {"event": "joined", "name": "worker-0"},
        step(1, 5.1),
        evaluated(2, 5.0),
        evaluated(2, 4.9, "x"),
    ]
    losses = read_losses(events)
    assert losses.train == {0: 5.5, 1: 5.1}
    assert losses.evaluated == {"published": {2: 5.0}, "x": {2: 4.9}}


@pytest.mark.parametrize("loss", [None, math.nan, math.inf, "3"])
def test_what_is_no_number_is_left_out(loss: Any) -> None:
    assert read_losses([step(0, loss), evaluated(0, loss)]) == Losses()


def test_a_resume_from_an_older_step_replaces_what_came_after_it() -> None:
    first = [step(i, 5.0 - i) for i in range(4)] + [evaluated(2, 3.0), evaluated(4, 1.0)]
    losses = read_losses([*first, step(2, 2.9), step(3, 1.9)])
    assert losses.train == {0: 5.0, 1: 4.0, 2: 2.9, 3: 1.9}
    assert losses.evaluated == {"published": {}}


def test_the_plot_has_a_line_a_smooth_line_and_a_dot_for_each_evaluation() -> None:
    losses = read_losses(
        [*(step(i, 5.5 - i / 30) for i in range(100)), evaluated(50, 4.0), evaluated(100, 2.5)]
    )
    root = ElementTree.fromstring(loss_svg(losses, title='a < b & "c"'))
    assert root.find(f"{SVG}text").text == 'a < b & "c"'  # type: ignore[union-attr]
    assert len(root.findall(f"{SVG}polyline")) == 3
    dots = root.findall(f"{SVG}circle")
    assert [d.find(f"{SVG}title").text for d in dots] == ["step 50: 4.0000", "step 100: 2.5000"]  # type: ignore[union-attr]
    assert float(dots[0].get("cy", "")) < float(dots[1].get("cy", "")), (
        "a smaller loss is lower in the picture"
    )


def test_a_run_without_steps_says_so() -> None:
    assert "no step is closed yet" in loss_svg(Losses(), title="run")


losses_of_any_size = st.dictionaries(st.integers(0, 10**7), st.floats(-1e6, 1e6), max_size=40)


@given(losses_of_any_size, losses_of_any_size)
def test_every_point_is_inside_the_picture(train: dict[int, float], val: dict[int, float]) -> None:
    root = ElementTree.fromstring(loss_svg(Losses(train, {"published": val}), title="run"))
    for line in root.findall(f"{SVG}polyline"):
        for place in line.get("points", "").split():
            x, y = map(float, place.split(","))
            assert -0.1 <= x <= WIDTH + 0.1 and -0.1 <= y <= HEIGHT + 0.1


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.integers(3, 10))
def test_ticks_are_few_and_enclose_the_values(a: float, b: float, count: int) -> None:
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high, count)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= count + 3
    assert list(ticks) == sorted(set(ticks))


def test_ticks_are_round() -> None:
    assert nice_ticks(2.1, 5.6, 6) == (2.0, 3.0, 4.0, 5.0, 6.0)
    assert nice_ticks(0, 399, 8) == (0, 50, 100, 150, 200, 250, 300, 350, 400)


def test_long_runs_are_thinned_to_means() -> None:
    points = [(float(i), float(i % 2)) for i in range(10 * MAX_POINTS)]
    thinned = thin(points)
    assert len(thinned) == MAX_POINTS
    assert {round(y, 6) for _, y in thinned} == {0.5}
    assert thin(points[:5]) == points[:5]


def test_smoothing_keeps_the_ends_and_the_length() -> None:
    points = [(float(i), math.sin(i)) for i in range(200)]
    smoothed = smooth(points)
    assert len(smoothed) == 200 and smoothed[0] == points[0] and smoothed[-1] == points[-1]
    assert max(abs(y) for _, y in smoothed[20:180]) < 0.5
