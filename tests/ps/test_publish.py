"""The delta log: versions, steps, and what it forgets."""

from __future__ import annotations

import pytest

from ps import publish
from ps.publish import Delta, DeltaLog


def delta(version: int, *, step: int = 0, closes: bool = False, frame: bytes = b"") -> Delta:
    return Delta(version, step, (), frame, False, False, closes=closes, clock=step + closes)


def log_of(closing: dict[int, int], versions: int) -> DeltaLog:
    """`closing`: version -> the step that it closes."""
    log = DeltaLog(0)
    for version in range(versions):
        log.append(delta(version, step=closing.get(version, 0), closes=version in closing))
    return log


def test_steps_are_forgotten_by_the_version_at_which_they_begin() -> None:
    log = log_of({2: 0, 5: 3, 6: 4}, 8)
    log.trim_steps(0)
    assert log.base == 0
    log.trim_steps(1)
    assert log.base == 3, "step 1 begins behind the delta that closes step 0"
    log.trim_steps(3)
    assert log.base == 3
    log.trim_steps(4)
    assert log.base == 6
    log.trim_steps(99)
    assert log.base == 7
    with pytest.raises(KeyError, match="delta 6 is no longer retained, the oldest is 7"):
        log.get(6)


def test_the_newest_closing_delta_answers_a_repeat_even_when_it_is_forgotten() -> None:
    log = log_of({2: 0, 5: 3}, 8)
    first, last = log.closing(0), log.closing(3)
    log.trim(8)
    assert first is not None and log.closing(0) is None
    assert last is not None and log.closing(3) is last


def test_elastic_logs_are_bounded_by_count_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    log = DeltaLog(0)
    for version in range(publish.RETAINED + 5):
        log.append(delta(version))
        log.bound(0)
    assert log.base == 5
    monkeypatch.setattr(publish, "RETAINED_BYTES", 100)
    log = DeltaLog(0)
    for version in range(40):
        log.append(delta(version, frame=bytes(10)))
        log.bound(0)
    assert (log.base, log.version) == (30, 40)
    for version in range(40, 60):
        log.append(delta(version, frame=bytes(1000)))
        log.bound(0)
    assert log.version - log.base == publish.RETAINED_ALWAYS, "never fewer than a few"
