"""The words at the end of a run, and commands that can be copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsync.quantities import (
    show_bytes,
    show_count,
    show_histogram,
    show_number,
    show_ratio,
    show_seconds,
)
from sparsync.report_lines import (
    continue_command,
    real_machine_lines,
    resume_command,
    sample_lines,
    steering_lines,
    summary_lines,
)

SUMMARY = {
    "run": "r1",
    "mode": "sync",
    "pure": True,
    "workers": 2,
    "servers": 2,
    "steps": 400,
    "units_settled": 1600,
    "units_empty": 0,
    "samples": 12800,
    "tokens": 1_638_400,
    "wall_s": 118.2,
    "tokens_per_s": 13861.0,
    "train_loss": 2.41,
    "val_loss": 2.38,
    "val_loss_server": 2.37,
    "params": 3_222_784,
    "params_digest": "a" * 64,
    "published_digest": "b" * 64,
    "data_digest": "c" * 64,
    "bytes_pushed": 450_000_000,
    "bytes_pulled": 390_000_000,
    "bytes_state": 12_000_000,
    "bytes_dense": 20_600_000_000,
    "restarts": 1,
    "recoveries": 1,
}


def test_the_summary_tells_losses_speed_bytes_and_digests() -> None:
    text = "\n".join(summary_lines(SUMMARY))
    for part in (
        "mode sync, pure",
        "1600 units settled; 12.8k samples, 1.6M tokens",
        "validation 2.3800 on the published model, 2.3700 on the servers' x",
        "13.9k tokens/s over 1:58",
        "450 MB sent, 390 MB received: 24.5x fewer than dense (20.6 GB)",
        "3.2M parameters",
        "x aaaaaaaaaaaaaaaa  published bbbbbbbbbbbbbbbb",
        "1 restarts, 1 recoveries",
    ):
        assert part in text
    assert "a" * 17 not in text


def test_a_summary_may_lack_anything() -> None:
    assert len(summary_lines({})) == len(summary_lines(dict.fromkeys(SUMMARY))) == len(summary_lines(SUMMARY))


def test_empty_units_and_impure_runs_are_told() -> None:
    text = "\n".join(summary_lines({**SUMMARY, "units_empty": 3, "pure": False}))
    assert "3 of them empty" in text and "not pure" in text


def test_an_elastic_pace_is_told_where_there_was_one() -> None:
    quiet = {"staleness": {"0": 1600, "1": 0}, "mass_returned": 0.0, "mass_lost": 0.0, "units_owed": 0}
    assert summary_lines({**SUMMARY, **quiet}) == summary_lines(SUMMARY)
    loud = {"staleness": {"0": 60, "0.5": 20, "2": 20}, "mass_returned": 12.25, "mass_lost": 0.5}
    assert summary_lines({**SUMMARY, **loud})[-3:] == [
        "pace     staleness █·▂ 0 to 2, mean 0.50",
        "         12.2 units' worth given back",
        "         residuals of norm 0.5 lost with the dead",
    ]


def test_the_commands_that_steer_name_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert steering_lines(tmp_path / "a b") == [
        "sparsync top 'a b'",
        "sparsync set 'a b' sync.mode=async",
        "sparsync drain worker-0 'a b'",
        "sparsync stop 'a b'",
    ]


def test_a_sample_is_cut_and_cannot_steer_the_terminal() -> None:
    lines = sample_lines("def f():\n\treturn \x1b[31m1\n" * 20)
    assert lines[:2] == ["  | def f():", "  | \treturn ·[31m1"]
    assert lines[-1] == "  … 16 more lines"


def test_commands_name_the_run_as_a_shell_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resume_command(tmp_path / "runs" / "a b") == "sparsync train --resume 'runs/a b'"
    assert resume_command(Path("/data/run")) == "sparsync train --resume /data/run"
    run = tmp_path / "r"
    assert continue_command(run, length=("run.steps", 60)) == "sparsync train --resume r -s run.steps=120"


def test_the_same_roles_on_real_machines() -> None:
    text = "\n".join(
        real_machine_lines(
            config=Path("/r/config.toml"), servers=2, workers=3, command=["my.py", "--lr", "3"]
        )
    )
    assert (
        "sparsync coordinator --config /r/config.toml --listen 0.0.0.0:7700 --advertise host-a:7700" in text
    )
    assert text.count("--tls-ca tls/ca.pem --tls-cert tls/cert.pem") == 3
    assert text.endswith("--tls-key tls/key.pem my.py --lr 3")


def test_quantities() -> None:
    assert [show_count(v) for v in (None, 0, 950, 999.7, 18234, 3_222_784)] == [
        "–",
        "0",
        "950",
        "1.0k",
        "18.2k",
        "3.2M",
    ]
    assert [show_bytes(v) for v in (950, 24_100_000, 20.6e9, 999_999)] == [
        "950 B",
        "24.1 MB",
        "20.6 GB",
        "1.0 MB",
    ]
    assert [show_seconds(v) for v in (0.214, 48.4, 125, 3723, float("inf"))] == [
        "0.21 s",
        "48 s",
        "2:05",
        "1:02:03",
        "–",
    ]
    assert [show_ratio(1, 0), show_ratio(None, 5), show_ratio(100, 8)] == ["–", "–", "12.5x"]
    assert [show_number(v) for v in (None, 0, 0.254, 1_200_000.0)] == ["–", "0", "0.254", "1.2e+06"]


def test_a_histogram_is_a_bar_for_each_whole_number() -> None:
    assert show_histogram({}) == show_histogram({"0": 0}) == "–"
    assert show_histogram({"0": 7}) == "█ 0 to 0, mean 0.00"
    assert show_histogram({"0": 100, "3": 1, "1": 50}) == "█▄·▁ 0 to 3, mean 0.35"
    assert show_histogram({"0": 1, "900": 1}) == "█·······█ 0 to 900, mean 450.00", (
        "the last bar is of all beyond"
    )
