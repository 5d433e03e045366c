"""Who flushed: the last push of a worker that leaves counts once for each (incarnation, segment). Pure.

What is known of a worker outlives the segment: a flush that was accepted just before its end and is sent again
behind it, as its answer was lost, must not be held back a second time by its sender.
"""

from __future__ import annotations

from ps.ledger import Verdict
from ps.trees import pairs


class Flushes:
    """The newest segment in which each worker flushed."""

    def __init__(self) -> None:
        self._accepted: dict[int, int] = {}

    def judge(self, incarnation: int, segment: int, *, open_segment: int | None) -> Verdict:
        """What to do with a flush of `segment` while `open_segment` takes pushes (None: none does).

        Changes nothing. ADMIT, ACCEPTED, or FENCED: it comes too late, its sender keeps what it holds.
        """
        if self._accepted.get(incarnation) == segment:
            return Verdict.ACCEPTED
        return Verdict.ADMIT if segment == open_segment else Verdict.FENCED

    def accept(self, incarnation: int, segment: int) -> None:
        assert self._accepted.get(incarnation) != segment, (incarnation, segment)
        self._accepted[incarnation] = segment

    def image(self) -> list[list[int]]:
        return pairs(self._accepted)

    def restore(self, tree: list[list[int]]) -> None:
        self._accepted = dict(tree)  # type: ignore[arg-type]
