"""Whoever continues a run has its configuration, but for how the process itself is watched."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.office import take_office
from wire.config import Config, load
from wire.errors import ConfigError


def configured(*settings: str) -> Config:
    return load(None, settings, {}).config


def test_a_run_may_be_continued_with_another_log_other_metrics_and_other_certificates(tmp_path: Path) -> None:
    first = take_office(configured("run.steps=5"), tmp_path, None)
    first.journal.close()
    other = configured(
        "run.steps=5",
        "telemetry.log_format=json",
        "telemetry.metrics=127.0.0.1:0",
        "security.insecure=true",
    )
    second = take_office(other, tmp_path, None)
    assert (first.again, second.again) == (False, True)
    assert (second.config.telemetry, second.config.security) == (other.telemetry, other.security)
    second.journal.close()


def test_any_other_key_has_to_be_the_runs(tmp_path: Path) -> None:
    take_office(configured("run.steps=5"), tmp_path, None).journal.close()
    with pytest.raises(ConfigError, match=r"run\.steps = 6 \(the run's: 5\)"):
        take_office(configured("run.steps=6", "telemetry.log_format=json"), tmp_path, None)
