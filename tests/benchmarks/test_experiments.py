"""Experiments: their grids are grids, and their verdicts follow from rows made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.experiments import EXPERIMENTS, Finding, page
from sparsync.bench.modes.presets import QUICK
from sparsync.cli.bench_modes import grid_of
from sparsync.cli.bench_modes import modes as command


def row(
    label: str,
    loss: float,
    rate: float = 100.0,
    bytes_up: float = 10.0,
    stale: float = 0.0,
    sooner: float = 1.0,
) -> dict[str, Any]:
    def spread(mean: float) -> dict[str, float]:
        return {"mean": mean, "sd": 0.01}

    return {
        "label": label,
        "lr": 1e-3,
        "seeds": 3,
        "loss": spread(loss),
        "against": None,
        "tokens_per_s": spread(rate),
        "waiting": spread(0.1),
        "bytes_up": spread(bytes_up),
        "bytes_down": spread(bytes_up),
        "bytes_state": spread(0.0),
        "bytes_control": spread(0.0),
        "sooner": spread(sooner),
        "sooner_slack": spread(sooner),
        "fewer_bytes": 1.0,
        "staleness": spread(stale),
    }


def result(*rows: dict[str, Any], cases: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "groups": [{"workers": 4, "link": "unlimited", "straggler": "none", "rows": list(rows)}],
        "cases": cases or [],
    }


def kept(number: int, found: dict[str, Any]) -> list[bool | None]:
    return [finding.kept for finding in EXPERIMENTS[number].verdict(found)]


@pytest.mark.parametrize("number", EXPERIMENTS)
def test_a_grid_is_one(number: int) -> None:
    words = EXPERIMENTS[number].words.split()
    context = command.make_context("modes", words)
    asked = {key: value for key, value in context.params.items() if key not in ("source", "overrides")}
    grid_of(asked, QUICK, source="stdlib", overrides=()).check()


def test_one_model_of_each_seed() -> None:
    def case(seed: int, digest: str) -> dict[str, Any]:
        return {"case": {"seed": seed, "lr": 1e-3}, "params_digest": digest, "error": ""}

    assert kept(1, result(cases=[case(0, "a"), case(0, "a"), case(1, "b")])) == [True]
    assert kept(1, result(cases=[case(0, "a"), case(0, "c")])) == [False]


def test_what_a_worker_receives() -> None:
    def workers(count: int, down: float) -> dict[str, Any]:
        return {**result(row("sync", 2.0, bytes_up=down))["groups"][0], "workers": count}

    flat, grows = ([workers(w, down * w) for w in (2, 4, 8)] for down in (10.0, 10.2))
    grows[2] = workers(8, 100.0)
    assert kept(10, {"groups": flat, "cases": []}) == [True]
    assert kept(10, {"groups": grows, "cases": []}) == [False]
    assert kept(10, {"groups": flat[:2], "cases": []}) == [None]


def test_async_must_be_as_good_and_faster() -> None:
    assert kept(12, result(row("sync", 2.0), row("async", 2.01, sooner=1.7))) == [True] * 3
    assert kept(12, result(row("sync", 2.0), row("async", 2.1, 900.0, sooner=1.2))) == [False] * 3
    late = row("async", 2.01, sooner=1.7) | {"sooner": None}
    assert kept(12, result(row("sync", 2.0), late)) == [True, True, None]


def test_what_diverged_says_nothing() -> None:
    diverged = {**row("async", 2.0), "loss": None}
    (first, *_) = EXPERIMENTS[12].verdict(result(row("sync", 2.0), diverged))
    assert first == Finding(first.claim, None, 0.01, None)


def test_the_page_says_verdicts_and_rows() -> None:
    found = result(row("sync", 2.0), row("async", 2.1, 170.0, sooner=1.7))
    findings = EXPERIMENTS[12].verdict(found)
    about = {"machine": {"cpu": "one", "cores": 2}, "commit": "abc"}
    failed = [{"case": {"method": "sync", "seed": 1}, "error": "a process ended with 1\nits log"}]
    text = page(
        {**found, "failed": failed, "experiment": 12, "claim": "c", "command": "sparsync", "about": about},
        findings,
    )
    assert "MISSED" in text and "kept" in text and "| async | 0.001 | 3 | 2.1000 |" in text
    assert "| sync | 1 | a process ended with 1 |" in text


@pytest.mark.parametrize("number", EXPERIMENTS)
def test_where_all_failed_nothing_is_said(number: int) -> None:
    failed = [{"case": {"method": "sync", "seed": 0, "lr": 1e-3}, "error": "a process ended with 1"}]
    assert {*kept(number, result(cases=failed))} == {None}
    assert {*kept(number, {"groups": [], "cases": failed})} <= {None}
