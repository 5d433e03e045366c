"""`sparsync status` and `sparsync top`: look at a live run, once or all the time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparsync.cli.security import SecurityFlags, security_options
from sparsync.cli.which_run import TIMEOUT_S, address_of, ask, finished_summary, run_options

if TYPE_CHECKING:
    from sparsync.live import Display


@click.command()
@run_options
@click.option("--json", "as_json", is_flag=True, help="The whole status as one JSON object.")
@security_options
def status(run_dir: Path | None, coordinator: str | None, as_json: bool, security: SecurityFlags) -> None:
    """Show what a run looks like now: of a live coordinator, or of the run directory RUN_DIR.

    A run that has ended shows its summary.
    """
    if not show_finished(run_dir, as_json=as_json):
        address = address_of(run_dir, coordinator)
        show_status(
            ask(
                address,
                security.resolve(run_dir=run_dir),
                lambda control: control.status(timeout_s=TIMEOUT_S),
            ),
            as_json=as_json,
        )


@click.command()
@run_options
@click.option("--once", is_flag=True, help="One picture, and no more; so too where there is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="One status object a line, until the run ends.")
@click.option(
    "--interval",
    "interval_s",
    metavar="S",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@security_options
def top(
    run_dir: Path | None,
    coordinator: str | None,
    once: bool,
    as_json: bool,
    interval_s: float,
    security: SecurityFlags,
) -> None:
    """Watch a live run: its workers and servers, losses, bytes and staleness. Ctrl-C ends the look, not the run.

    A run that has ended shows its summary.
    """
    if show_finished(run_dir, as_json=as_json):
        return
    address = address_of(run_dir, coordinator)
    if once or not (as_json or sys.stdout.isatty()):
        found = ask(
            address, security.resolve(run_dir=run_dir), lambda control: control.status(timeout_s=TIMEOUT_S)
        )
        show_status(found, as_json=as_json)
        return
    from sparsync.live import JsonLines, LiveTable
    from sparsync.watch import watch

    display: Display = JsonLines() if as_json else LiveTable(stderr=False)
    try:
        ask(
            address,
            security.resolve(run_dir=run_dir),
            lambda control: watch(control, display, interval_s=interval_s),
        )
    except KeyboardInterrupt:
        pass
    finally:
        display.close()


def show_status(found: dict[str, Any], *, as_json: bool) -> None:
    """A status on standard output."""
    from sparsync.run_table import print_status

    if as_json:
        click.echo(json.dumps(found))
    else:
        print_status(found)


def show_finished(run_dir: Path | None, *, as_json: bool) -> bool:
    """Whether RUN_DIR is of a run that has ended; its summary is then on standard output. Raises NoInput."""
    from sparsync.report_lines import summary_lines

    summary = finished_summary(run_dir) if run_dir is not None else None
    if summary is not None:
        click.echo(json.dumps(summary) if as_json else "\n".join(summary_lines(summary)))
    return summary is not None
