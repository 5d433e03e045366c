"""`sparsync verify`: is what lies on the disk what was written?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wire.errors import DamagedFile

if TYPE_CHECKING:
    from sparsync.verification import Checked


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: good, and what was checked.")
def verify(directory: Path, as_json: bool) -> int:
    """Check every checksum in DIR: a run directory, a checkpoint, or the data directory of a server.

    Each damage is named with file and offset; the exit code is then 74. Nothing is changed, and the run may be live.
    """
    from sparsync.verification import verify as check_all

    checked = list(check_all(directory))
    good = not any(thing.damage for thing in checked)
    if as_json:
        click.echo(json.dumps({"good": good, "checked": [thing.as_json() for thing in checked]}))
    else:
        click.echo("\n".join(table(directory, checked)))
        for thing in checked:
            for damage in thing.damage:
                click.echo(f"error: {damage.what}", err=True)
    return 0 if good else DamagedFile.exit_code


def table(directory: Path, checked: Sequence[Checked]) -> list[str]:
    """A line for each thing that was checked."""
    from sparsync.quantities import show_bytes

    rows = [
        (
            thing.kind,
            str(thing.path.relative_to(directory) if thing.path != directory else thing.path),
            f"{thing.files} files" if thing.files != 1 else "1 file",
            show_bytes(thing.bytes),
            f"DAMAGED: {len(thing.damage)}" if thing.damage else "good",
        )
        for thing in checked
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
