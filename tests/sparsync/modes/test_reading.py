"""Files of a case, made by hand, and the result that is in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sparsync.bench.modes.reading import closes, moved, offset_s, rate, result, shares, thinned, whole

CLOCK = 1000.0
"""The monotonic clock at `s` = 0."""


def step(s: float, number: int, tokens: int = 100) -> dict[str, Any]:
    return {"s": s, "event": "step", "step": number, "loss": 5.0 - number, "tokens": tokens}


def copied(at: float, number: int, *, delay: float = 0.0) -> dict[str, Any]:
    """Made at `at` seconds of the event log, told `delay` later."""
    return {"s": at + delay, "event": "scalars", "step": 7, "copy": float(number), "copied_at": CLOCK + at}


def look(at: float, units: int, up: int = 0, **spent: float) -> dict[str, Any]:
    kinds = dict.fromkeys(("computed_s", "slept_s", "sent_s", "waited_s", "kept_s"), 0.0)
    return {
        "at": CLOCK + at,
        "units": units,
        "tokens": 60 * units,
        "tokens_pushed": 50 * units,
        "up": up,
        "down": 2 * up,
        "state": 10 * units,
        "control": units,
        **kinds,
        **spent,
    }


SUMMARY = {
    "tokens": 300,
    "bytes_pushed": 900,
    "bytes_pulled": 1800,
    "bytes_state": 77,
    "val_loss": 2.5,
    "staleness": {"0": 6},
}


def example(*, arrives: bool = False, units: int = 2, **other: Any) -> dict[str, Any]:
    """Work begins at 2 s; steps close at 3, 4 and 6 s."""
    return result(
        events=[
            {"s": 0.0, "event": "began"},
            copied(2.0, 0, delay=0.004),
            step(3.0, 0),
            copied(3.01, 1, delay=0.1),
            step(4.0, 1),
            step(6.0, 2),
            {"s": 6.5, "event": "evaluated", "step": 3, "model": "published", "loss": 2.5},
        ],
        summary=SUMMARY | other,
        workers={
            "worker-0": [look(2.0, 0), look(4.0, units, 200), look(6.0, units + 1, 450)],
            "worker-1": [look(2.1, 0), look(6.0, 3, 450, computed_s=3.0, waited_s=1.0)],
        },
        losses={0: 6.0, 1: 4.0},
        arrives=arrives,
    )


def test_points_lie_where_the_copies_were_made_and_the_last_at_the_end() -> None:
    curve = example()["curve"]
    assert [point["seconds"] for point in curve] == pytest.approx([0.0, 1.01, 4.0], abs=0.005)
    assert [(point["tokens"], point["loss"]) for point in curve] == [(0, 6.0), (100, 4.0), (300, 2.5)]
    assert (curve[-1]["bytes_up"], curve[-1]["bytes_down"]) == (900, 1800)
    assert (curve[-1]["bytes_state"], curve[-1]["bytes_control"]) == (77, 6)
    assert (curve[1]["bytes_state"], curve[1]["bytes_control"]) == (17, 2)


def test_where_units_settle_on_arrival_what_was_sent_counts() -> None:
    assert [point["tokens"] for point in example(units=8)["curve"]] == [0, 100, 300]
    sent = 50 * (8 * 1.01 / 2.0 + 3 * 0.91 / 3.9)  # between two looks of either worker
    found = [point["tokens"] for point in example(arrives=True, units=8)["curve"]]
    assert found == [0, pytest.approx(sent, abs=1), 300]
    assert example(arrives=True)["curve"][1]["tokens"] == 100, "never less than what was closed"


def test_a_loss_that_is_no_number_is_none() -> None:
    told = example(val_loss=float("nan"))
    assert told["val_loss"] is None and told["curve"][-1]["loss"] is None
    assert closes([step(1.0, 0) | {"loss": float("inf")}], 0.0) == [(1.0, 100, None)]
    json.dumps(told, allow_nan=False)


def test_bytes_at_a_copy_lie_between_two_looks() -> None:
    lines = [[look(0.0, 0), look(2.0, 2, 200)], [look(1.0, 0, 100)]]
    assert moved(lines, CLOCK + 1.5, "up") == 150 + 100
    assert moved(lines, CLOCK + 1.5, "down") == 300 + 200
    assert moved(lines, CLOCK - 1.0, "up") == 0


def test_events_are_put_on_the_clock_by_the_copy_that_was_told_soonest() -> None:
    assert offset_s([copied(1.0, 0, delay=0.3), copied(2.0, 1, delay=0.002)]) == pytest.approx(CLOCK - 0.002)
    with pytest.raises(ValueError, match="no copy"):
        offset_s([step(1.0, 0)])


def test_rates_and_shares_leave_out_the_first_tenth() -> None:
    slow_first = [(10.0, 100, 5.0), (11.0, 550, 4.0), (12.0, 1000, 3.0)]
    assert rate(slow_first) == pytest.approx(900 / 2.0)
    assert rate(slow_first[:1]) is None
    spent = [look(0.0, 0), look(1.0, 2, waited_s=9.0), look(2.0, 20, waited_s=10.0, computed_s=3.0)]
    found = shares([spent])
    assert found is not None
    assert (found["waited"], found["computed"]) == (0.25, 0.75)


def test_a_worker_that_was_started_again_goes_on_where_it_was() -> None:
    found = whole([look(0.0, 0), look(1.0, 5, 100), look(2.0, 0), look(3.0, 2, 40)])
    assert [line["units"] for line in found] == [0, 5, 5, 7]
    assert found[-1]["up"] == 140 and found[-1]["at"] == CLOCK + 3.0


def test_the_training_loss_is_thinned_from_the_end() -> None:
    many = [(float(i), i, 1.0) for i in range(1001)]
    found = thinned(many)
    assert len(found) <= 200 and found[-1] == many[-1]
    assert thinned(many[:7]) == many[:7]


def test_steps_are_counted_from_the_first_unit() -> None:
    assert closes([step(3.0, 0), step(4.5, 1, 7)], 2.0) == [(1.0, 100, 5.0), (2.5, 107, 4.0)]
