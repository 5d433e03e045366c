"""The driver between two turns of the loop: segments and their ends, outcomes, schedule, rejoins."""

from __future__ import annotations

import pytest

from tests.worker.toy import CONFIG, Pushed, R, Worker, worker
from wire.clock import ManualClock
from wire.config import Config
from wire.errors import RunOver, StaleIncarnation
from wire.ids import UnitId
from worker.driver import LEAVE_S
from worker.leases import Lease
from worker.mailbox import End, Plan
from worker.streams import Assignment, Kind


def carried(*streams: int, step: int = 0) -> tuple[Assignment, ...]:
    return tuple(Assignment(s, 0, step, step, False, (), False) for s in streams)


def tell(w: Worker, plan: Plan) -> None:
    w.attached.transfer.mailbox.put_plan(plan)


def end(w: Worker, reason: str = "all steps are done", error: str = "") -> None:
    w.attached.transfer.mailbox.put_end(End(reason, error))


def elastic(
    number: int,
    segment: int,
    *leases: Lease,
    ahead: int | None = None,
    first: bool = False,
    begins: int = 0,
) -> Plan:
    return Plan((), 10, number, segment, True, leases, ahead, first, begins)


def numbers(w: Worker, count: int) -> list[int]:
    """Compute `count` units; their numbers."""
    done = []
    for task in w.driver.tasks():
        assert task.kind is Kind.COMPUTE
        done.append(task.step * R + task.stream)
        w.compute()
        if len(done) == count:
            break
    return done


def test_from_exact_to_elastic_and_back() -> None:
    w = worker()
    tell(w, Plan(carried(0, 1), 10))
    assert numbers(w, 2) == [0, 1]
    w.toy.close(0, pause=True)
    tell(w, elastic(5, 1, Lease(1, 2, 6, 1), begins=1))
    assert numbers(w, 4) == [2, 3, 4, 5]
    assert w.model.a.tolist() == [-2.0] * 4, "x̂ is that of the last exact step"
    assert w.model.seen == 5, "stream 1 had seen one; its buffers stay in the model"
    assert [h["plan"] for h in w.toy.told("holding")] == [5]
    assert w.toy.told("holding")[0]["leases"] == [{"lease": 1, "next": 2}]
    w.toy.close(1)
    w.toy.close(2, pause=True)
    tell(w, Plan(carried(0, step=3), 10, segment=2, begins=3))
    assert numbers(w, 1) == [6]
    assert w.model.seen == 6, "a stream without a deposit begins with the model as it was"
    assert w.model.b.tolist() == [-6.0] * 4
    end(w)
    assert list(w.driver.tasks()) == []
    assert w.driver.end == End("all steps are done", "")


def test_behind_a_pause_nothing_is_begun_and_nothing_entered() -> None:
    w = worker()
    tell(w, Plan(carried(0, 1), 10))
    assert numbers(w, 2) == [0, 1]
    w.toy.close(0, pause=True)
    w.toy.publish(0, clock=1)
    tell(w, Plan(carried(0, 1), 10))
    w.driver._listen()
    assert w.driver._route.next().kind is Kind.WAIT
    assert not w.driver._route.open
    assert w.driver._replica.newest == 1
    tell(w, elastic(5, 1, Lease(1, 2, 3, 1), begins=1))
    w.driver._listen()
    assert w.driver._replica.versions == [2, 1]
    tell(w, Plan(carried(0, 1), 10))
    w.driver._listen()
    assert w.driver._route.segment.number == 1, "a plan of an older segment says nothing any more"


def test_a_plan_of_a_later_segment_waits_for_the_end_of_this_one() -> None:
    w = worker()
    tell(w, Plan(carried(0, 1), 10))
    assert numbers(w, 2) == [0, 1]
    tell(w, elastic(5, 2, Lease(1, 4, 6, 1), begins=2))
    w.driver._listen()
    assert w.driver._route.next().kind is Kind.WAIT
    w.toy.close(0, pause=True)
    w.toy.publish(1, clock=1)
    w.driver._listen()
    assert w.driver._route.segment.number == 0, "there is a segment between the two"
    w.toy.close(1, pause=True)
    assert numbers(w, 2) == [4, 5]
    assert w.driver._replica.versions == [2, 3]


