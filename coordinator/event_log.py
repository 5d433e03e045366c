"""events.jsonl: what happened, one JSON object a line, for people and for reports."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from wire.clock import Clock, utc_timestamp

log = logging.getLogger(__name__)
QUIET = frozenset({"step", "scalars"})


class EventLog:
    """Appends to `path`; every line has `t` (UTC), `s` (seconds since the start) and `event`."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._file = path.open("a", buffering=1)
        self._clock = clock
        self._started = clock.now()

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
