"""`sparsync node install` and `remove`: the roles of this machine as services of systemd."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sparsync.node.install import Done

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def node() -> None:
    """Put roles on this machine as services, and take them away."""


def _where(command: Command) -> Command:
    """`--root`, `--dry-run`, `--json`."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object."),
        click.option("--dry-run", is_flag=True, help="Only say what would be done."),
        click.option(
            "--root",
            type=click.Path(path_type=Path, file_okay=False),
            default=Path("/"),
            help="Directory that stands for the root of the machine, as of an image.",
        ),
    ):
        command = option(command)
    return command


@node.command()
@click.option("--role", type=click.Choice(["coordinator", "ps", "worker"]), required=True)
@click.option(
    "--instance",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Which of several servers or workers of this machine.",
)
@click.option("--coordinator", metavar="HOST:PORT", default="", help="Where the coordinator serves.")
@click.option("--name", help="Name of this machine, as in its certificates; without it, its host name.")
@click.option("--host", help="Name or address under which the others dial it; without it, --name.")
@click.option("--device", help="Of a worker; without it, cuda:INSTANCE.")
@click.option(
    "--script", default="", help="Of a worker, with its arguments; without it, the built-in trainer."
)
@click.option("--user", default="sparsync", show_default=True, help="Who runs the services.")
@click.option("--program", help="The `sparsync` that they run; without it, that of this interpreter.")
@_where
def install(
    role: str,
    instance: int,
    coordinator: str,
    name: str | None,
    host: str | None,
    device: str | None,
    script: str,
    user: str,
    program: str | None,
    root: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write unit, environment files and directories of a role; starts nothing.

    Units are written anew each time. Environment files and run.toml are yours: they are written once, and kept.
    """
    from sparsync.node.install import install as put
    from sparsync.node.plan import Node, refuse_hidden

    machine = name or _host_name()
    found = program or _own_program()
    refuse_hidden(found, *(() if program else _behind()))
    chosen = Node(
        role,
        name=machine,
        host=host or machine,
        instance=instance,
        coordinator=coordinator,
        device=device or f"cuda:{instance}",
        script=script,
        user=user,
        program=found,
    )
    _tell(put(chosen, root=root, dry=dry_run), chosen.commands, as_json=as_json, dry=dry_run)


@node.command()
@click.option("--purge", is_flag=True, help="Configuration, keys, runs, shards and caches too.")
@_where
def remove(purge: bool, root: Path, dry_run: bool, as_json: bool) -> None:
    """Take all units of Sparsync off this machine, after `systemctl disable --now`."""
    from sparsync.node.install import remove as take

    done = take(root=root, purge=purge, dry=dry_run)
    _tell(done, ["systemctl daemon-reload"], as_json=as_json, dry=dry_run)


def _host_name() -> str:
    import socket

    return socket.gethostname().partition(".")[0]


def _own_program() -> str:
    """The `sparsync` beside the running interpreter. Raises: NoInput."""
    import sys

    from wire.errors import NoInput

    program = Path(sys.executable).parent / "sparsync"
    if not program.is_file():
        raise NoInput(f"{program}: there is no `sparsync` beside this interpreter; name one with --program")
    return str(program)


def _behind() -> Sequence[Path]:
    """What the program needs beside itself: the interpreter, and where our packages lie."""
    import sys

    return Path(sys.executable).resolve(), Path(__file__).resolve()


def _tell(done: Sequence[Done], commands: Sequence[str], *, as_json: bool, dry: bool) -> None:
    if as_json:
        paths = [{"path": str(d.path), "what": d.what, "why": d.why} for d in done]
        click.echo(json.dumps({"dry_run": dry, "paths": paths, "commands": list(commands)}, indent=2))
        return
    for d in done:
        click.echo(f"{d.what:<8} {d.path}{f'  ({d.why})' if d.why else ''}")
    click.echo("nothing was changed (--dry-run); then:" if dry else "then, as root:", err=True)
    for command in commands:
        click.echo(f"  {command}", err=True)
