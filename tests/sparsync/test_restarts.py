"""How often and when: by seconds that the test hands in."""

from __future__ import annotations

import pytest

from sparsync.exits import Role
from sparsync.restarts import Restarts


@pytest.mark.parametrize(
    ("role", "pauses"),
    [("worker", [0.5, 1, 2, 4, 4]), ("ps", [0, 1, 2, 4, 4]), ("coordinator", [0, 1, 2, 4, 4])],
)
def test_pauses_grow(role: Role, pauses: list[float]) -> None:
    restarts, now = Restarts(["it"], limit=5), 100.0
    for number, pause_s in enumerate(pauses, 1):
        assert not restarts.spent("it")
        when = f"in {pause_s:g} s " if pause_s else ""
        assert restarts.plan("it", role, now) == f"starting it again {when}({number} of 5)"
        assert restarts.waiting == {"it"}
        assert restarts.take_due(now + pause_s - 0.01) == []
        now += pause_s
        assert restarts.take_due(now) == ["it"]
        assert not restarts.waiting
    assert restarts.spent("it") and restarts.total == 5


def test_each_has_its_own_and_none_is_due_once_they_are_cancelled() -> None:
    restarts = Restarts(["one", "other"], limit=1)
    restarts.plan("one", "worker", 0.0, at_once=True)
    assert restarts.spent("one") and not restarts.spent("other")
    restarts.plan("other", "worker", 0.0)
    assert restarts.take_due(0.0) == ["one"]
    restarts.cancel()
    assert restarts.take_due(60.0) == [] and not restarts.waiting
    assert restarts.total == 2
