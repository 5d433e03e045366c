"""The mailbox between the network thread and the training thread."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from wire.errors import Unreachable
from wire.ids import UnitId
from worker.deltas import Delta
from worker.mailbox import AHEAD_BYTES, WAKE_S, End, Mailbox, Plan


def delta(shard: int, version: int) -> Delta:
    return Delta(shard, version, b"", step=version, closes=True)


def test_a_version_is_taken_when_every_shard_has_told_it() -> None:
    mailbox = Mailbox(2)
    mailbox.put_delta(delta(1, 0))
    mailbox.put_delta(delta(1, 1))
    assert not mailbox.take_deltas()
    mailbox.put_delta(delta(0, 0))
    assert [d.shard for d in mailbox.take_deltas()] == [0, 1]
    assert not mailbox.take_deltas()


def test_the_newest_plan_counts_and_the_first_end() -> None:
    mailbox = Mailbox(1)
    mailbox.put_plan(Plan((), 1))
    mailbox.put_plan(Plan((), 2))
    assert mailbox.take_plan() == Plan((), 2)
    assert mailbox.take_plan() is None
    mailbox.put_end(End("done", ""))
    mailbox.put_end(End("late", "ServerLost"))
    assert mailbox.end == End("done", "")


def test_waiting_ends_with_any_news() -> None:
    mailbox = Mailbox(1)
    telling = threading.Thread(target=mailbox.put_delta, args=(delta(0, 4),))
    telling.start()
    while not mailbox.take_deltas():
        mailbox.wait()
    telling.join()


def test_an_error_is_raised_where_somebody_waits_unless_the_run_is_over() -> None:
    mailbox = Mailbox(1)
    mailbox.put_error(Unreachable("server 0"))
    mailbox.put_error(Unreachable("server 1"))
    with pytest.raises(Unreachable, match="server 0"):
        mailbox.wait()
    mailbox.put_end(End("all steps are done", ""))
    mailbox.wait()


def test_answers_make_room_and_wake_who_waits() -> None:
    mailbox = Mailbox(2)
    first, second = UnitId(1, 0, 0), UnitId(1, 0, 1)
    for unit in (first, first, second):
        mailbox.expect_answer(unit)
    assert mailbox.units_under_way == 2
    mailbox.put_answer(first, accepted=True)
    assert mailbox.units_under_way == 2, "the other shard has not answered"
    answering = threading.Thread(target=mailbox.put_answer, args=(first,), kwargs={"accepted": False})
    answering.start()
    while mailbox.units_under_way == 2:
        mailbox.wait()
    answering.join()
    assert (mailbox.units_under_way, mailbox.accepted) == (1, 1)


def test_what_an_older_following_still_brings_is_dropped() -> None:
    mailbox = Mailbox(1)
    older = mailbox.begin_deltas([0])
    newer = mailbox.begin_deltas([0])
    mailbox.put_delta(delta(0, 3), older)
    assert not mailbox.take_deltas()
    mailbox.put_delta(delta(0, 5), newer)
    assert [d.version for d in mailbox.take_deltas()] == [5]


def test_deltas_that_may_not_be_entered_yet_are_no_news() -> None:
    mailbox = Mailbox(1)
    mailbox.put_delta(delta(0, 0))
    began = time.monotonic()
    mailbox.wait(deltas=False)
    assert time.monotonic() - began >= WAKE_S / 2
    assert len(mailbox.take_deltas()) == 1


def test_a_shard_is_crowded_by_its_own_deltas_until_they_are_taken_or_forgotten() -> None:
    mailbox, told = Mailbox(2), []
    mailbox.on_taken = lambda: told.append([mailbox.crowded(shard) for shard in range(2)])
    half = replace(delta(0, 0), frame=(bytes(AHEAD_BYTES // 4), bytes(AHEAD_BYTES // 4)))
    mailbox.put_delta(half)
    assert not mailbox.crowded(0)
    mailbox.put_delta(replace(half, version=1, step=1))
    assert mailbox.crowded(0) and not mailbox.crowded(1)
    assert not mailbox.take_deltas() and not told, "the other shard's is not here: nothing was taken"
    mailbox.put_delta(delta(1, 0))
    assert len(mailbox.take_deltas()) == 2
    mailbox.put_delta(replace(half, version=2, step=2))
    assert mailbox.crowded(0)
    mailbox.begin_deltas([7, 7])
    assert told == [[False, False], [False, False]]
