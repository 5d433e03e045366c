"""`sparsync doctor`: what would fail on this machine, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sparsync.cli.security import SecurityFlags, security_options
from sparsync.cli.which_run import coordinator_option
from wire.errors import Unfit

if TYPE_CHECKING:
    from sparsync.doctor.finding import Finding

COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}
ARROW = "→"


@click.command()
@coordinator_option
@click.option(
    "--listen", multiple=True, metavar="HOST:PORT", help="An address to listen on; may be repeated."
)
@click.option("--advertise", metavar="HOST:PORT", help="What others are to dial.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path(), help="Where a role would keep its data."
)
@click.option("--name", help="Name in the run, which the certificate has to cover.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: good, findings.")
@security_options
@click.argument("script", required=False, type=click.Path(path_type=Path))
def doctor(
    coordinator: str | None,
    listen: tuple[str, ...],
    advertise: str | None,
    data_dir: Path,
    name: str | None,
    as_json: bool,
    security: SecurityFlags,
    script: Path | None,
) -> int:
    """Examine this machine before a role runs on it, with a remedy for each finding.

    Give it the options of the role (and SCRIPT of the worker) that is to run here. Where something would fail the
    exit code is 85; with warnings alone it is 0. Nothing is changed.
    """
    from sparsync.doctor.checks import examine
    from sparsync.doctor.finding import Level
    from sparsync.doctor.node import Node
    from wire.config import environment

    node = Node(
        coordinator=coordinator,
        listen=listen,
        advertise=advertise,
        data_dir=data_dir,
        security=security.resolve(),
        name=name,
        script=script,
        environ=environment(),
    )
    findings = list(examine(node))
    good = all(finding.level is not Level.FAILURE for finding in findings)
    if as_json:
        click.echo(json.dumps({"good": good, "findings": [asdict(finding) for finding in findings]}))
    else:
        click.echo("\n".join(lines(findings)))
        click.echo(counted(findings), err=True)
    return 0 if good else Unfit.exit_code


def lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each finding, and one below it for what to do."""
    wide = max(len(finding.what) for finding in findings)
    shown = []
    for finding in findings:
        level = click.style(f"{finding.level:<7}", fg=COLOURS[finding.level])
        shown.append(f"{level}  {finding.what:<{wide}}  {finding.found}")
        if finding.remedy:
            shown.append(f"{'':<7}  {'':<{wide}}  {ARROW} {finding.remedy}")
    return shown


def counted(findings: Sequence[Finding]) -> str:
    """How many of each level, in words."""
    numbers = {level: sum(f.level == level for f in findings) for level in ("failure", "warning")}
    told = [f"{n} {level}{'' if n == 1 else 's'}" for level, n in numbers.items() if n]
    return " and ".join(told) if told else "nothing is wrong"
