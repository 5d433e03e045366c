"""Spans of one process in a file that does not grow beyond a bound: what is older goes first.

    DIR/trace.jsonl, DIR/trace.older.jsonl      each begins with who writes it, and when (an anchor)

A line is an object (`header`, `anchor`) or a span as [name, track, begin, end, known], times in seconds of this
machine's monotonic clock. Anchors say what the wall clock showed at such a time, so that spans of several machines can
be laid beside each other. Spans are written twice a second by a thread of their own; whoever is killed loses those.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from wire import trace
from wire.clock import monotonic_clock, wall_anchor
from wire.rounds import Rounds

log = logging.getLogger(__name__)
VERSION = 1
TRACE_FILE, OLDER_FILE = "trace.jsonl", "trace.older.jsonl"
MOST_BYTES = 64 << 20
"""Of both files together."""
MOST_WAITING = 100_000
"""Spans that wait to be written; beyond that the oldest are dropped."""
WRITE_EVERY_S = 0.5
ANCHOR_EVERY_S = 10.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class TraceFile:
    """Writes what it hears until it is closed, or the disk takes no more.

    Args:
        directory: which there is.
        header: who this process is.
    """

    def __init__(self, directory: Path, header: dict[str, Any], *, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._older = directory / TRACE_FILE, directory / OLDER_FILE
        self._header = {"header": {"version": VERSION, **header}}
        self._most_bytes = most_bytes // 2
        self._waiting: deque[tuple[str, str, float, float, dict[str, Any]]] = deque(maxlen=MOST_WAITING)
        self._anchored = 0.0
        self._ended = threading.Event()
        self._file = self._open()
        self._thread = threading.Thread(target=self._run, name="trace", daemon=True)
        self._thread.start()

    def hear(self, name: str, track: str, began: float, ended: float, known: dict[str, Any]) -> None:
        """Take a span, on whichever thread."""
        self._waiting.append((name, track or threading.current_thread().name, began, ended, known))

    def close(self) -> None:
        """Write what is left."""
        self._ended.set()
        self._thread.join()

    def _open(self) -> TextIO:
        file = self._path.open("a", encoding="utf-8")
        file.write(json.dumps(self._header) + "\n")
        self._anchor(file)
        return file

    def _anchor(self, file: TextIO) -> None:
        anchor = wall_anchor()
        self._anchored = anchor.monotonic_s
        file.write(json.dumps({"anchor": anchor}) + "\n")

    def _run(self) -> None:
        try:
            while not self._ended.wait(WRITE_EVERY_S):
                self._write()
            self._write()
            self._file.close()
        except OSError as error:
            trace.listen(None)
            log.warning("%s: no more spans are written: %s", self._path, error.strerror)

    def _write(self) -> None:
        if self._file.tell() > self._most_bytes:
            self._file.close()
            self._path.replace(self._older)
            self._file = self._open()
        if monotonic_clock.now() - self._anchored > ANCHOR_EVERY_S:
            self._anchor(self._file)
        lines = [
            json.dumps(self._waiting.popleft(), separators=(",", ":")) for _ in range(len(self._waiting))
        ]
        self._file.write("".join(f"{line}\n" for line in lines))
        self._file.flush()


def machine() -> str:
    """Tells machines apart whose monotonic clocks differ: the same one has another name after each start."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return socket.gethostname()


@contextmanager
def traced(directory: Path, *, role: str, id: str, run: str, rounds: Rounds) -> Iterator[None]:
    """Spans of this process go into `directory` meanwhile. Where they cannot, that is logged, and nothing else."""
    header = {
        "role": role,
        "id": id,
        "run": run,
        "pid": os.getpid(),
        "machine": machine(),
        "rounds": asdict(rounds),
    }
    try:
        file = TraceFile(directory, header)
    except OSError as error:
        log.warning("no spans are written in %s: %s", directory, error.strerror)
        yield
        return
    trace.listen(file.hear)
    try:
        yield
    finally:
        trace.listen(None)
        file.close()