def test_outcomes_give_back_what_was_not_applied() -> None:
    w = worker()
    tell(w, elastic(1, 0, Lease(1, 0, 8, 1)))
    assert numbers(w, 2) == [0, 1]
    first, second = (p for p in w.toy.pushes if p.shard == 0)
    assert (first.base, second.base) == (0, 0)
    w.toy.publish(0, [(first, 0.25), (second, 1.0)], clock=1)
    assert numbers(w, 1) == [2]
    third = [p for p in w.toy.pushes if p.shard == 0][-1]
    assert third.base == 1
    assert w.model.a.tolist() == [-1.25] * 4
    w.toy.publish(0, [(third, 1.0)], clock=1)
    assert numbers(w, 1) == [3]
    assert w.model.a.tolist() == [-1.25 - 1.75] * 4, "three quarters of the first unit came with the third"
    assert w.model.b.tolist() == [0.0] * 4, "the other shard has published nothing"


def late_worker(config: Config = CONFIG) -> Worker:
    """Its first unit was settled behind one of another worker, each in a delta of its own."""
    w = worker(config)
    tell(w, elastic(1, 0, Lease(1, 0, 8, 1), first=True))
    numbers(w, 1)
    own = next(p for p in w.toy.pushes if p.shard == 0)
    other = Pushed(0, UnitId.of(1, 100, R), b"", own.commit, 0)
    for unit in (other, own):
        w.toy.publish(0, [(unit, 1.0)])
    return w


def test_a_late_worker_computes_where_the_model_is_going_and_leaves_it_where_it_is() -> None:
    w = late_worker()
    tasks = w.driver.tasks()
    next(tasks)
    published = w.driver._parameters.published[0, 0]
    assert w.model.a.tolist() == [-3.5] * 4 and published == -1.0, "one unit late, 2.5 moves of one unit"
    assert w.model.b.tolist() == [0.0] * 4, "the other shard has published nothing"
    w.compute()
    tasks.close()
    end(w)
    w.driver.leave("the loop ended")
    assert w.model.a.tolist() == [-1.0] * 4


def test_without_looking_ahead_it_computes_on_the_model_as_it_is() -> None:
    sync = CONFIG.sync.model_copy(update={"look_ahead": 0.0})
    w = late_worker(CONFIG.model_copy(update={"sync": sync}))
    next(w.driver.tasks())
    assert w.model.a.tolist() == [-1.0] * 4


def test_who_comes_back_to_a_run_that_is_over_holds_the_model_as_it_was_last() -> None:
    w = late_worker()
    tasks = w.driver.tasks()
    next(tasks)
    w.compute()
    rejoin = w.attached.rejoin

    def to_a_run_that_is_over() -> None:
        rejoin()
        end(w)

    w.attached.rejoin = to_a_run_that_is_over  # type: ignore[method-assign]
    end(w, "silent", "StaleIncarnation")
    assert list(tasks) == []
    assert w.model.a.tolist() == [-1.0] * 4


def held_by(stream: int, *, attempt: int = 0, step: int = 0, release: bool = False) -> Plan:
    """A plan of a segment whose units lag, with one stream."""
    assignment = Assignment(stream, attempt, step, step, step > 0, (), release)
    return Plan((assignment,), 10, attempt + 1 + release, lag=1)


def delayed_units(steps: int, *, handed_over: int | None = None) -> list[list[float]]:
    """What the units of stream 1 are computed on; `handed_over`: from one worker to another before that step."""
    one = worker()
    holders = [one, worker(toy=one.toy)]
    for stream, w in enumerate(holders):
        tell(w, held_by(stream))
    units = [w.driver.tasks() for w in holders]
    stood: list[list[float]] = []
    for step in range(steps):
        for stream in range(R):
            if stream == 1 and step == handed_over:
                giver, heir = holders[1], worker(toy=one.toy)
                tell(giver, held_by(1, release=True))
                while (1, step) not in one.toy.deposits:
                    giver.driver._turn()
                tell(heir, held_by(1, attempt=1, step=step))
                holders[1], units[1] = heir, heir.driver.tasks()
            task = next(units[stream])
            assert (task.step, task.stream, task.kind) == (step, stream, Kind.COMPUTE)
            model = holders[stream].model
            if stream == 1:
                stood.append(model.a.tolist())
            holders[stream].compute(0.4 * (model.a[0].item() - 1 - stream))
            if step and stream == 0:
                one.toy.close(step - 1)
                for shard in one.toy.shards:
                    shard.bases = {0: shard.bases[0]}  # as between two boundaries
    return stood


