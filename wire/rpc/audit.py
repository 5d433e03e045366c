"""The audit log: who called what with which result, one JSON object a line, in the data directory of a role.

Every call that changes a run for an operator is written, and every refusal. A refusal that is repeated is counted
instead, so is what one certificate is refused beyond a few lines a second, and files are bounded: nobody fills a disk
by asking for what he may not have. What operators did stands in a second file once more, that nobody else's lines
push out.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from wire.clock import Clock, monotonic_clock, utc_timestamp

log = logging.getLogger(__name__)
AUDIT_FILE = "audit.jsonl"
OPERATORS_FILE = "operators.jsonl"
REPEAT_S = 10.0
"""Within so long the same refusal is counted, not written again."""
MOST_REFUSALS = 64
"""Of one certificate within that time; further ones are counted too, whatever their reasons."""
MOST_BYTES = 16 << 20
"""Of a file; then it becomes the older one, and that one goes."""
MOST_CALLERS = 1024
MOST_REASON = 500
"""Characters of a reason: who is refused may have chosen some of them."""


@dataclass
class _Refused:
    """What one certificate was refused lately."""

    since: float
    told: set[tuple[object, ...]] = field(default_factory=set)
    repeats: int = 0


class Audit:
    """Appends to `path` and to OPERATORS_FILE beside it; None: refusals are only logged. For all threads.

    Args:
        clock: for repeats; lines carry the wall clock.
    """

    def __init__(
        self, path: Path | None, clock: Clock = monotonic_clock, *, most_bytes: int = MOST_BYTES
    ) -> None:
        self._all = path and _Lines(path, most_bytes)
        self._operators = path and _Lines(path.with_name(OPERATORS_FILE), most_bytes)
        self._clock = clock
        self._refused: dict[object, _Refused] = {}
        self._lock = threading.Lock()

    def write(self, entry: Mapping[str, object], *, operators: bool = False) -> None:
        """A call that is always written: `entry` has who, role, serial, from, method, result, and more.

        `operators`: it is one that only they may make.
        """
        line = {"t": utc_timestamp(), **entry}
        with self._lock:
            if self._all:
                self._all.append(line)
            if self._operators and operators:
                self._operators.append(line)

    def refuse(self, entry: Mapping[str, object]) -> None:
        """A refusal: like `write`, but for repeats, which the next one of that certificate that is written counts."""
        reason = _shown(str(entry.get("reason")))
        with self._lock:
            repeats = self._repeats(entry.get("serial"), (entry.get("method"), entry.get("error"), reason))
            if repeats is None:
                return
            counted = {"repeated": repeats} if repeats else {}
            if self._all:
                self._all.append({"t": utc_timestamp(), **entry, "reason": reason, **counted})
        log.warning("refused: %s", reason)

    def _repeats(self, serial: object, what: tuple[object, ...]) -> int | None:
        """How many went unwritten before; None: this one does too."""
        now = self._clock.now()
        caller, repeats = self._refused.get(serial), 0
        if caller is None or now - caller.since >= REPEAT_S:
            repeats = caller.repeats if caller else 0
            if len(self._refused) >= MOST_CALLERS:
                self._refused.clear()
            caller = self._refused[serial] = _Refused(now)
        if what in caller.told or len(caller.told) >= MOST_REFUSALS:
            caller.repeats += 1
            return None
        caller.told.add(what)
        return repeats

    def close(self) -> None:
        with self._lock:
            for lines in (self._all, self._operators):
                if lines:
                    lines.close()


class _Lines:
    """A file that only its owner may read, and the one before it."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path, self._most_bytes = path, most_bytes
        self._file: TextIO | None = None

    def append(self, line: Mapping[str, object]) -> None:
        """A call is not refused because the disk is full: what could not be written stands in the process's log."""
        try:
            file = self._open()
            file.write(json.dumps(line) + "\n")
            file.flush()
        except OSError as error:
            log.error("not in %s (%s): %s", self._path, error, json.dumps(line))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> TextIO:
        path = self._path
        if self._file is not None and self._file.tell() >= self._most_bytes:
            self.close()
            os.replace(path, path.with_name(path.name + ".1"))
        if self._file is None:
            self._file = open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a")  # noqa: SIM115
        return self._file


def _shown(reason: str) -> str:
    """In one line of a log, and not of any length."""
    return (reason if reason.isprintable() else repr(reason))[:MOST_REASON]
