"""The coordinator's journal: one SQLite table of records, durable before a decision is revealed.

Each record carries a checksum over itself and the one before, so that a changed, missing or misplaced record is found
and named when the journal is read (P13); SQLite itself checks none of a page's content.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from coordinator.journal_check import REMEDY
from coordinator.records import FIRST, Record, checksum_of, from_json, to_json
from coordinator.state import State
from wire.clock import monotonic_clock
from wire.crash import crash_point
from wire.errors import DamagedFile
from wire.metrics import Distribution
from wire.trace import span

log = logging.getLogger(__name__)
FILE = "journal.sqlite"
"""Its name in the run directory."""
FULL_RETRY_S = 0.5


class Journal:
    """Appends records; WAL with synchronous=FULL, so that records survive power loss once `commit` returns.

    Raises:
        DamagedFile: the file is no SQLite database, SQLite finds it damaged, or another version wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commit_s = Distribution()
        """Seconds that commits took, with their fsync."""
        self._pending: list[tuple[int, str, str]] = []
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, record TEXT NOT NULL, checksum TEXT)"
            )
            row = self._db.execute("SELECT seq, checksum FROM records ORDER BY seq DESC LIMIT 1").fetchone()
        except sqlite3.DatabaseError as error:
            raise DamagedFile(f"{path} cannot be read as a journal ({error}); {REMEDY}") from None
        self.seq, self._checksum = (int(row[0]), str(row[1])) if row else (0, FIRST)
        self.durable = self.seq
        """Of the newest record that survives this process: what others may be told."""

    def append(self, record: Record) -> int:
        """Add `record` to what the next `commit` makes durable; its sequence number."""
        self.seq += 1
        text = to_json(record)
        self._checksum = checksum_of(self._checksum, self.seq, text)
        self._pending.append((self.seq, text, self._checksum))
        return self.seq

    def commit(self) -> None:
        """As `try_commit`, but waits for space: for whoever has nobody to answer meanwhile."""
        told = False
        while not self.try_commit():
            if not told:
                log.error("%s", self.full)
                told = True
            threading.Event().wait(FULL_RETRY_S)

    def try_commit(self) -> bool:
        """Make all that was appended durable, all of it or nothing, with one fsync. Whether there was room for it.

        Where there was none it is tried again with the next call, and nothing that hangs on it may be told before.

        Raises: sqlite3.Error for anything else; then nothing may be decided any more.
        """
        if not self._pending:
            return True
        crash_point("coordinator.journal.before")
        began = monotonic_clock.now()
        with span("journal", records=len(self._pending)):
            written = self._written()
        if not written:
            return False
        self.commit_s.observe(monotonic_clock.now() - began)
        self._pending.clear()
        self.durable = self.seq
        crash_point("coordinator.journal.after")
        return True

    @property
    def full(self) -> str:
        """What is wrong where there is no room."""
        return f"{self.path}: the disk is full; make room there, the run goes on by itself"

    def _written(self) -> bool:
        """Write what is pending. Returns whether there was room for it."""
        try:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT INTO records (seq, record, checksum) VALUES (?, ?, ?)", self._pending
            )
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            return False
        return True

    def records(self) -> Iterator[Record]:
        """All records, in order, each one checked.

        Raises: DamagedFile for one that is not what was written, naming it.
        """
        before, expected = FIRST, 1
        try:
            for seq, text, checksum in self._db.execute(
                "SELECT seq, record, checksum FROM records ORDER BY seq"
            ):
                if seq != expected or checksum != checksum_of(before, seq, text):
                    found = (
                        f"record {seq} where record {expected} should be"
                        if seq != expected
                        else f"record {seq}"
                    )
                    raise DamagedFile(
                        f"{self.path}: {found} is not what was written (its checksum differs); {REMEDY}"
                    )
                yield self._decoded(seq, text)
                before, expected = checksum, seq + 1
        except (sqlite3.DatabaseError, UnicodeError) as error:
            raise DamagedFile(f"{self.path}: record {expected} cannot be read ({error}); {REMEDY}") from None

    def _decoded(self, seq: int, text: str) -> Record:
        try:
            return from_json(text)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(
                f"{self.path}: record {seq} is none that this build knows ({error}); continue with the version of "
                "Sparsync that wrote it, or resume the newest checkpoint into a new run directory"
            ) from None

    def replay(self, streams: int) -> State:
        """The state that the records so far make.

        Raises: DamagedFile for a record that is none, naming it.
        """
        state = State(streams)
        for record in self.records():
            state.apply(record)
        return state

    def close(self) -> None:
        self._db.close()
