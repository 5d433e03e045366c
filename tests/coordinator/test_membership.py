"""Who is alive, by the second."""

from __future__ import annotations

from coordinator.membership import Liveness


def watched() -> Liveness:
    liveness = Liveness(suspect_s=3.0, dead_s=5.0)
    liveness.expect(1, 100.0)
    return liveness


def test_silence_of_more_than_five_seconds_is_death() -> None:
    liveness = watched()
    liveness.beat(1, 101.0, line=1)
    assert liveness.dead(106.0) == []
    assert liveness.dead(106.1) == [(1, "silent for 5.1 s, limit 5.0 s")]


def test_before_death_silence_is_suspect() -> None:
    liveness = watched()
    assert liveness.suspects(110.0) == set(), "it may not beat yet"
    liveness.beat(1, 110.0, line=1)
    assert liveness.suspects(113.0) == set()
    assert liveness.suspects(113.1) == {1}


def test_the_first_beat_has_more_time() -> None:
    liveness = watched()
    assert liveness.dead(115.0) == []
    assert liveness.dead(115.5) == [(1, "silent for 15.5 s, limit 15.0 s")]
    assert liveness.age(1, 110.0) is None


def test_a_closed_stream_is_death_unless_another_opens() -> None:
    liveness = watched()
    liveness.beat(1, 101.0, line=1)
    liveness.close(1, 101.2, line=1)
    assert liveness.dead(101.7) == [] and not liveness.beating()
    assert liveness.dead(101.8) == [(1, "its heartbeat stream ended 0.6 s ago")]
    liveness.beat(1, 101.8, line=2)
    assert liveness.dead(102.8) == [] and liveness.beating()


def test_the_late_end_of_an_older_stream_means_nothing() -> None:
    """P7: after a broken connection the new stream beats before the old one's end is noticed."""
    liveness = watched()
    liveness.beat(1, 101.0, line=1)
    liveness.beat(1, 103.0, line=2)
    liveness.close(1, 103.1, line=1)
    assert liveness.dead(104.0) == []


def test_who_is_forgotten_does_not_die() -> None:
    liveness = watched()
    liveness.forget(1)
    liveness.beat(1, 101.0, line=1)
    liveness.close(1, 101.0, line=1)
    assert liveness.dead(999.0) == [] and liveness.age(1, 999.0) is None


def test_the_age_of_the_last_beat() -> None:
    liveness = watched()
    liveness.beat(1, 101.0, line=1)
    assert liveness.age(1, 101.5) == 0.5


def test_the_time_that_the_coordinator_was_held_up_is_nobodys_silence() -> None:
    live = Liveness(suspect_s=3.0, dead_s=5.0)
    for incarnation in (1, 2):
        live.expect(incarnation, 0.0)
        live.beat(incarnation, 1.0, line=0)
    live.close(2, 1.0, line=0)
    live.excuse(8.0, 9.2)
    assert live.dead(9.4) == []
    assert [i for i, _ in live.dead(9.6)] == [2], "its stream had ended; the grace goes on"
    assert [i for i, _ in live.dead(14.1)] == [1, 2]


def test_a_beat_that_goes_on_renews_the_moment_and_nothing_else() -> None:
    liveness = watched()
    liveness.beat(1, 101.0, line=1)
    assert liveness.goes_on(1, 104.0, line=1)
    assert liveness.age(1, 104.0) == 0.0 and liveness.dead(109.0) == []
    assert liveness.dead(109.1) == [(1, "silent for 5.1 s, limit 5.0 s")]


def test_a_beat_by_which_anything_is_learned_does_not_go_on() -> None:
    def beaten() -> Liveness:
        liveness = watched()
        liveness.beat(1, 101.0, line=1)
        return liveness

    assert not watched().goes_on(1, 101.0, line=0), "the first one"
    assert not beaten().goes_on(1, 102.0, line=2), "on another stream"
    assert not beaten().goes_on(1, 104.1, line=1), "of a suspect that returns"
    assert not beaten().goes_on(2, 102.0, line=1), "of one that is not watched"
    closed = beaten()
    closed.close(1, 101.5, line=1)
    assert not closed.goes_on(1, 101.6, line=1), "after its stream ended"
    assert closed.dead(102.1), "what does not go on is not taken"
