"""Who is obeyed (P10)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ps.terms import TermGuard
from wire.errors import StaleIncarnation
from wire.ids import Term

A, B = b"a" * 16, b"b" * 16


def test_the_highest_term_is_obeyed() -> None:
    guard = TermGuard(None)
    guard.obey(Term(1, A), 5)
    guard.obey(Term(2, B), 6)
    with pytest.raises(StaleIncarnation, match="term 1 is over"):
        guard.obey(Term(1, A), 9)


def test_two_holders_of_one_term_are_told_apart() -> None:
    guard = TermGuard(None)
    guard.obey(Term(3, A), 1)
    with pytest.raises(StaleIncarnation, match="two coordinators"):
        guard.obey(Term(3, B), 2)
    guard.obey(Term(3, A), 2)


def test_a_journal_that_is_behind_is_a_copy() -> None:
    guard = TermGuard(None)
    guard.obey(Term(3, A), 7)
    guard.obey(Term(3, A), 7)
    with pytest.raises(StaleIncarnation, match="a copy"):
        guard.obey(Term(3, A), 6)


def test_a_higher_term_from_a_journal_that_is_behind_is_a_copy() -> None:
    """A copied data directory takes the next term like a coordinator that came back; it knows less."""
    guard = TermGuard(None)
    guard.obey(Term(3, A), 7)
    guard.obey(Term(3, A))  # beside the line of commands: without a position
    with pytest.raises(StaleIncarnation, match="a copy"):
        guard.obey(Term(4, B), 6)
    guard.obey(Term(3, A), 8)
    guard.obey(Term(4, B), 9)


def test_the_term_outlives_the_process(tmp_path: Path) -> None:
    TermGuard(tmp_path / "term").obey(Term(4, A), 10)
    again = TermGuard(tmp_path / "term")
    with pytest.raises(StaleIncarnation):
        again.obey(Term(3, B), 99)
    with pytest.raises(StaleIncarnation):
        again.obey(Term(4, B), 99)
    again.obey(Term(4, A), 10)


def test_the_term_of_another_run_is_no_concern(tmp_path: Path) -> None:
    TermGuard(tmp_path / "term", scope="run a").obey(Term(4, A), 10)
    other = TermGuard(tmp_path / "term", scope="run b")
    other.obey(Term(1, B), 1)
    assert other.term == Term(1, B)
