"""The carrier: load, replay, compute, deposit, release, wait, in the order that keeps everybody going."""

from __future__ import annotations

from worker.streams import WAIT, Assignment, Carrier, Kind, Task


def given(
    stream: int,
    *,
    attempt: int = 0,
    step: int = 0,
    deposit: int = 0,
    has_deposit: bool = False,
    send_to: tuple[int, ...] = (),
    release: bool = False,
) -> Assignment:
    return Assignment(stream, attempt, step, deposit, has_deposit, send_to, release)


def advance(carrier: Carrier, *, limit: int = 50) -> list[str]:
    """Do all that can be done now; each task as `kind stream step`."""
    done = []
    for _ in range(limit):
        task = carrier.next()
        if task is WAIT:
            return done
        carrier.done(task)
        done.append(f"{task.kind.name.lower()} {task.stream} {task.step}")
    raise AssertionError(f"no end: {done}")


def reach(
    carrier: Carrier, version: int, *, deposit: bool = False, final: bool = False, drain: bool = False
) -> None:
    carrier.reached(version, deposit=deposit, final=final, drain=drain)


def test_without_a_plan_it_waits() -> None:
    carrier = Carrier()
    assert carrier.next() is WAIT
    assert carrier.streams == ()


def test_streams_are_computed_one_after_the_other_on_each_version() -> None:
    carrier = Carrier()
    carrier.take([given(0), given(2)])
    assert carrier.streams == (0, 2)
    assert advance(carrier) == ["load 0 0", "load 2 0", "compute 0 0", "compute 2 0"]
    reach(carrier, 1)
    assert advance(carrier) == ["compute 0 1", "compute 2 1"]
    assert advance(carrier) == []


def test_a_taken_over_stream_is_replayed_from_its_deposit_before_others_go_on() -> None:
    carrier = Carrier()
    carrier.take([given(0)])
    advance(carrier)
    for version in (1, 2, 3):
        reach(carrier, version)
        advance(carrier)
    reach(carrier, 4)
    carrier.take([given(0), given(1, attempt=2, step=4, deposit=2, has_deposit=True, send_to=(1,))])
    task = carrier.next()
    assert task == Task(Kind.LOAD, 1, 2, 2, has_deposit=True)
    assert advance(carrier) == ["load 1 2", "replay 1 2", "replay 1 3", "compute 0 4", "compute 1 4"]


def test_only_the_first_unit_goes_to_the_shards_that_lack_it() -> None:
    carrier = Carrier()
    carrier.take([given(1, attempt=1, send_to=(0, 2))])
    carrier.done(carrier.next())
    first = carrier.next()
    assert (first.kind, first.send_to) == (Kind.COMPUTE, (0, 2))
    carrier.done(first)
    reach(carrier, 1)
    assert carrier.next() == Task(Kind.COMPUTE, 1, 1, 1)


def test_a_unit_that_stands_everywhere_is_replayed_and_the_next_one_computed() -> None:
    """The plan begins after the open step: what was pushed of it is computed for the state alone."""
    carrier = Carrier()
    carrier.take([given(0, attempt=1, step=1)])
    assert advance(carrier) == ["load 0 0", "replay 0 0"]
    reach(carrier, 1)
    assert advance(carrier) == ["compute 0 1"]


def test_deposits_at_marked_versions_before_the_unit() -> None:
    carrier = Carrier()
    carrier.take([given(0), given(1)])
    advance(carrier)
    reach(carrier, 1, deposit=True)
    assert advance(carrier) == ["deposit 0 1", "compute 0 1", "deposit 1 1", "compute 1 1"]


def test_replays_deposit_where_the_dead_holder_would_have() -> None:
    carrier = Carrier()
    for version in (1, 2, 3):
        reach(carrier, version, deposit=version == 2)
    carrier.take([given(0, attempt=1, step=3)])
    assert advance(carrier) == [
        "load 0 0",
        "replay 0 0",
        "replay 0 1",
        "deposit 0 2",
        "replay 0 2",
        "compute 0 3",
    ]


