"""When an image is due: by the length of the log, and by how long a restart would take to apply what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ps.archive import REPLAY_S, REPLAY_S_A_GB, Archive

STATE_BYTES = 1_000_000_000
LIMIT_S = REPLAY_S + REPLAY_S_A_GB

Make = Callable[[], Archive]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Archive] = []

    def archive() -> Archive:
        made.append(Archive(tmp_path, level="os", on_durable=_ignore, on_stalled=_ignore, on_broken=_ignore))
        return made[-1]

    yield archive
    for one in made:
        one.close()


def _ignore(_: object) -> None:
    pass


def test_due_when_a_restart_would_take_too_long(make: Make) -> None:
    archive = make()
    archive.begin({"x": 1})
    for _ in range(2):
        archive.append([b"record"], seconds=LIMIT_S / 2)
        assert not archive.image_is_due(STATE_BYTES)
    archive.append([b"record"], seconds=0.01)
    assert archive.image_is_due(STATE_BYTES)
    archive.save(3, {"x": 2}).result()
    assert not archive.image_is_due(STATE_BYTES)


def test_what_a_restart_replayed_counts_for_the_next(make: Make) -> None:
    """Else a server that dies often would have more to replay each time."""
    first = make()
    first.begin({"x": 1})
    first.append([b"record"], seconds=0.9 * LIMIT_S)
    first.close()
    second = make()
    second.resume(1, image=0, spent_s=0.9 * LIMIT_S)
    second.append([b"record"], seconds=0.2 * LIMIT_S)
    assert second.image_is_due(STATE_BYTES)
