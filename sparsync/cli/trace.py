"""`sparsync trace`: one picture of what all roles of a run did, and when."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from wire.errors import UsageError

PICTURE = "trace.json"
NO_END = 2**63 - 1


class Steps(click.ParamType[range]):
    """`A:B`, from step A on and before step B; either may be left out."""

    name = "A:B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> range:
        if isinstance(value, range):
            return value
        match = re.fullmatch(r"(\d*):(\d*)", str(value))
        if match is None:
            self.fail(f"{value!r}: expected A:B, as in 100:120", param, ctx)
        first, last = match.groups()
        return range(int(first or 0), int(last) if last else NO_END)


@click.command()
@click.argument(
    "directories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN_DIR|DIR..."
)
@click.option("--steps", type=Steps(), metavar="A:B", help="Only steps from A on and before B.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="File to write; without it, trace.json in RUN_DIR."
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object: what was written, of whom, and how much."
)
def trace(directories: tuple[Path, ...], steps: range | None, out: Path | None, as_json: bool) -> None:
    """Make one picture of what all roles did, from what they wrote with telemetry.trace = true.

    RUN_DIR holds the servers' and workers' directories where `sparsync train` ran it; else give each DIR. Open the
    file at https://ui.perfetto.dev, or in chrome://tracing: nothing is sent anywhere.
    """
    from sparsync.tracing import picture, read_processes, told_steps, within

    processes = read_processes(directories)
    written = told_steps(processes)
    if steps is not None:
        within(processes, steps)
    spans = sum(len(process.spans) for process in processes)
    if not spans:
        raise UsageError(_nothing(directories, steps, written))
    out = out or directories[0] / PICTURE
    out.write_text(json.dumps(picture(processes), separators=(",", ":")) + "\n", encoding="utf-8")
    if as_json:
        told = {"out": str(out), "spans": spans, "processes": [process.name for process in processes]}
        click.echo(json.dumps(told))
    else:
        click.echo(
            f"{out}: {spans} spans of {len(processes)} processes; open it at https://ui.perfetto.dev",
            err=True,
        )


def _nothing(directories: tuple[Path, ...], steps: range | None, written: range | None) -> str:
    """What to say where there is nothing to draw."""
    if steps is None or written is None:
        where = ", ".join(map(str, directories))
        return f"{where}: roles have written no spans there yet; try again once the run has taken a step"
    asked = f"{steps.start}:{'' if steps.stop == NO_END else steps.stop}"
    return (
        f"--steps {asked} finds no spans, what was written is of steps {written.start} to {written[-1]}; "
        f"give some of these, as in --steps {written.start}:{written.stop}"
    )