def test_a_deposit_that_was_just_loaded_is_not_made_again() -> None:
    carrier = Carrier()
    reach(carrier, 2, deposit=True)
    carrier.take([given(0, attempt=1, step=2, deposit=2, has_deposit=True)])
    assert advance(carrier) == ["load 0 2", "compute 0 2"]


def test_a_release_waits_for_the_boundary_and_is_the_deposit_that_is_due() -> None:
    carrier = Carrier()
    carrier.take([given(0), given(1)])
    advance(carrier)
    carrier.take([given(0), given(1, release=True)])
    assert advance(carrier) == []
    reach(carrier, 1, deposit=True)
    assert advance(carrier) == ["deposit 0 1", "compute 0 1", "release 1 1"]
    assert carrier.streams == (0,)


def test_a_release_waits_for_the_end_of_the_replay() -> None:
    carrier = Carrier()
    reach(carrier, 2)
    carrier.take([given(0, attempt=3, step=2, release=True)])
    assert advance(carrier) == ["load 0 0", "replay 0 0", "replay 0 1", "release 0 2"]


def test_an_old_plan_does_not_bring_back_what_was_released() -> None:
    carrier = Carrier()
    carrier.take([given(0, release=True)])
    assert advance(carrier) == ["load 0 0", "release 0 0"]
    carrier.take([given(0, release=True)])
    assert carrier.streams == ()
    carrier.take([given(0, attempt=2, has_deposit=True)])
    assert advance(carrier) == ["load 0 0", "compute 0 0"]


def test_after_the_final_version_only_deposits_are_left() -> None:
    carrier = Carrier()
    carrier.take([given(0)])
    advance(carrier)
    reach(carrier, 1, deposit=True, final=True)
    assert advance(carrier) == ["deposit 0 1"]


def test_a_plan_in_the_middle_of_a_unit() -> None:
    """The outcome of a task of an older attempt, or of a dropped stream, changes nothing."""
    carrier = Carrier()
    carrier.take([given(0), given(1)])
    carrier.done(carrier.next())
    carrier.done(carrier.next())
    at_hand = carrier.next()
    carrier.take([given(0, attempt=1), given(1)])
    carrier.done(at_hand)
    assert advance(carrier) == ["load 0 0", "compute 0 0", "compute 1 0"]
    carrier.take([given(1)])
    carrier.done(at_hand)
    assert carrier.streams == (1,)


def test_a_plan_that_repeats_an_attempt_keeps_how_far_it_has_come() -> None:
    carrier = Carrier()
    carrier.take([given(0)])
    advance(carrier)
    carrier.take([given(0), given(1)])
    assert advance(carrier) == ["load 1 0", "compute 1 0"]


def test_versions_never_go_back() -> None:
    carrier = Carrier()
    reach(carrier, 5, final=True)
    reach(carrier, 3)
    assert (carrier.version, carrier.final) == (5, True)


def test_behind_a_pause_streams_are_saved_and_nothing_is_begun() -> None:
    carrier = Carrier()
    carrier.take([given(0), given(1)])
    advance(carrier)
    carrier.reached(1, deposit=True, final=False, pause=True)
    assert advance(carrier) == ["deposit 0 1", "deposit 1 1"]
    assert not carrier.final


def test_what_was_released_is_not_taken_up_again_by_a_coordinator_that_has_forgotten_it_asked() -> None:
    carrier = Carrier()
    carrier.take([given(0), given(1)])
    advance(carrier)
    carrier.take([given(0), given(1, release=True)])
    reach(carrier, 1)
    assert "release 1 1" in advance(carrier)
    carrier.take([given(0), given(1)])
    assert carrier.streams == (0,)
    carrier.take([given(0), given(1, attempt=1, step=1, deposit=1, has_deposit=True)])
    assert advance(carrier) == ["load 1 1", "compute 1 1"]


