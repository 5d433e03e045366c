"""The coordinator's journal: one SQLite table of records, durable before a decision is revealed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from coordinator.records import Record, from_json, to_json
from coordinator.state import State
from wire.errors import DamagedFile


class Journal:
    """Appends records; WAL with synchronous=FULL, so that records survive power loss once `commit` returns.

    Raises:
        DamagedFile: the file is no SQLite database, or SQLite finds it damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, record TEXT NOT NULL)"
            )
            row = self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM records").fetchone()
            self.seq = int(row[0])
        except sqlite3.DatabaseError as error:
            raise DamagedFile(
                f"{path} cannot be read as a journal ({error}); restore it from a backup, or resume the newest "
                "checkpoint into a new run directory"
            ) from None

    def append(self, record: Record) -> int:
        """Add `record` to what the next `commit` makes durable; its sequence number."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        self._db.execute("INSERT INTO records (seq, record) VALUES (?, ?)", (self.seq + 1, to_json(record)))
        self.seq += 1
        return self.seq

    def commit(self) -> None:
        """Make all that was appended durable, with one fsync."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def replay(self, streams: int) -> State:
        """The state that the records so far make.

        Raises: DamagedFile for a record that is none, naming it.
        """
        state = State(streams)
        for seq, text in self._db.execute("SELECT seq, record FROM records ORDER BY seq"):
            try:
                record = from_json(text)
            except (KeyError, TypeError, ValueError) as error:
                raise DamagedFile(
                    f"{self.path}: record {seq} is none that this build knows ({error}); resume the newest checkpoint "
                    "into a new run directory"
                ) from None
            state.apply(record)
        return state

    def close(self) -> None:
        self._db.close()
