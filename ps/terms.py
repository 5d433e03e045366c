"""The fence against an old coordinator: what this server has obeyed so far, kept on its disk."""

from __future__ import annotations

import json
from pathlib import Path

from wire.errors import StaleIncarnation
from wire.ids import Term


class TermGuard:
    """Obeys the highest term only. Persisted before a new one is obeyed.

    Args:
        path: where the term is kept, or None to keep it in memory.
        scope: the run and timeline that terms are counted in; a term of another scope is no concern.
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
            StaleIncarnation: a higher term was seen, an equal one with another nonce, or the
                sender's journal is behind what an earlier message of this or a lower term showed.
        """
        if term.number < self.term.number:
            raise StaleIncarnation(f"term {term.number} is over, this server obeys term {self.term.number}")
        if term.number == self.term.number and term.nonce != self.term.nonce:
            raise StaleIncarnation(f"two coordinators hold term {term.number}; this one is not obeyed")
        if journal_seq is not None and journal_seq < self._journal_seq:
            raise StaleIncarnation(
                f"the coordinator's journal is at {journal_seq}, it has shown {self._journal_seq} before: a copy"
            )
        self._journal_seq = max(self._journal_seq, journal_seq or 0)
        if term.number == self.term.number:
            return
        if self._path is not None:
            record = {
                "scope": self._scope,
                "number": term.number,
                "nonce": term.nonce.hex(),
                "journal_seq": self._journal_seq,
            }
            partial = self._path.with_suffix(".partial")
            partial.write_text(json.dumps(record))
            partial.rename(self._path)
        self.term = term
