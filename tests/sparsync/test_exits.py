"""Exits in words, and in the order in which they are told."""

from __future__ import annotations

from sparsync.exits import CRASHED, FINAL, ORDERLY, Role, describe_exit, exit_order

ROLES: dict[str, Role] = {
    "coordinator": "coordinator",
    "ps-0": "ps",
    "worker-0": "worker",
    "worker-1": "worker",
}


def test_exits_seen_together_are_told_cause_first() -> None:
    codes = {"worker-0": 69, "ps-0": 81, "coordinator": 79, "worker-1": 79}
    order = sorted(codes, key=lambda name: exit_order(ROLES[name], codes[name]))
    assert order == ["worker-1", "coordinator", "ps-0", "worker-0"]


def test_exits_in_words() -> None:
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(-11) == "was killed by SIGSEGV"
    assert describe_exit(-1000) == "was killed by signal 1000"


def test_no_exit_is_read_in_two_ways() -> None:
    assert not FINAL & ORDERLY and not CRASHED & (FINAL | ORDERLY)
