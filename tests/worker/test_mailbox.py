"""The mailbox between the network thread and the training thread."""

from __future__ import annotations

import threading

import pytest

from wire.errors import Unreachable
from worker.deltas import Delta
from worker.mailbox import End, Mailbox, Plan


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
