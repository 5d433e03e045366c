"""`sparsync chaos`: seeded faults in a live run on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparsync.cli.amounts import DURATION, SIZE
from sparsync.faults.plan import KINDS, ROLES

if TYPE_CHECKING:
    from sparsync.faults.outcome import Struck

DEFAULT_KINDS = "kill,stop"
SEEDS = 1_000_000


def several(names: Sequence[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Words with commas between them, each out of `names`."""

    def check(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
        words = [word.strip() for word in value.split(",")]
        if unknown := [word for word in words if word not in names]:
            expected = ", ".join(names)
            raise click.BadParameter(f"{unknown[0]!r} is unknown; expected some of {expected}", ctx, param)
        return words

    return check


def list_points(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the table of crash points, and end."""
    if value:
        from wire.crash import POINTS

        width = max(map(len, POINTS))
        click.echo("\n".join(f"{name:<{width}}  {meaning}" for name, meaning in POINTS.items()))
        ctx.exit()


@click.command()
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path(path_type=Path))
@click.option("--seed", type=int, help="Of who is struck, how and when; without it one is drawn and printed.")
@click.option(
    "--every", "every_s", type=DURATION, default="10s", show_default=True, help="One fault in each such time."
)
@click.option(
    "--for", "for_s", type=DURATION, help="How long, as in 5m; without it, until the run or you end it."
)
@click.option(
    "--kinds",
    metavar="KIND,…",
    default=DEFAULT_KINDS,
    show_default=True,
    callback=several(tuple(KINDS)),
    help=f"Out of {', '.join(KINDS)}. partition cuts a `sparsync proxy` that stands in front of a server or the "
    "coordinator, and is refused where there is none.",
)
@click.option(
    "--roles",
    metavar="ROLE,…",
    default="worker",
    show_default=True,
    callback=several(ROLES),
    help=f"Whom to strike, out of {', '.join(ROLES)}.",
)
@click.option("--ballast-limit", type=SIZE, help="For disk: bytes that may be filled, as in 64M.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end: faults, deaths, stalls.")
@click.option(
    "--list-crash-points",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=list_points,
    help="Print the places where SPARSYNC_CRASH=NAME kills a process, and end.",
)
def chaos(
    run_dir: Path,
    seed: int | None,
    every_s: float,
    for_s: float | None,
    kinds: list[str],
    roles: list[str],
    ballast_limit: float | None,
    as_json: bool,
) -> None:
    """Strike the processes of the live run RUN_DIR on this machine, one fault at a time, and tell what came of it.

    The same seed gives the same kinds, ranks, moments and durations. What is stopped, cut
    or filled is undone, also when this command is killed.

    partition works only where the run goes through `sparsync proxy`: start its roles by hand, each behind
    one (docs/faults.md). Roles of `sparsync train` have none.
    """
    import random
    import signal

    from sparsync.faults.chaos import Chaos
    from sparsync.faults.outcome import outcome
    from sparsync.faults.plan import Plan
    from sparsync.live import parse_event
    from sparsync.run_directory import RunDirectory
    from wire.clock import utc_timestamp
    from wire.errors import UsageError

    if every_s <= 0:
        raise UsageError("--every: expected more than no time, as in 10s")
    seed = random.randrange(SEEDS) if seed is None else seed
    run = RunDirectory(run_dir.absolute())
    try:
        plan = Plan(seed=seed, kinds=kinds, roles=roles, every_s=every_s)
    except ValueError as error:
        raise UsageError(f"--kinds: {error}") from None
    running = Chaos(
        run,
        plan,
        say=lambda struck: click.echo(line(struck), err=True),
        ballast_limit=int(ballast_limit) if ballast_limit is not None else None,
    )
    running.check()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: running.over.set())
    click.echo(
        f"chaos in {run.path}, seed {seed}: {', '.join(plan.kinds)} of {', '.join(plan.roles)}", err=True
    )
    began = utc_timestamp()
    running.carry_out(for_s)
    ended = utc_timestamp()
    lines = run.events.read_bytes().splitlines() if run.events.exists() else []
    events = [event for told in lines if (event := parse_event(told)) is not None]
    found = {"seed": seed, **outcome(running.struck, events, began=began, ended=ended)}
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo("\n".join(outcome_lines(found)))


def line(struck: Struck) -> str:
    """A fault when it begins."""
    lasts = f" for {struck.lasts_s:.1f} s" if struck.lasts_s else ""
    note = f" ({struck.note})" if struck.note else ""
    return f"{struck.at} {struck.number:>3} {struck.kind:<9} {struck.target or struck.role}{lasts}{note}"


def outcome_lines(found: dict[str, Any]) -> list[str]:
    """What came of it, in words."""
    faults = found["faults"]
    lines = [
        f"{found['struck']} of {len(faults)} faults struck; {found['deaths']} deaths, {found['straggled']} stragglers, "
        f"{found['left']} left, {found['joined']} joined; {found['steps']} steps meanwhile",
    ]
    stalls = [
        f"  {fault['number']:>3} {fault['kind']:<9} {fault['target']}: {_stood(fault['stall_s'])}"
        for fault in faults
        if fault["target"]
    ]
    return [*lines, *stalls, f"again with: --seed {found['seed']}"]


def _stood(stall_s: float | None) -> str:
    return "no step since" if stall_s is None else f"longest time between two steps {stall_s:.2f} s"