def test_a_stream_that_changes_hands_between_two_boundaries_foresees_the_same() -> None:
    straight = delayed_units(8)
    assert len({tuple(a) for a in straight}) > 5
    for step in (3, 4, 6):
        assert delayed_units(8, handed_over=step) == straight


def test_progress_tells_what_is_held_back() -> None:
    w = worker()
    tell(w, elastic(1, 0, Lease(1, 0, 8, 1)))
    numbers(w, 1)
    w.toy.publish(0, [(w.toy.pushes[0], 0.5)])
    w.driver._listen()
    w.driver._report_progress()
    assert w.toy.told("progress")[-1]["residual_norm"] == pytest.approx(1.0)  # four halves


def test_what_came_back_is_told_before_the_next_unit() -> None:
    """Of a worker that dies while it computes this is what is known of its loss."""
    w = worker()
    tell(w, elastic(1, 0, Lease(1, 0, 8, 1)))
    tasks = w.driver.tasks()
    for factor in (0.5, 1.0):
        next(tasks)
        w.compute()
        told = len(w.toy.told("progress"))
        w.toy.publish(0, [([p for p in w.toy.pushes if p.shard == 0][-1], factor)])
        next(tasks)
        norms = [p["residual_norm"] for p in w.toy.told("progress")[told:]]
        assert norms == ([pytest.approx(1.0)] if factor < 1 else []), "nothing came back: nothing is told"
        w.compute()


@pytest.mark.parametrize("is_elastic", [False, True])
def test_what_has_arrived_before_the_end_is_taken_in(is_elastic: bool) -> None:
    w = worker()
    tell(w, elastic(1, 0, Lease(1, 0, 2, 1)) if is_elastic else Plan(carried(0, 1), 1))
    tasks = w.driver.tasks()
    for _ in range(2):
        next(tasks)
        w.compute()
    w.toy.close(0, final=True)
    end(w)
    assert list(tasks) == []
    assert w.model.a.tolist() == w.model.b.tolist() == [-2.0] * 4
    assert w.toy.told("progress")[-1]["version"] == 1


def test_a_unit_is_pushed_with_the_learning_rate_of_its_own_step() -> None:
    """The scheduler goes one way, to the largest clock seen; units come in any order."""
    w = worker()
    tell(w, elastic(1, 0, Lease(1, 6, 7, 1)))
    assert numbers(w, 1) == [6]
    tell(w, elastic(2, 0, Lease(2, 0, 2, 1), Lease(3, 7, 9, 1)))
    assert numbers(w, 4) == [0, 1, 7, 8]
    assert [p.commit.learning_rates[0] for p in w.toy.pushes if p.shard == 0] == [0.25, 1.0, 1.0, 0.25, 0.2]
    assert w.scheduler.last_epoch == 4


def test_a_worker_that_pulls_late_begins_at_the_clock_that_the_newest_delta_told() -> None:
    w = worker()
    for shard in range(2):
        w.toy.publish(shard, clock=3)
    tell(w, elastic(1, 0, Lease(1, 8, 10, 1), ahead=1))
    assert numbers(w, 2) == [8, 9]
    assert {p.base for p in w.toy.pushes} == {1}


def test_with_too_much_under_way_no_unit_is_begun() -> None:
    w = worker()
    tell(w, elastic(1, 0, Lease(1, 0, 8, 1)))
    assert numbers(w, 1) == [0]
    mailbox = w.attached.transfer.mailbox
    for unit in {p.unit for p in w.toy.pushes} | {w.driver.unit}:
        mailbox.expect_answer(unit)
        mailbox.expect_answer(unit._replace(step=9))
    assert w.driver._route.next().kind is Kind.WAIT


def test_evaluations_stand_under_the_newest_multiple_passed_and_on_one_worker_only() -> None:
    w = worker()
    w.evaluation.install(lambda: 0.5, 2)
    tell(w, elastic(1, 0, Lease(1, 0, 8, 1), first=True))
    numbers(w, 1)
    for clock in (1, 5):
        for shard in range(2):
            w.toy.publish(shard, clock=clock)
        numbers(w, 1)
    tell(w, elastic(2, 0, Lease(1, 0, 8, 1)))
    for shard in range(2):
        w.toy.publish(shard, clock=6)
    numbers(w, 1)
    assert [(e["step"], e["model"]) for e in w.toy.told("evaluated")] == [
        (0, "published"),
        (4, "published"),
    ], "2 was passed together with 4, 6 is another worker's"


