"""`sparsync report`: what became of a run, as one HTML file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path), metavar="RUN_DIR")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write (RUN_DIR/report.html)."
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object: report, and what the page is drawn from."
)
def report(run_dir: Path, out: Path | None, as_json: bool) -> None:
    """Write what became of a run as one HTML file that needs no other: loss, rates, members, staleness, bytes, faults.

    Read from the run directory; the run may be live.
    """
    from sparsync.report.page import write_report
    from sparsync.run_directory import RunDirectory

    path, history = write_report(RunDirectory(run_dir), out)
    if as_json:
        click.echo(json.dumps({"report": str(path), **asdict(history)}))
    else:
        click.echo(path)
