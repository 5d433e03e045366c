"""`examples/audit.py`, and a line in the file that COUNTED names for each unit that is computed: its number."""

import os
import runpy
from collections.abc import Iterator
from pathlib import Path

import sparsync
from worker.session import Session

counted = Path(os.environ["COUNTED"])
streams = sparsync.config().sync.units_per_step
plain_units = Session.units


def units(session: Session) -> Iterator[int]:
    for turn in plain_units(session):
        with counted.open("a") as file:
            file.write(f"{session.clock * streams + session.stream}\n")
        yield turn


Session.units = units  # type: ignore[method-assign,assignment]
runpy.run_path(str(Path(__file__).parents[3] / "examples" / "audit.py"), run_name="__main__")