def test_a_plan_that_knows_less_than_was_done_has_nothing_done_again() -> None:
    carrier = Carrier()
    carrier.take([given(0, attempt=2, step=3, deposit=0, has_deposit=True, send_to=(1,))])
    for version in range(5):
        reach(carrier, version)
    done = advance(carrier)
    assert done[-1] == "compute 0 4"
    carrier.take([given(0, attempt=2, step=3, deposit=0, has_deposit=True, send_to=(1,))])
    assert advance(carrier) == []
    reach(carrier, 5)
    assert carrier.next() == Task(Kind.COMPUTE, 0, 5, 2), "to all shards"


# --- where units lag --------------------------------------------------------------------------


def lagging(*streams: Assignment, begins: int = 0, drained: tuple[int, ...] = ()) -> Carrier:
    carrier = Carrier(begins=begins, lag=1)
    reach(carrier, begins)
    carrier.take(streams, drained)
    return carrier


def test_a_unit_is_begun_while_the_step_before_it_is_open() -> None:
    carrier = lagging(given(0), given(1))
    assert advance(carrier) == [
        "load 0 0",
        "load 1 0",
        "compute 0 0",
        "compute 1 0",
        "compute 0 1",
        "compute 1 1",
    ]
    assert [carrier.need(step) for step in range(4)] == [0, 0, 1, 2]
    reach(carrier, 1)
    assert advance(carrier) == ["compute 0 2", "compute 1 2"]
    assert advance(carrier) == []


def test_x_hat_goes_one_way_when_two_versions_come_at_once() -> None:
    carrier = lagging(given(0), given(1))
    for _ in range(5):  # stream 0 is a unit ahead
        carrier.done(carrier.next())
    reach(carrier, 1)
    order = []
    while (task := carrier.next()) is not WAIT:
        order.append(carrier.need(task.step))
        carrier.done(task)
    assert order == sorted(order) == [0, 1, 1]


def test_before_a_boundary_the_pipeline_drains() -> None:
    """Step 3 is announced with the close of step 1: its units wait for all before them, the deposit comes first."""
    carrier = lagging(given(0))
    advance(carrier)
    reach(carrier, 1)
    assert advance(carrier) == ["compute 0 2"]
    reach(carrier, 2, drain=True)
    assert carrier.need(3) == 3 and advance(carrier) == []
    reach(carrier, 3, deposit=True)
    assert advance(carrier) == ["deposit 0 3", "compute 0 3", "compute 0 4"]
    assert carrier.need(4) == 3, "behind the boundary the pipeline fills again"


def test_what_was_announced_before_the_first_delta_is_in_the_plan() -> None:
    carrier = lagging(given(0, step=4, deposit=4, has_deposit=True), begins=4, drained=(5,))
    assert advance(carrier) == ["load 0 4", "compute 0 4"]
    reach(carrier, 5, deposit=True)
    assert advance(carrier) == ["deposit 0 5", "compute 0 5", "compute 0 6"]


def test_an_heir_replays_what_drained_as_it_was() -> None:
    carrier = lagging(given(0, step=5, deposit=0), drained=(3,))
    for version in range(1, 6):
        reach(carrier, version, deposit=version == 3)
    assert [carrier.need(step) for step in range(7)] == [0, 0, 1, 3, 3, 4, 5]
    assert [step for step in range(7) if carrier.lags(step)] == [1, 2, 4, 5, 6]
    assert [step for step in range(7) if carrier.saw_move(step)] == [2, 5, 6], "never across a boundary"
    done = advance(carrier)
    assert done[:4] == ["load 0 0", "replay 0 0", "replay 0 1", "replay 0 2"]
    assert done[4:] == ["deposit 0 3", "replay 0 3", "replay 0 4", "compute 0 5", "compute 0 6"]


def test_a_stream_that_is_released_begins_no_unit_and_waits_for_all_before_it() -> None:
    carrier = lagging(given(0), given(1))
    advance(carrier)
    reach(carrier, 1)
    advance(carrier)
    carrier.take([given(0, release=True), given(1)])
    assert advance(carrier) == [], "unit 2 of stream 0 is sent, steps 1 and 2 are open"
    reach(carrier, 2)
    assert advance(carrier) == ["compute 1 3"]
    reach(carrier, 3)
    assert advance(carrier) == ["release 0 3", "compute 1 4"]
