"""The fence against an old coordinator: what this server has obeyed so far, kept on its disk."""

from __future__ import annotations

import json
from pathlib import Path

from wire.crash import crash_point
from wire.errors import StaleIncarnation
from wire.files import replace_durably
from wire.ids import Term


class TermGuard:
    """Obeys the highest term only. Persisted before a new one is obeyed.

    Args:
        path: where terms are kept, or None to keep them in memory.
        scope: the run and timeline that terms are counted in; a term of another scope is no concern.

    Attributes:
        term: the highest that was obeyed.
    """

    def __init__(self, path: Path | None, *, scope: str = "") -> None:
        self._path = path
        self._scope = scope
        self.term = Term(0, b"")
        self._journal_seq = 0
        if path is not None and path.exists():
            seen = json.loads(path.read_text())
            if seen["scope"] != scope:
                return
            self.term = Term(seen["number"], bytes.fromhex(seen["nonce"]))
            self._journal_seq = seen["journal_seq"]

    def obey(self, term: Term, journal_seq: int | None = None) -> None:
        """Accept a message of `term`, whose sender's journal stands at `journal_seq`.

        Messages beside the line of commands may be overtaken by it: they are judged without a position.

        Raises:
            StaleIncarnation: a higher term was seen, an equal one with another nonce, or the sender's journal is behind
                what an earlier message showed: the copy of a journal takes a higher term, too.
        """
        if term.number < self.term.number:
            raise StaleIncarnation(f"term {term.number} is over, this server obeys term {self.term.number}")
        if term.number == self.term.number and term.nonce != self.term.nonce:
            raise StaleIncarnation(f"two coordinators hold term {term.number}; this one is not obeyed")
        if journal_seq is not None and journal_seq < self._journal_seq:
            raise StaleIncarnation(
                f"the coordinator's journal is at {journal_seq}, this server has seen {self._journal_seq}: a copy"
            )
        seq = max(self._journal_seq, journal_seq or 0)
        if term.number > self.term.number:
            self._keep(term, seq)
        self.term, self._journal_seq = term, seq

    def _keep(self, term: Term, journal_seq: int) -> None:
        """On the disk when this returns; else nothing is obeyed."""
        if self._path is None:
            return
        record = {
            "scope": self._scope,
            "number": term.number,
            "nonce": term.nonce.hex(),
            "journal_seq": journal_seq,
        }
        crash_point("ps.term.before")
        replace_durably(self._path, json.dumps(record).encode())
        crash_point("ps.term.after")
