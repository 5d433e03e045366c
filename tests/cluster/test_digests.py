"""A synchronous run is a function of configuration, data and seed: not of how many machines computed it (P3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.conftest import Starter, slow

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
Undisturbed = Callable[[str], dict[str, Any]]
DIGESTS = ("params_digest", "published_digest", "data_digest")
COUNTS = ("steps", "units_settled", "units_empty", "samples", "tokens", "params")


def equal_runs(a: dict[str, Any], b: dict[str, Any]) -> None:
    for key in (*DIGESTS, *COUNTS, "train_loss", "val_loss", "val_loss_server"):
        assert a[key] == b[key], key
    assert a["params_digest"] and a["published_digest"]


@pytest.mark.parametrize(
    ("codec", "servers", "workers"),
    [("auto", 4, 1), slow("auto", 1, 3), slow("topk", 4, 1), slow("topk", 1, 3), ("dense", 1, 1)],
)
def test_machines_change_nothing(
    train: Starter, undisturbed: Undisturbed, codec: str, servers: int, workers: int
) -> None:
    flags = ["--servers", str(servers), "--workers", str(workers)]
    summary = train({"push.codec": codec, "pull.codec": codec}, flags=flags).finish()
    equal_runs(undisturbed(codec), summary)
    assert (summary["servers"], summary["workers"], summary["pure"]) == (servers, workers, True)


def test_what_the_run_counts(undisturbed: Undisturbed) -> None:
    summary = undisturbed("auto")
    assert summary["steps"] == 20
    assert (summary["units_settled"], summary["units_empty"]) == (80, 0)
    assert (summary["samples"], summary["tokens"]) == (160, 160 * 64)
    assert summary["params_digest"] != summary["published_digest"], "the published model lags behind x"
    assert summary["val_loss"] < 5.3


def test_dense_publishes_what_the_servers_hold(undisturbed: Undisturbed) -> None:
    summary = undisturbed("dense")
    assert summary["params_digest"] == summary["published_digest"]
    assert summary["params_digest"] != undisturbed("auto")["params_digest"]


@pytest.mark.slow
def test_another_seed_is_another_run(train: Starter, undisturbed: Undisturbed) -> None:
    summary = train({"run.seed": 1, "cluster.servers": 1, "cluster.workers": 1}).finish()
    assert summary["params_digest"] != undisturbed("auto")["params_digest"]
    assert summary["data_digest"] == undisturbed("auto")["data_digest"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("codec", ["auto", "dense"])
def test_the_default_model_for_60_steps(train: Starter, codec: str) -> None:
    codecs = {"push.codec": codec, "pull.codec": codec}
    defaults = {"run.steps": 60, "run.eval_every": 0, "model.layers": 4, "model.width": 256}
    changes = {**codecs, **defaults, "data.seq_len": 128, "data.batch_size": 8}
    runs = [
        train(changes, flags=["--mode", "sync", *flags]).finish(300)
        for flags in ([], [], ["--servers", "1"], ["--servers", "4"], ["--workers", "1"], ["--workers", "3"])
    ]
    for other in runs[1:]:
        equal_runs(runs[0], other)
