"""Results of cases, one file each in OUT/cases/DIGEST/: a case that is there is not run again.

result.json is written last, whole or not at all: a case that was interrupted has none, and is run anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsync.bench.modes.cases import Case, case_of
from sparsync.bench.modes.figures import finite
from sparsync.run_directory import write_whole
from wire.errors import UsageError

RESULT = "result.json"


@dataclass(frozen=True)
class Measured:
    """A case and its result; or the `error` that ended it."""

    case: Case
    result: dict[str, Any]
    error: str = ""

    @property
    def loss(self) -> float | None:
        """Of validation in the end; None: it diverged, or failed."""
        return finite(self.result.get("val_loss"))

    def told(self) -> dict[str, Any]:
        """For the JSON of the whole benchmark."""
        told = {"digest": self.case.digest, "case": asdict(self.case), "sends": self.case.sends}
        return {**told, "error": self.error, **self.result}


def measured_of(told: dict[str, Any]) -> Measured:
    """From `Measured.told`."""
    rest = {key: value for key, value in told.items() if key not in ("digest", "case", "sends", "error")}
    return Measured(case_of(told["case"]), rest, told["error"])


class Store:
    """The results under one directory, which is made."""

    def __init__(self, out: Path) -> None:
        self._cases = out / "cases"
        try:
            self._cases.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"--out {out}: cannot create it ({error.strerror}); choose another --out"
            ) from None

    def directory(self, case: Case) -> Path:
        return (self._cases / case.digest).absolute()

    def find(self, case: Case) -> Measured | None:
        """The result that is there already."""
        try:
            told = json.loads((self.directory(case) / RESULT).read_text())
        except (OSError, ValueError):
            return None
        return Measured(case, told)

    def keep(self, case: Case, result: dict[str, Any]) -> Measured:
        write_whole(self.directory(case) / RESULT, json.dumps(result) + "\n")
        return Measured(case, result)

    def missing(self, cases: Iterable[Case]) -> list[Case]:
        """Those without a result."""
        return [case for case in cases if self.find(case) is None]


Measure = Callable[[Case, Path], dict[str, Any]]
