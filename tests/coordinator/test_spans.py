"""Spans against plain lists of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from coordinator.spans import Span, first_deal

SPANS = st.builds(
    lambda start, length, stride: Span(start, start + length, stride),
    st.integers(0, 40),
    st.integers(-5, 60),
    st.integers(1, 9),
)


def sequence(span: Span, count: int) -> list[int]:
    """The first units of the span's sequence, whether they are below its stop or not."""
    return [span.start + i * span.stride for i in range(count)]


@given(SPANS)
def test_a_span_is_its_list(span: Span) -> None:
    units = [n for n in sequence(span, 100) if n < span.stop]
    assert list(span) == units
    assert (span.count, bool(span)) == (len(units), bool(units))
    assert span.last == (units[-1] if units else span.start - span.stride)


@given(SPANS, st.integers(0, 120))
def test_the_first_unit_from_a_number_on(span: Span, number: int) -> None:
    assert span.first_from(number) == next(n for n in sequence(span, 200) if n >= number)


@given(SPANS, st.integers(0, 120))
def test_a_cut_parts_a_span(span: Span, number: int) -> None:
    below, rest = span.cut(number)
    assert list(below) == [n for n in span if n < number]
    assert list(rest) == [n for n in span if n >= number]
    assert below.start == span.start and {below.stride, rest.stride} == {span.stride}


@given(SPANS, st.sets(st.integers(0, 100)), st.integers(0, 120))
def test_what_is_left_without_the_done(span: Span, done: set[int], until: int) -> None:
    left = span.without(lambda unit: unit in done, until=until)
    assert [n for run in left for n in run] == [n for n in span if n >= until or n not in done]
    assert all(left) and {run.stride for run in left} <= {span.stride}
    parts = [list(run) for run in left]
    for before, after in pairwise(parts):
        gap = range(before[-1] + span.stride, after[0], span.stride)
        assert any(n in done for n in gap) or after[0] >= until, "runs are as long as they can be"


@given(st.integers(0, 30), st.integers(-3, 60), st.integers(1, 70))
def test_the_first_deal_is_every_unit_once(start: int, length: int, slots: int) -> None:
    spans = first_deal(start, start + length, slots)
    assert sorted(n for span in spans for n in span) == list(range(start, start + length))
    assert len(spans) == min(slots, max(length, 0))
