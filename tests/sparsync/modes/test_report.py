"""The page, of results made by hand: everything is in it, and it needs nothing else."""

from __future__ import annotations

import re
from typing import Any

from sparsync.bench.modes import report
from sparsync.bench.modes.cases import best_lrs
from tests.sparsync.modes.test_comparing import example


def result(**other: Any) -> dict[str, Any]:
    runs = example()
    best = best_lrs((m.case, m.loss) for m in runs)
    told = {
        "benchmark": "modes",
        "about": {"at": "now", "machine": {"cpu": "one"}, "versions": {"torch": "2"}, "commit": "abc"},
        "options": {"seeds": [0]},
        "learning_rates": [
            {
                "method": m.case.label,
                "workers": 2,
                "lr": m.case.lr,
                "val_loss": m.loss,
                "best": True,
                "edge": "highest" if m.case.label == "ddp" else "",
                "error": "",
            }
            for m in runs
        ],
        "best": [{"key": list(key), "lr": lr} for key, lr in best.items()],
        "cases": [m.told() for m in runs],
    }
    return {**told, **other}


def test_the_page_needs_no_other_file() -> None:
    page = report.html(result())
    assert set(re.findall(r"https?://[^\"'\s<]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert re.findall(r"<(script|link|img|iframe)|(?:src|href)\s*=|url\(|@import", page) == []


def test_every_method_is_in_every_table_and_plot() -> None:
    page = report.html(result())
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 9  # three legends, three losses, rates, waiting, staleness
    losses = [plot for plot in plots if "Loss against" in plot]
    assert [plot.count("<polyline") for plot in losses] == [3, 3, 2]  # one process moves no bytes
    assert all("stroke-dasharray" in plot for plot in losses)
    for label in ("sync", "ddp", "one"):
        assert f"<td>{label}</td>" in page
        assert f">{label}</text>" in plots[0]


def test_one_seed_and_links_that_were_not_shaped_are_said() -> None:
    assert "One seed" in report.html(result())
    told = result()
    told["cases"][1]["case"]["shaped"] = "proxy"
    assert "BASELINES WERE NOT SHAPED" in report.html(told)


def test_a_best_rate_at_the_edge_of_the_grid_and_one_that_diverged_are_said() -> None:
    told = result()
    told["learning_rates"][1]["val_loss"] = None
    rows = {row[0]: row[3] for row in report.learning_rates(told).rows}
    assert rows["ddp, 2 workers"] == "best, at the UPPER EDGE of the grid"
    assert (rows["sync, 2 workers"], rows["one, 2 workers"]) == ("diverged", "best")


def test_results_of_more_than_one_commit_are_said() -> None:
    told = result()
    for case, commit in zip(told["cases"], ("abc", "abc", "def"), strict=True):
        case["about"] = {"commit": commit, "machine": {"cpu": "one", "cores": 2}}
    page = report.html(told)
    assert "more than one commit" in page and "<td>def</td>" in page
    told["cases"][2]["about"]["commit"] = "abc"
    assert "more than one commit" not in report.html(told)


def test_what_failed_is_listed_and_left_out() -> None:
    told = result()
    told["cases"][1] = {**told["cases"][1], "error": "a process ended with 1\nits log"}
    page = report.html(told)
    assert "<h2>Failed</h2>" in page and "a process ended with 1</td>" in page
    assert "<td>sync</td>" not in page


def test_a_label_at_the_edge_stays_within_the_picture() -> None:
    (group,) = report.groups_of(result())
    plot = report.loss_plot(group, "bytes", report.colours([group]))
    ends = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">([^<]*)</text>', plot)
    for x, anchor, text in ends:
        width = 6.6 * len(text)
        right = float(x) + {"middle": width / 2, "end": 0.0, "start": width}[anchor]
        assert right <= 760, text