def test_the_last_step_is_evaluated_on_both_models() -> None:
    w = worker()
    w.evaluation.install(lambda: float(w.model.a[0]), 0)
    tell(w, elastic(1, 0, Lease(1, 0, 1, 1), first=True))
    numbers(w, 1)
    w.toy.close(0, final=True)
    w.driver._listen()
    w.driver._wait()
    assert [(e["step"], e["model"], e["loss"]) for e in w.toy.told("evaluated")] == [
        (1, "published", -1.0),
        (1, "x", -1.0),
    ]


def test_a_worker_that_was_given_up_joins_anew_and_goes_on() -> None:
    w = worker()
    w.driver.ready(samples=7)
    tell(w, elastic(1, 0, Lease(1, 0, 8, 1)))
    numbers(w, 1)
    end(w, "silent for 5.0 s", "StaleIncarnation")
    tasks = w.driver.tasks()
    rejoining = w.attached.rejoin

    def rejoin() -> None:
        rejoining()
        tell(w, elastic(4, 0, Lease(2, 4, 6, 1)))

    w.attached.rejoin = rejoin  # type: ignore[method-assign]
    task = next(tasks)
    assert (task.step, task.stream) == (2, 0)
    assert w.attached.rejoins == 1
    assert w.toy.told("ready") == [{"samples": 7}] * 2
    assert w.driver.total_steps == 10


def test_an_error_of_a_stale_incarnation_is_one_that_a_rejoin_mends() -> None:
    w = worker()
    w.attached.transfer.mailbox.put_error(StaleIncarnation("no longer retained"))
    w.attached.over = RunOver("the run is over: all steps are done")
    assert list(w.driver.tasks()) == []
    assert w.attached.rejoins == 1
    assert w.driver.end == End("the run is over: all steps are done", "")


def test_it_does_not_join_for_ever() -> None:
    w = worker()
    rejoining = w.attached.rejoin

    def rejoin() -> None:
        rejoining()
        end(w, "given up again", "StaleIncarnation")

    w.attached.rejoin = rejoin  # type: ignore[method-assign]
    end(w, "given up", "StaleIncarnation")
    with pytest.raises(StaleIncarnation, match="given up again"):
        list(w.driver.tasks())
    assert w.attached.rejoins == 5


def test_who_was_asked_to_end_does_not_come_back() -> None:
    w = worker()
    w.attached.leaving = True
    end(w, "silent for 5.0 s", "StaleIncarnation")
    assert list(w.driver.tasks()) == []
    assert w.attached.rejoins == 0


def test_who_was_asked_to_end_waits_only_so_long_for_a_coordinator_that_is_away() -> None:
    """It begins no unit meanwhile; one that comes back in time lets it go as ever."""
    clock = ManualClock()
    w = worker(clock=clock)
    tell(w, elastic(1, 0, Lease(1, 0, 10**9, 1)))
    tasks = w.driver.tasks()
    next(tasks)
    w.compute()
    w.attached.leaving, w.attached.transfer.attended = True, False
    waited = 0

    def wait() -> None:
        nonlocal waited
        waited += 1
        clock.advance(LEAVE_S / 4)
        w.attached.transfer.attended = waited == 3

    w.attached.waits = wait  # type: ignore[method-assign]
    next(tasks)
    assert waited == 3, "with the coordinator back it goes on"
    w.compute()
    w.attached.transfer.attended = False
    assert list(tasks) == []
    assert (waited, len(w.toy.pushes)) == (7, 4)
    reason = "asked to end while the coordinator is away: nothing more is handed over"
    assert w.driver.end == End(reason, "")


def test_a_loop_that_ends_early_says_so_and_computes_no_more() -> None:
    w = worker()
    tell(w, Plan(carried(0, 1), 10))
    numbers(w, 2)
    w.toy.close(0)
    end(w, "it asked to leave and carries nothing any more")
    w.driver.leave("its loop ended before the run")
    assert w.toy.told("leaving") == [{"reason": "its loop ended before the run"}]
    assert w.driver.end is not None
    assert len(w.toy.pushes) == 4
