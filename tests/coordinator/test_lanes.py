"""Streams and holders, where the scripts of tests/scenarios do not reach."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator import actions as a
from coordinator import events as e
from coordinator import units
from tests.coordinator.runs import Run


def fences(run: Run, actions: list[a.Action]) -> list[tuple[int, a.FenceStream]]:
    return [
        (c.shard, c.command) for c in run.only(a.Command, actions) if isinstance(c.command, a.FenceStream)
    ]


def dead(run: Run, incarnation: int) -> list[a.Action]:
    run.hear(e.BeatsEnded(incarnation))
    run.now += 0.6
    return run.hear(e.Tick())


@given(st.integers(1, 16), st.integers(1, 20))
def test_the_first_deal_is_even_and_contiguous(streams: int, workers: int) -> None:
    deal = units.first_deal(streams, list(range(100, 100 + workers)))
    assert [stream for stream, _ in deal] == list(range(streams))
    holders = [worker for _, worker in deal]
    counts = [holders.count(w) for w in set(holders)]
    assert holders == sorted(holders) and max(counts) - min(counts) <= 1
    assert len(counts) == min(streams, workers)


def test_the_heir_carries_fewest_and_is_oldest() -> None:
    alike = {3: 0.2, 4: 0.2, 5: 0.2}
    assert units.heir({3: 2, 4: 1, 5: 1}, alike) == 4
    assert units.heir({}, alike) is None


def test_the_heir_is_done_soonest() -> None:
    assert units.heir({3: 0, 4: 2}, {3: 1.0, 4: 0.2}) == 4
    assert units.heir({3: 0, 4: 2}, {3: 0.5, 4: 0.2}) == 3


def test_a_stream_moves_only_where_that_evens_out() -> None:
    alike = {3: 0.2, 4: 0.2}
    assert units.giver({3: 4, 4: 0}, alike) == 3
    assert units.giver({3: 2, 4: 1}, alike) is None
    assert units.giver({3: 3}, alike) is None and units.giver({}, {}) is None


def test_a_stream_moves_to_a_faster_worker_only_where_the_step_ends_sooner() -> None:
    assert units.giver({3: 2, 4: 2}, {3: 0.8, 4: 0.2}) == 3
    assert units.giver({3: 1, 4: 3}, {3: 0.8, 4: 0.2}) is None, "four would take 4 as long as one takes 3"
    assert units.giver({3: 1, 4: 3}, {3: 2.0, 4: 0.2}) == 3, "a very slow one carries nothing"
    assert units.giver({3: 2, 4: 2}, {3: 0.21, 4: 0.2}) is None
    assert units.giver({3: 0, 4: 4}, {3: 2.0, 4: 0.2}) is None


def test_a_fence_goes_to_every_shard_and_again_to_the_one_whose_line_broke() -> None:
    run = Run().begin()
    sent = fences(run, dead(run, 4))
    assert sent == [(s, a.FenceStream(0, stream, 1)) for stream in (2, 3) for s in (0, 1)]
    run.hear(e.FenceAnswered(1, 0, 2, 1, False))
    again = fences(run, run.hear(e.ShardAttached(1, 2, True, 0)))
    assert again == [(1, a.FenceStream(0, 3, 1))]
    run.hear(e.FenceAnswered(0, 0, 2, 1, False), e.FenceAnswered(1, 0, 2, 1, False))
    assert run.core.state.lanes[2].holder == 3


def test_nothing_is_assigned_before_the_last_answer() -> None:
    run = Run().begin()
    dead(run, 4)
    run.hear(e.FenceAnswered(0, 0, 2, 1, False))
    run.declare(run.join("late").incarnation)
    run.ready(5)
    assert [lane.holder for lane in run.core.state.lanes] == [3, 3, 0, 0]


def test_what_is_partly_missing_is_kept_through_a_hand_over() -> None:
    """An heir that must hand over before it reached its first unit hands the missing half on as well."""
    run = Run().begin()
    dead(run, 4)
    run.hear(e.FenceAnswered(0, 0, 2, 1, True), e.FenceAnswered(1, 0, 2, 1, False))
    run.hear(e.WorkerLeaving(3, "SIGTERM"), e.StreamDeposited(3, 2, 0, True, run.core.state.lanes[2].attempt))
    lane = run.core.state.lanes[2]
    assert (lane.holder, lane.attempt, lane.step, lane.send_to) == (0, 2, 0, (1,))


def test_the_report_of_an_older_attempt_is_no_release() -> None:
    run = Run().begin()
    run.accept(0, 0, 1, 2, 3)
    run.hear(e.StreamDeposited(3, 0, 1, False))
    assert run.hear(e.StreamDeposited(3, 0, 0, True)) == []
    assert run.hear(e.StreamDeposited(4, 0, 1, True)) == []
    assert run.core.state.lanes[0].holder == 3


def test_shards_keep_what_a_replay_can_start_from() -> None:
    """All streams are handed over between two bases: the deltas since the older base stay."""
    run = Run(stream_state_every=2).begin()
    for step in (0, 1, 2):
        closes = [c.command for c in run.only(a.Command, run.accept(step, 0, 1, 2, 3))]
        assert isinstance(closes[0], a.CloseStep) and closes[0].retain_from == 0
    run.deposit(3)
    closes = [c.command for c in run.only(a.Command, run.accept(3, 0, 1, 2, 3))]
    assert isinstance(closes[0], a.CloseStep) and closes[0].retain_from == 2
    assert run.core.state.bases == [2, 4]
    assert run.core.state.base_of(run.core.state.lanes[0]) == 2


def test_nobody_moves_a_stream_after_the_last_close() -> None:
    run = Run(steps=1, workers_to_begin=1).begin(1)
    run.accept(0, 0, 1, 2, 3)
    run.declare(run.join("late").incarnation)
    assert not any(
        s.release for t in run.only(a.Tell, run.ready(4)) for s in getattr(t.order, "assignments", ())
    )
