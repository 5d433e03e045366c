"""What stands in the audit log, and that it does not grow without end."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from wire.clock import ManualClock
from wire.rpc.audit import MOST_CALLERS, MOST_REASON, MOST_REFUSALS, OPERATORS_FILE, REPEAT_S, Audit


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def refusal(reason: str = "no", serial: str = "1f") -> dict[str, object]:
    who = {"who": "w", "role": "worker", "serial": serial}
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


def test_one_certificate_gets_so_many_lines_whatever_its_reasons(tmp_path: Path) -> None:
    clock = ManualClock()
    audit = Audit(tmp_path / "audit.jsonl", clock)
    for number in range(1000):
        audit.refuse(refusal(str(number)))
    audit.refuse(refusal("of another", serial="2f"))
    clock.advance(REPEAT_S)
    audit.refuse(refusal("later"))
    audit.close()
    found = lines(tmp_path / "audit.jsonl")
    assert [line["reason"] for line in found] == [*map(str, range(MOST_REFUSALS)), "of another", "later"]
    assert [line["repeated"] for line in found if "repeated" in line] == [1000 - MOST_REFUSALS]


def test_callers_are_not_remembered_without_end(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl", ManualClock())
    for number in range(3 * MOST_CALLERS):
        audit.refuse(refusal(serial=str(number)))
    assert len(audit._refused) <= MOST_CALLERS
    audit.close()


def test_a_reason_is_one_line_and_not_of_any_length(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = Audit(tmp_path / "audit.jsonl", ManualClock())
    with caplog.at_level(logging.WARNING):
        audit.refuse(refusal("no\n2026-11-22T12:00:00Z INFO forged\x1b[2J"))
        audit.refuse(refusal("x" * 100_000))
    audit.close()
    forged, long = lines(tmp_path / "audit.jsonl")
    assert str(forged["reason"]).isprintable() and len(str(long["reason"])) == MOST_REASON
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_what_operators_did_is_pushed_out_by_nobody_else(tmp_path: Path) -> None:
    clock = ManualClock()
    audit = Audit(tmp_path / "audit.jsonl", clock, most_bytes=1000)
    audit.write({"who": "ann", "method": "Stop"}, operators=True)
    for number in range(100):
        audit.write({"who": "eve", "number": number})
        audit.refuse(refusal(str(number)))
        clock.advance(REPEAT_S)
    audit.close()
    assert "ann" not in (tmp_path / "audit.jsonl").read_text() + (tmp_path / "audit.jsonl.1").read_text()
    assert [line["who"] for line in lines(tmp_path / OPERATORS_FILE)] == ["ann"]
    assert os.stat(tmp_path / OPERATORS_FILE).st_mode & 0o777 == 0o600


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
