"""Which live run a command means, and asking its coordinator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sparsync.control import Control
    from wire.rpc.identity import Security

Command = TypeVar("Command", bound=Callable[..., Any])
Answer = TypeVar("Answer")

TIMEOUT_S = 5.0


def coordinator_option(command: Command) -> Command:
    """`--coordinator HOST:PORT`, passed as `coordinator: str | None`."""
    return click.option(
        "--coordinator", metavar="HOST:PORT", envvar="SPARSYNC_COORDINATOR", help="Address of a live run."
    )(command)


def run_options(command: Command) -> Command:
    """`[RUN_DIR]` or `--coordinator`: which run is meant."""
    command = coordinator_option(command)
    return click.argument("run_dir", required=False, type=click.Path(path_type=Path), metavar="[RUN_DIR]")(
        command
    )


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


def ask(address: str, security: Security, question: Callable[[Control], Awaitable[Answer]]) -> Answer:
    """The answer of the coordinator at `address`. Raises Unreachable and what the coordinator answers."""
    import asyncio

    from sparsync.control import Control

    async def answer() -> Answer:
        async with Control(address, security) as control:
            return await question(control)

    return asyncio.run(answer())
