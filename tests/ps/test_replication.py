"""A primary, its standby and their coordinator: nothing is revealed that a standby which may be promoted does not hold.

Scenarios by hand, then random histories of tests/ps/replicated.py, in which everything may break at any moment.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ps.replication import Window
from tests.ps.replicated import World, world


def test_a_standby_follows_no_record_that_the_primary_may_lose() -> None:
    """What it took of an earlier life of the primary is not what the next life goes on from."""
    with world() as w:
        for act in (w.apply, w.dial, w.obey, w.call):
            w.run(act)
        w.settle()
        w.run(w.apply)  # on no disk yet
        w.run(w.take_all)
        w.run(lambda: w.kill_primary(0))
        for act in (w.start_primary, w.dial, w.obey, w.call):
            w.run(act)
        w.run(w.break_call)
        for _ in range(3):
            w.run(w.apply)
        w.settle()


@pytest.mark.parametrize("records", [1, 2])
def test_what_a_primary_applies_before_its_standby_calls_again_is_sent(records: int) -> None:
    """The last record before everybody waits for its acknowledgement may be the one that nobody asked for yet."""
    with world() as w:
        w.run(w.apply)
        w.settle()
        w.run(lambda: w.kill_primary(0))
        w.run(w.start_primary)
        for _ in range(records):
            w.run(w.apply)
        w.settle()


def test_a_standby_that_is_in_sync_anew_before_the_state_is_told_is_not_forgotten() -> None:
    """The state waits for a record; meanwhile the coordinator parts, and the standby is in sync again at once."""
    with world() as w:
        w.settle()
        for act in (w.apply, w.dial, w.obey, w.part, w.obey):
            w.run(act)
        w.settle()


def test_a_standby_that_parts_before_the_state_is_told_is_left() -> None:
    """In sync on the new line, which does not count yet; then gone, while the state waits for what it lacks."""
    with world() as w:
        w.run(w.apply)
        w.settle()
        for act in (w.part, w.break_call, w.dial, w.apply, w.obey, w.call, w.break_call):
            w.run(act)
        w.settle()


def two_lives_without_the_standby(w: World) -> None:
    """It holds a record that the power took from its primary, which went on with others in that place."""
    w.run(w.apply)
    w.settle()
    w.run(w.apply)
    w.run(lambda: w._primary().write(1))
    w.run(w.take_all)  # and the acknowledgement is lost with the primary: nobody has seen the record
    w.run(lambda: w.kill_primary(-1))
    for act in (w.start_primary, w.part, w.dial, w.obey):
        w.run(act)
    for _ in range(2):
        w.run(w.apply)
    w.run(lambda: w._primary().write(2))
    w.run(lambda: w.kill_primary(0))
    w.run(w.start_primary)
    w.settle()


def test_a_standby_of_another_history_below_the_lead_begins_anew() -> None:
    with world() as w:
        two_lives_without_the_standby(w)
        assert w.standby.log == w._primary().log


def test_planted_bug_a_position_is_taken_for_a_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Window, "holds", lambda window, position, checksum: True)
    with world() as w, pytest.raises(AssertionError, match="in sync with"):
        two_lives_without_the_standby(w)


class Histories(RuleBasedStateMachine):
    """Everything that may happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def teardown(self) -> None:
        try:
            self.world.settle()
        finally:
            self.world.close()

    @initialize(records=st.integers(0, 2))
    def begin(self, records: int) -> None:
        """In sync, as most of the time: what is wrong shows where that ends."""
        for _ in range(records):
            self.world.run(self.world.apply)
        self.world.settle()

    @rule(rounds=st.integers(1, 6))
    def go_on(self, rounds: int) -> None:
        """Everything goes its way for a while."""
        for _ in range(rounds):
            self.world.run(self.world.one_round)

    def up(self) -> bool:
        return self.world.primary is not None

    @precondition(up)
    @rule()
    def apply(self) -> None:
        self.world.run(self.world.apply)

    @precondition(up)
    @rule(records=st.integers(1, 3))
    def write(self, records: int) -> None:
        self.world.run(lambda: self.world.primary and self.world.primary.write(records))

    @precondition(lambda self: self.world.standby.call and self.world.standby.call.down)
    @rule()
    def take(self) -> None:
        assert self.world.standby.call
        self.world.run(self.world.standby.call.take)

    @precondition(lambda self: self.world.standby.call)
    @rule()
    def acknowledge(self) -> None:
        assert self.world.standby.call
        self.world.run(self.world.standby.call.acknowledge)

    @precondition(lambda self: self.world.standby.call and self.world.standby.call.up)
    @rule()
    def hear(self) -> None:
        assert self.world.standby.call
        self.world.run(self.world.standby.call.hear)

    @precondition(up)
    @rule()
    def call(self) -> None:
        self.world.run(self.world.call)

    @precondition(lambda self: self.world.standby.call)
    @rule()
    def break_call(self) -> None:
        self.world.run(self.world.break_call)

    @rule()
    def restart_standby(self) -> None:
        self.world.run(self.world.restart_standby)

    @rule()
    def replace_standby(self) -> None:
        self.world.run(self.world.replace_standby)

    @precondition(up)
    @rule()
    def dial(self) -> None:
        self.world.run(self.world.dial)

    @precondition(lambda self: self.world.line and self.world.line.commands and self.world.primary)
    @rule()
    def obey(self) -> None:
        self.world.run(self.world.obey)

    @precondition(lambda self: self.world.line and self.world.line.events)
    @rule()
    def listen(self) -> None:
        self.world.run(self.world.listen)

    @precondition(lambda self: self.world.in_sync)
    @rule()
    def part(self) -> None:
        self.world.run(self.world.part)

    @precondition(up)
    @rule(kept=st.integers(-2, 3))
    def kill_primary(self, kept: int) -> None:
        self.world.run(lambda: self.world.kill_primary(kept))

    @precondition(lambda self: not self.up())
    @rule(imaged=st.integers(0, 5))
    def start_primary(self, imaged: int) -> None:
        self.world.run(lambda: self.world.start_primary(min(imaged, len(self.world.disk))))

    @precondition(lambda self: self.world.in_sync)
    @rule()
    def promote(self) -> None:
        self.world.run(self.world.promote)

    @invariant()
    def whoever_may_be_promoted_has_it_all(self) -> None:
        self.world.check()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
