"""`sparsync status` and `sparsync stop`: look at a live run, or end it, through its coordinator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sparsync.cli.security import SecurityFlags, security_options

if TYPE_CHECKING:
    from wire.rpc.identity import Security

Command = TypeVar("Command", bound=Callable[..., Any])

TIMEOUT_S = 5.0


def run_options(command: Command) -> Command:
    """`[RUN_DIR]` or `--coordinator`: which run is meant."""
    command = click.option(
        "--coordinator", metavar="HOST:PORT", envvar="SPARSYNC_COORDINATOR", help="Address of a live run."
    )(command)
    return click.argument("run_dir", required=False, type=click.Path(path_type=Path), metavar="[RUN_DIR]")(
        command
    )


@click.command()
@run_options
@click.option("--json", "as_json", is_flag=True, help="The whole status as one JSON object.")
@security_options
def status(run_dir: Path | None, coordinator: str | None, as_json: bool, security: SecurityFlags) -> None:
    """Show what a run looks like now: of a live coordinator, or of the run directory RUN_DIR.

    A run that has ended shows its summary.
    """
    from sparsync.report_lines import summary_lines

    if run_dir is not None and (summary := finished_summary(run_dir)) is not None:
        click.echo(json.dumps(summary) if as_json else "\n".join(summary_lines(summary)))
        return
    found = ask_status(address_of(run_dir, coordinator), security.resolve())
    if as_json:
        click.echo(json.dumps(found))
        return
    from rich.console import Console

    from sparsync.live import render

    Console(highlight=False).print(render(found))


@click.command()
@run_options
@click.option(
    "--reason", default="stopped by an operator", show_default=True, help="Kept in the run's events."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: at_step.")
@security_options
def stop(
    run_dir: Path | None, coordinator: str | None, reason: str, as_json: bool, security: SecurityFlags
) -> None:
    """End a live run after the step that is under way, with a checkpoint."""
    at_step = ask_stop(address_of(run_dir, coordinator), security.resolve(), reason)
    if as_json:
        click.echo(json.dumps({"at_step": at_step}))
    else:
        click.echo(f"the run ends after step {at_step}, with a checkpoint", err=True)


def finished_summary(run_dir: Path) -> dict[str, Any] | None:
    """The summary of a run that has ended; None while it is live. Raises NoInput, DamagedFile."""
    from sparsync.run_directory import RunDirectory, read_json
    from wire.errors import NoInput

    if not run_dir.is_dir():
        raise NoInput(f"{run_dir}: no such directory; expected a run directory, or --coordinator HOST:PORT")
    return read_json(RunDirectory(run_dir).summary)


def address_of(run_dir: Path | None, coordinator: str | None) -> str:
    """The address of the run that is meant. Raises NoInput, UsageError."""
    from sparsync.run_directory import RunDirectory, read_address
    from wire.errors import NoInput, UsageError

    if run_dir is None:
        if coordinator is None:
            raise UsageError("which run? give its directory, or --coordinator HOST:PORT")
        return coordinator
    address = read_address(RunDirectory(run_dir))
    if address is None:
        raise NoInput(
            f"{run_dir} has no `address` file, which a coordinator writes when it serves; "
            f"check the directory, or give --coordinator HOST:PORT"
        )
    return address


def ask_status(address: str, security: Security) -> dict[str, Any]:
    """One Status call. Raises Unreachable and what the coordinator answers."""
    import asyncio

    from sparsync.control import Control

    async def ask() -> dict[str, Any]:
        async with Control(address, security) as control:
            return await control.status(timeout_s=TIMEOUT_S)

    return asyncio.run(ask())


def ask_stop(address: str, security: Security, reason: str) -> int:
    """One Stop call. Raises Unreachable and what the coordinator answers."""
    import asyncio

    from sparsync.control import Control

    async def ask() -> int:
        async with Control(address, security) as control:
            return await control.stop(reason, timeout_s=TIMEOUT_S)

    return asyncio.run(ask())
