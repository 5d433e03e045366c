"""`sparsync train`: a whole cluster on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sparsync.cli.options import config_argument, set_option
from sparsync.cli.telemetry import log_format_option, metrics_option

SEPARATOR = "--"
SCRIPT_KEY = "sparsync.train.script"


class TrainCommand(click.Command):
    """Keeps what follows `--` (the user's script and its arguments) apart from our own arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ours = args
        if SEPARATOR in args:
            at = args.index(SEPARATOR)
            ours, script = args[:at], args[at + 1 :]
            if not script:
                raise click.UsageError("nothing follows --; expected -- SCRIPT [ARGS…]", ctx)
            ctx.meta[SCRIPT_KEY] = tuple(script)
        return super().parse_args(ctx, ours)


@click.command(
    cls=TrainCommand, options_metavar="[OPTIONS]", epilog="After --: SCRIPT [ARGS…], trained instead."
)
@config_argument
@set_option
@click.option("--mode", metavar="MODE", help="Pace of the run (sync.mode).")
@click.option("--workers", type=int, help="Number of workers (cluster.workers).")
@click.option("--servers", type=int, help="Number of parameter servers (cluster.servers).")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; without it, runs/TIME-ID.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Continue a run directory, or a checkpoints/step-N of one.",
)
@log_format_option
@metrics_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, at the end.")
@click.pass_context
def train(
    ctx: click.Context,
    config_file: Path | None,
    overrides: tuple[str, ...],
    mode: str | None,
    workers: int | None,
    servers: int | None,
    out: Path | None,
    resume: Path | None,
    log_format: str | None,
    metrics: str | None,
    as_json: bool,
) -> int:
    """Run a whole cluster on this machine: a coordinator, servers and workers as processes of their own.

    Trains the built-in language model, or the script named after --. Ctrl-C ends
    the run with a checkpoint, from which --resume goes on.
    """
    from sparsync.launch_plan import plan_launch
    from sparsync.launcher import train as run_train

    flags = {
        "sync.mode": mode,
        "cluster.workers": workers,
        "cluster.servers": servers,
        "telemetry.log_format": log_format,
        "telemetry.metrics": metrics,
    }
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    script = ctx.meta.get(SCRIPT_KEY, ())
    launch = plan_launch(config_file, [*given, *overrides], out=out, resume=resume, command=script)
    return run_train(launch, terminal=sys.stdout.isatty(), json_out=as_json)
