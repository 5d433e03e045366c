"""What is declared follows Prometheus' rules; the page and the files in deploy/ name nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparsync.cli.reference import metrics_page
from wire.metrics import METRICS, SECONDS, Distribution, Metric

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"\bsparsync_[a-z0-9_]+")
UNITS = re.compile(r"_(ms|milliseconds|minutes|hours|kb|mb|kib|mib|kilobytes|percent|bits)(_|$)")
SUFFIXES = ("", "_bucket", "_sum", "_count")


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_names_follow_the_rules(metric: Metric) -> None:
    assert re.fullmatch(r"sparsync_[a-z][a-z0-9_]*", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert not UNITS.search(metric.name), "base units: seconds, bytes, ratios"
    assert not metric.name.endswith(SUFFIXES[1:]), "what a histogram adds"
    assert metric.help and not metric.help.endswith(".")
    assert not {"le", "quantile", "job", "instance", "run"} & set(metric.labels), "taken by whoever scrapes"


def test_no_name_is_that_of_another_one_without_its_suffix() -> None:
    plain = [metric.name.removesuffix("_total") for metric in METRICS.values()]
    assert len(plain) == len(set(plain))


def test_the_page_is_fresh() -> None:
    assert metrics_page() == (ROOT / "docs/metrics.md").read_text(), "run `make docs` and commit the result"
    assert [name for name in METRICS if f"`{name}`" not in metrics_page()] == []


def declared(name: str) -> bool:
    return any(name.removesuffix(suffix) in METRICS for suffix in SUFFIXES)


@pytest.mark.parametrize("path", ["deploy/grafana/sparsync.json", "deploy/prometheus/alerts.yml"])
def test_what_is_deployed_names_what_is_declared(path: str) -> None:
    named = set(NAME.findall((ROOT / path).read_text()))
    assert len(named) > 5
    assert [name for name in sorted(named) if not declared(name)] == []


def test_a_distribution_counts_up_to_each_bound() -> None:
    found = Distribution((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        found.observe(value)
    assert (found.counts, found.sum) == ([2, 1, 1], 12.0)
    assert list(SECONDS) == sorted(SECONDS)


def test_a_distribution_of_what_was_counted() -> None:
    found = Distribution.of({0: 5, 1: 2, 7: 1}, (0.0, 2.0))
    assert (found.counts, found.sum) == ([5, 2, 1], 9.0)


def test_labels_are_given_as_they_are_declared() -> None:
    metric = METRICS["sparsync_run_members"]
    assert metric(3, "worker", "alive").labels == ("worker", "alive")
    with pytest.raises(AssertionError):
        metric(3, "worker")
