"""`sparsync set`, `drain`, `checkpoint` and `stop`: steer a live run, or end it, through its coordinator."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparsync.cli.security import SecurityFlags, security_options
from sparsync.cli.which_run import TIMEOUT_S, address_of, ask, coordinator_option, run_options

if TYPE_CHECKING:
    from sparsync.control import Control

LOOK_EVERY_S = 0.3
CHECKPOINT_S = 600.0


@click.command(options_metavar="[OPTIONS]")
@click.argument("words", nargs=-1, required=True, metavar="[RUN_DIR] section.key=value…")
@coordinator_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object: changed.")
@security_options
def set(words: Sequence[str], coordinator: str | None, as_json: bool, security: SecurityFlags) -> None:
    """Change the pace of a live run, as in: sparsync set runs/NAME sync.mode=ssp sync.staleness=2

    Live are sync.mode, sync.staleness, sync.quorum and sync.deadline_s. All settings are changed or none.
    """
    run_dir, settings = parse_words(words)

    async def change(control: Control) -> tuple[dict[str, Any], dict[str, str]]:
        before = await control.status(timeout_s=TIMEOUT_S)
        return before, await control.set(settings, timeout_s=TIMEOUT_S)

    before, changed = ask(address_of(run_dir, coordinator), security.resolve(run_dir=run_dir), change)
    if as_json:
        click.echo(json.dumps({"changed": changed}))
    else:
        click.echo("\n".join(changed_lines(before, changed)), err=True)


@click.command()
@click.argument("name", metavar="NAME")
@run_options
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait until the worker is out of the run."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: name, incarnation, and how it left.")
@security_options
def drain(
    name: str,
    run_dir: Path | None,
    coordinator: str | None,
    wait: bool,
    as_json: bool,
    security: SecurityFlags,
) -> int:
    """Have the worker NAME hand over what it does and end. The run goes on with the others."""
    from sparsync.watch import watch_leave

    async def ask_to_leave(control: Control) -> tuple[int, Mapping[str, Any] | None]:
        incarnation = await control.drain(name, timeout_s=TIMEOUT_S)
        if not as_json:
            click.echo(f"{name} is asked to leave", err=True)
        if not wait:
            return incarnation, None
        return incarnation, await watch_leave(control, incarnation, interval_s=LOOK_EVERY_S)

    incarnation, worker = ask(
        address_of(run_dir, coordinator), security.resolve(run_dir=run_dir), ask_to_leave
    )
    left = {key: worker.get(key) for key in ("state", "gone", "units")} if worker is not None else {}
    if as_json:
        click.echo(json.dumps({"name": name, "incarnation": incarnation, **left}))
    elif left:
        click.echo(gone_line(name, left), err=True)
    return 1 if left.get("state") == "dead" else 0


@click.command()
@run_options
@click.option(
    "--timeout",
    "timeout_s",
    metavar="S",
    type=click.FloatRange(min=0.1),
    default=CHECKPOINT_S,
    show_default=True,
    help="Wait no longer; the checkpoint is written all the same.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: step, path.")
@security_options
def checkpoint(
    run_dir: Path | None, coordinator: str | None, timeout_s: float, as_json: bool, security: SecurityFlags
) -> None:
    """Write a checkpoint of a live run at its next boundary, and wait until it is whole on disk. The run goes on."""
    step, path = ask(
        address_of(run_dir, coordinator),
        security.resolve(run_dir=run_dir),
        lambda control: control.checkpoint(timeout_s=timeout_s),
    )
    if as_json:
        click.echo(json.dumps({"step": step, "path": path}))
    else:
        click.echo(f"checkpoint of step {step}: {path}", err=True)


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
    at_step = ask(
        address_of(run_dir, coordinator),
        security.resolve(run_dir=run_dir),
        lambda control: control.stop(reason, timeout_s=TIMEOUT_S),
    )
    if as_json:
        click.echo(json.dumps({"at_step": at_step}))
    else:
        click.echo(f"the run ends after step {at_step}, with a checkpoint if any step is closed", err=True)


def parse_words(words: Sequence[str]) -> tuple[Path | None, dict[str, str]]:
    """The run directory, which may come first, and the settings. Raises UsageError."""
    from wire.errors import UsageError

    run_dir = None
    if "=" not in words[0] or Path(words[0]).is_dir():
        run_dir, words = Path(words[0]), words[1:]
    settings: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"{word}: expected section.key=value, as in sync.mode=async")
        if key in settings:
            raise UsageError(f"{key} is given twice, as {settings[key]} and {value}; give it once")
        settings[key] = value
    if not settings:
        raise UsageError("nothing to set; expected section.key=value, as in sync.mode=async")
    return run_dir, settings


def changed_lines(before: Mapping[str, Any], changed: Mapping[str, str]) -> list[str]:
    """What Set changed, in words. `before`: the status of just before."""
    if not changed:
        return ["nothing changes: the run has these settings already"]
    known = {"sync.mode": f"{before.get('mode')} -> "}
    return [f"{key}: {known.get(key, '')}{changed[key]}, from the next boundary on" for key in changed]


def gone_line(name: str, left: Mapping[str, Any]) -> str:
    """How a worker that was asked to leave is out of the run. `left`: of its status entry."""
    from sparsync.quantities import show

    ways = {"dead": "died while it was leaving", "left": "has left"}
    if left["state"] not in ways:
        return f"the run ended before {name} was out of it"
    why = f": {show(left['gone'])}" if left["gone"] else ""
    return f"{name} {ways[left['state']]}{why}; {show(left['units'])} units computed"
