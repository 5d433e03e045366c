"""What stands in the audit log, and that it does not grow without end."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from wire.clock import ManualClock
from wire.rpc.audit import MOST_REASONS, REPEAT_S, Audit


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def refusal(reason: str = "no") -> dict[str, object]:
    who = {"who": "w", "role": "worker", "serial": "1f"}
    return {**who, "method": "/s/M", "result": "refused", "reason": reason}


def test_a_line_a_call_for_the_owner_alone(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl", ManualClock())
    audit.write({"who": "ann", "result": "ok"})
    audit.refuse(refusal())
    first, second = lines(tmp_path / "audit.jsonl")
    assert first["who"] == "ann" and str(first["t"]).endswith("Z")
    assert second == {"t": second["t"], **refusal()}
    assert os.stat(tmp_path / "audit.jsonl").st_mode & 0o777 == 0o600
    audit.close()


def test_it_goes_on_behind_what_is_there(tmp_path: Path) -> None:
    for who in ("ann", "bob"):
        audit = Audit(tmp_path / "audit.jsonl", ManualClock())
        audit.write({"who": who})
        audit.close()
    assert [line["who"] for line in lines(tmp_path / "audit.jsonl")] == ["ann", "bob"]


def test_the_same_refusal_is_counted_not_written_again(tmp_path: Path) -> None:
    clock = ManualClock()
    audit = Audit(tmp_path / "audit.jsonl", clock)
    for _ in range(1000):
        audit.refuse(refusal())
    audit.refuse(refusal("for another reason"))
    clock.advance(REPEAT_S)
    audit.refuse(refusal())
    audit.close()
    found = lines(tmp_path / "audit.jsonl")
    assert [(line["reason"], line.get("repeated")) for line in found] == [
        ("no", None),
        ("for another reason", None),
        ("no", 999),
    ]


def test_reasons_are_not_remembered_without_end(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl", ManualClock())
    for number in range(3 * MOST_REASONS):
        audit.refuse(refusal(str(number)))
    assert len(audit._told) <= MOST_REASONS
    audit.close()


def test_two_files_of_bounded_size_are_all_there_ever_is(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl", ManualClock(), most_bytes=1000)
    for number in range(100):
        audit.write({"number": number})
    audit.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.jsonl", "audit.jsonl.1"]
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 1100
    assert lines(tmp_path / "audit.jsonl")[-1]["number"] == 99


def test_what_cannot_be_written_stands_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = Audit(tmp_path / "gone" / "audit.jsonl", ManualClock())
    with caplog.at_level(logging.ERROR):
        audit.write({"who": "ann"})
    assert '"who": "ann"' in caplog.text
    (tmp_path / "gone").mkdir()
    audit.write({"who": "bob"})
    audit.close()
    assert [line["who"] for line in lines(tmp_path / "gone" / "audit.jsonl")] == ["bob"]
