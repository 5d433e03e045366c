"""The audit log: who called what with which result, one JSON object a line, in the data directory of a role.

Every call that changes a run for an operator is written, and every refusal. A refusal that is repeated with the
same reason is counted instead, and the file is bounded: nobody fills a disk by asking for what he may not have.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from wire.clock import Clock, monotonic_clock, utc_timestamp

log = logging.getLogger(__name__)
AUDIT_FILE = "audit.jsonl"
REPEAT_S = 10.0
"""Within so long the same refusal is counted, not written again."""
MOST_BYTES = 16 << 20
"""Of the file; then it becomes the older one, and that one goes."""
MOST_REASONS = 1024


@dataclass
class _Told:
    at: float
    repeats: int = 0


class Audit:
    """Appends to `path`, which only its owner may read; None: refusals are only logged. For all threads.

    Args:
        clock: for repeats; lines carry the wall clock.
    """

    def __init__(
        self, path: Path | None, clock: Clock = monotonic_clock, *, most_bytes: int = MOST_BYTES
    ) -> None:
        self._path = path
        self._clock = clock
        self._most_bytes = most_bytes
        self._told: dict[tuple[object, ...], _Told] = {}
        self._file: TextIO | None = None
        self._lock = threading.Lock()

    def write(self, entry: Mapping[str, object]) -> None:
        """A call that is always written: `entry` has who, role, serial, from, method, result, and more."""
        with self._lock:
            self._append({"t": utc_timestamp(), **entry})

    def refuse(self, entry: Mapping[str, object]) -> None:
        """A refusal: like `write`, but for repeats, which the next one that is written counts."""
        key = tuple(entry.get(field) for field in ("who", "role", "serial", "method", "reason"))
        now = self._clock.now()
        with self._lock:
            told = self._told.get(key)
            if told is not None and now - told.at < REPEAT_S:
                told.repeats += 1
                return
            if len(self._told) >= MOST_REASONS:
                self._told.clear()
            self._told[key] = _Told(now)
            repeats = {"repeated": told.repeats} if told is not None and told.repeats else {}
            self._append({"t": utc_timestamp(), **entry, **repeats})
        log.warning("refused: %s", entry.get("reason"))

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, line: Mapping[str, object]) -> None:
        """A call is not refused because the disk is full: what could not be written stands in the process's log."""
        if self._path is None:
            return
        try:
            file = self._open(self._path)
            file.write(json.dumps(line) + "\n")
            file.flush()
        except OSError as error:
            log.error("not in %s (%s): %s", self._path, error, json.dumps(line))

    def _open(self, path: Path) -> TextIO:
        if self._file is not None and self._file.tell() >= self._most_bytes:
            self._close()
            os.replace(path, path.with_name(path.name + ".1"))
        if self._file is None:
            self._file = open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a")  # noqa: SIM115
        return self._file
