"""`sparsync bench modes` with real processes: its figures are those of the runs' own files, and it goes on."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TINY = "--model 1x32x2 --seq-len 16 --batch-size 2 --steps 12 --copies 3 --lrs 4e-3 --seeds 0"
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def bench(out: Path, environ: dict[str, str], *words: str) -> tuple[dict[str, Any], str]:
    """The JSON object, and the talk."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "sparsync",
        "bench",
        "modes",
        *TINY.split(),
        "--json",
        "--out",
        str(out),
        *words,
    ]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def check_against_files(case: dict[str, Any], directory: Path) -> None:
    """The figures of a case are those of its events and its summary."""
    events = [json.loads(line) for line in (directory / "run" / "events.jsonl").read_text().splitlines()]
    summary = json.loads((directory / "run" / "summary.json").read_text())
    steps = [event for event in events if event["event"] == "step"]
    (final,) = [e for e in events if e["event"] == "evaluated" and e["model"] == "published"]
    copies = [event for event in events if "copied_at" in event]
    assert case["steps"] == len(steps) == 12
    assert case["tokens"] == sum(event["tokens"] for event in steps) == summary["tokens"] == 12 * 4 * 2 * 16
    assert case["train_loss"] == steps[-1]["loss"]
    assert case["curve"][-1]["loss"] == case["val_loss"] == final["loss"] == summary["val_loss"]
    assert case["curve"][-1]["bytes_up"] == case["bytes_pushed"] == summary["bytes_pushed"] > 0
    assert case["curve"][-1]["bytes_down"] == case["bytes_pulled"] == summary["bytes_pulled"] > 0
    assert len(case["curve"]) == len(copies) + 1 == 4
    assert [point["tokens"] for point in case["curve"]] == [512 * n for n in range(3)] + [summary["tokens"]]
    between = [b["seconds"] - a["seconds"] for a, b in itertools.pairwise(case["curve"][:-1])]
    told = [b["copied_at"] - a["copied_at"] for a, b in itertools.pairwise(copies)]
    assert between == pytest.approx(told, abs=0.002)
    last = steps[-1]["s"] - steps[0]["s"]
    assert case["train"][-1][0] - case["train"][0][0] == pytest.approx(last, abs=0.002)
    for way, total in (("bytes_up", "bytes_pushed"), ("bytes_down", "bytes_pulled")):
        moved = [point[way] for point in case["curve"]]
        assert moved == sorted(moved) and moved[-1] == case[total]


def test_figures_agree_with_the_runs_and_what_is_there_is_not_measured_again(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    words = ("--modes", "sync", "--baselines", "ddp", "--stragglers", "none", "--links", "unlimited")
    result, talk = bench(tmp_path, environ, *words)
    assert [case["case"]["method"] for case in result["cases"]] == ["sync", "ddp"]
    assert "[2/2]" in talk
    for case in result["cases"]:
        check_against_files(case, tmp_path / "cases" / case["digest"])
    sync, ddp = result["cases"]
    assert sync["data_digest"] == ddp["data_digest"] and sync["params"] == ddp["params"]
    assert sync["curve"][0]["loss"] == pytest.approx(ddp["curve"][0]["loss"], abs=1e-6), (
        "they begin with one model"
    )
    assert json.loads((tmp_path / "modes.json").read_text()) == result
    assert (tmp_path / "modes.html").read_text().count("<svg") == 9

    # As an interrupt leaves it: the files of a run, and no result.
    (tmp_path / "cases" / ddp["digest"] / "result.json").unlink()
    again, talk = bench(tmp_path, environ, *words)
    assert "sync, 2 workers, lr 0.004, seed 0" in talk
    lines = [line for line in talk.splitlines() if line.startswith("[")]
    assert [line.endswith(", known") for line in lines] == [True, False]
    assert again["cases"][0] == sync
    assert again["cases"][1]["params_digest"] == ddp["params_digest"], "the same case computes the same"


@pytest.mark.slow
def test_one_process_is_bit_for_bit_what_dense_sync_computes(tmp_path: Path, environ: dict[str, str]) -> None:
    words = ("--modes", "sync", "--codecs", "dense", "--baselines", "one")
    result, _ = bench(tmp_path, environ, *words, "--stragglers", "none", "--links", "unlimited")
    assert len({case["params_digest"] for case in result["cases"]}) == 1


@pytest.mark.slow
def test_without_namespaces_a_cluster_is_shaped_in_user_space(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    words = ("--modes", "sync", "--codecs", "dense", "--baselines", "ddp", "--stragglers", "none")
    result, talk = bench(tmp_path, environ, *words, "--links", "unlimited,1mbit", "--no-namespaces")
    assert "baselines are NOT shaped" in talk
    shaped = {(c["case"]["method"], c["case"]["link"]): c for c in result["cases"]}
    assert shaped["ddp", "1mbit"]["case"]["shaped"] == "not shaped"
    slow = shaped["sync", "1mbit"]
    assert slow["case"]["shaped"] == "proxy"
    for way in ("bytes_up", "bytes_down"):  # two workers at 125 kB/s each, once it has begun
        first, last = slow["curve"][0], slow["curve"][-1]
        assert (last[way] - first[way]) / (last["seconds"] - first["seconds"]) < 1.3 * 2 * 125e3
    assert slow["seconds"] > 1.5 * shaped["sync", "unlimited"]["seconds"]


@pytest.mark.slow
@pytest.mark.root
def test_namespaces_shape_clusters_and_baselines_alike(tmp_path: Path, environ: dict[str, str]) -> None:
    words = ("--modes", "sync,async", "--codecs", "dense", "--baselines", "ddp,diloco+local_steps=4")
    result, _ = bench(tmp_path, environ, *words, "--stragglers", "none", "--links", "1mbit")
    for case in result["cases"]:
        assert case["case"]["shaped"] == "namespaces"
        first, last = case["curve"][0], case["curve"][-1]
        for way in ("bytes_up", "bytes_down"):
            assert (last[way] - first[way]) / (last["seconds"] - first["seconds"]) < 1.3 * 2 * 125e3


@pytest.mark.slow
def test_stragglers_are_slow_and_one_that_stops_comes_back(tmp_path: Path, environ: dict[str, str]) -> None:
    words = ("--modes", "sync", "--baselines", "ddp", "--stragglers", "none,slow:1/20,stop:0/3")
    result, _ = bench(tmp_path, environ, *words, "--links", "unlimited", "--unit-s", "0.02")
    took = {(c["case"]["method"], c["case"]["straggler"]): c for c in result["cases"]}
    for method in ("sync", "ddp"):
        slept = {name: shares["slept"] for name, shares in took[method, "slow:1/20"]["workers"].items()}
        assert slept["worker-1"] > slept["worker-0"]
        assert took[method, "slow:1/20"]["seconds"] > 12 * 2 * 0.4
        assert took[method, "stop:0/3"]["seconds"] > 2.5
        assert took[method, "stop:0/3"]["tokens"] == took[method, "none"]["tokens"]
