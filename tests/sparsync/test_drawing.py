"""Plots are well-formed SVG, and bars lie where their values are."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from sparsync.drawing import BAR_LEFT, WIDTH, Bar, Frame, Part, axes, bars, document, single, stacked

SVG = "{http://www.w3.org/2000/svg}"


def rectangles(svg: str) -> list[tuple[float, float, str]]:
    """(x, width, title) of each bar's parts."""
    root = ElementTree.fromstring(svg)
    return [
        (float(r.get("x", "")), float(r.get("width", "")), title.text or "")
        for r in root.iter(f"{SVG}rect")
        if (title := r.find(f"{SVG}title")) is not None
    ]


def test_bars_begin_at_zero_and_are_as_long_as_their_values() -> None:
    first, second = rectangles(bars("speed", [single("a < b", 2.0), single("c", 1.0)], unit="GB/s"))
    assert first[0] == second[0] == BAR_LEFT
    assert abs(first[1] - 2 * second[1]) < 0.2
    assert first[2] == "a < b: 2"


def test_parts_of_a_stack_follow_one_another_in_a_colour_each() -> None:
    svg = bars("cpu", [stacked("run", [("ps", 1.0), ("worker", 3.0)], "4.0")], unit="s")
    (x1, w1, _), (x2, w2, _) = rectangles(svg)
    assert abs(x1 + w1 - x2) < 0.2 and abs(w2 - 3 * w1) < 0.5
    texts = [t.text for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert {"cpu", "run", "ps", "worker", "4.0", "s"} <= set(texts)


def test_spans_may_begin_anywhere_and_overlap() -> None:
    rows = [Bar("push", (Part("push", 0.0, 0.6),)), Bar("pull", (Part("pull", 0.5, 1.0),))]
    push, pull = rectangles(bars("a step", rows, unit="seconds"))
    assert push[0] < pull[0] < push[0] + push[1] < pull[0] + pull[1]


@given(st.lists(st.floats(0, 1e9), max_size=20))
def test_every_bar_is_inside_the_picture(values: list[float]) -> None:
    svg = bars("any", [single(str(v), v, f"{v:.3f}") for v in values], unit="s")
    assert all(x >= BAR_LEFT and x + width <= WIDTH for x, width, _ in rectangles(svg))


def test_ticks_may_tell_another_scale() -> None:
    frame = Frame.around([(0.0, 0.0), (4.0, 1.0)])
    svg = document("t", axes(frame, x="bits", y="error", x_text=lambda tick: f"{2**tick:g}"))
    texts = [t.text for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert "16" in texts and "bits" in texts and "error" in texts
