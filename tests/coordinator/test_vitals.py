"""What the service manager hears of a coordinator."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.vitals import percentile, short, status_line

RUNNING: dict[str, Any] = {
    "run": "abc",
    "state": "running",
    "step": 12040,
    "workers": [{"state": s} for s in ("computing", "suspect", "waiting", "dead")],
    "tokens_per_s": 18_234.5,
    "staleness": {"0": 50, "1": 48, "3": 2},
    "reason": "",
}


def test_a_run_in_one_line() -> None:
    assert status_line(RUNNING, 4) == "run abc step 12040 3/4 workers 18.2k tok/s staleness p99 3"


def test_a_run_that_waits_says_for_what() -> None:
    waiting = RUNNING | {
        "state": "waiting",
        "workers": [],
        "tokens_per_s": None,
        "staleness": {},
        "reason": "1 of 2 servers have joined, 0 of 2 workers are ready",
    }
    assert status_line(waiting, 2) == (
        "run abc waiting 0/2 workers (1 of 2 servers have joined, 0 of 2 workers are ready)"
    )


@pytest.mark.parametrize(("share", "stale"), [(0.5, 0), (0.51, 1), (0.98, 1), (0.99, 3), (1.0, 3)])
def test_percentiles_of_a_histogram(share: float, stale: int) -> None:
    assert percentile({"0": 50, "1": 48, "3": 2}, share) == stale


def test_no_units_are_not_stale() -> None:
    assert percentile({}, 0.99) == 0


@pytest.mark.parametrize(
    ("number", "text"), [(12.3, "12"), (999, "999"), (5400, "5.4k"), (2e6, "2.0M"), (3.1e9, "3.1G")]
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text
