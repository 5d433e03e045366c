"""events.jsonl: what happened, one JSON object a line, for people and for reports."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from wire.clock import Clock, utc_timestamp
from wire.rounds import Rounds

log = logging.getLogger(__name__)
QUIET = frozenset({"step", "scalars", "totals", "contributed"})
IN_STEPS = frozenset({"evaluated"})
"""Events whose `step` the worker told: it counts as people do."""


def in_steps(event: str, fields: Mapping[str, object], rounds: Rounds) -> Mapping[str, object]:
    """The fields of an event with the step that people count, where the deciding code told a round.

    A round that is over is told by its last step, any other one by its first.
    """
    round_ = fields.get("step")
    if event in IN_STEPS or not isinstance(round_, int):
        return fields
    step = rounds.last_step(round_) if event == "step" else rounds.first_step(round_)
    return {**fields, "step": step}


class EventLog:
    """Appends to `path`; every line has `t` (UTC), `s` (seconds that a coordinator was at work) and `event`.

    Args:
        goes_on: from what an earlier coordinator of the run wrote there; `s` grows on, a torn last line is ended.

    Attributes:
        worked_s: seconds from the beginning of the run's work to the last line of the earlier coordinator.
    """

    def __init__(self, path: Path, clock: Clock, *, goes_on: bool = False) -> None:
        before_s, self.worked_s, whole = _earlier(path) if goes_on and path.exists() else (0.0, 0.0, True)
        self._file = path.open("a", buffering=1)
        if not whole:
            self._file.write("\n")
        self._clock = clock
        self._started = clock.now() - before_s

    def write(self, event: str, fields: Mapping[str, object]) -> None:
        seconds = round(self._clock.now() - self._started, 3)
        line = {"t": utc_timestamp(), "s": seconds, "event": event, **fields}
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:  # what was not written stays in the buffer for the next time
            log.error("event %s is not in the file yet: %s", event, error)
        if event not in QUIET:
            log.info("%s %s", event, " ".join(f"{k}={v}" for k, v in fields.items()))

    def close(self) -> None:
        self._file.close()


def _earlier(path: Path) -> tuple[float, float, bool]:
    """(`s` of the newest line, seconds of work until then, whether the last line is whole) of a log."""
    newest = begun = 0.0
    line = "\n"
    with path.open(errors="replace") as file:
        for line in file:
            with suppress(ValueError, KeyError, TypeError):
                told = json.loads(line)
                newest = max(newest, float(told["s"]))
                begun = newest if told["event"] == "begun" else begun
    return newest, newest - begun if begun else 0.0, line.endswith("\n")
