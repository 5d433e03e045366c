"""Whatever chaos has stopped, cut or filled is undone, also when chaos itself is killed.

A warden is a small process in a session of its own. It is told of each debt before the deed, and of its end after
it was undone; when its standard input ends, it undoes what is left. `python -m sparsync.faults.warden`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sparsync.faults.processes import opened

LEAVE_S = 10.0


@dataclass(frozen=True)
class Debt:
    """What has to happen again: a signal to the process that had `pid` and began then, or the removal of a file."""

    pid: int = 0
    started_s: float = 0.0
    signal: int = 0
    remove: str = ""

    def pay(self) -> None:
        """Undo it. What is gone needs nothing."""
        if self.remove:
            Path(self.remove).unlink(missing_ok=True)
            return
        with opened(self.pid, self.started_s) as descriptor, suppress(ProcessLookupError):
            if descriptor is not None:
                signal.pidfd_send_signal(descriptor, self.signal)


class Warden:
    """A running warden; a context manager, at whose end nothing is owed any more."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sparsync.faults.warden"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @contextmanager
    def owing(self, debt: Debt) -> Iterator[None]:
        """The warden knows of the debt before the block begins; at its end the debt is paid.

        Raises ChildProcessError where there is no warden any more; the block is then not entered.
        """
        self._tell("owe", debt)
        try:
            yield
        finally:
            debt.pay()
            self._tell("paid", debt)

    def _tell(self, word: str, debt: Debt) -> None:
        """Returns when it has heard."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line, heard = json.dumps({"word": word, **asdict(debt)}), b""
        with suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
            heard = self._process.stdout.readline()
        if not heard:
            raise ChildProcessError("the warden, which undoes what chaos leaves behind, is gone; chaos ends")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        for end in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                end.close()
        self._process.wait(LEAVE_S)


def main() -> None:
    """Read words until the input ends, then pay what is owed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    owed: list[Debt] = []
    for line in sys.stdin:
        if not line.endswith("\n"):  # whoever wrote it was killed in the middle, so before the deed
            break
        told = json.loads(line)
        debt, word = Debt(**{k: v for k, v in told.items() if k != "word"}), told["word"]
        owed = [*owed, debt] if word == "owe" else [other for other in owed if other != debt]
        with suppress(BrokenPipeError):  # whoever told it has ended meanwhile
            sys.stdout.write("heard\n")
            sys.stdout.flush()
    for debt in owed:
        debt.pay()


if __name__ == "__main__":
    main()
