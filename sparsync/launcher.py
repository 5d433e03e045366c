"""`sparsync train`: a launch becomes a cluster, and what is said before and after it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from sparsync.cluster import Cluster
from sparsync.launch_plan import COORDINATOR, Launch, create_run, error_with_code, prepare_data
from sparsync.live import Display, open_display, parse_event
from sparsync.plot import loss_svg, read_losses
from sparsync.report.page import write_report
from sparsync.report_lines import (
    continue_command,
    quoted,
    real_machine_lines,
    resume_command,
    sample_lines,
    summary_lines,
)
from sparsync.run_directory import RunDirectory, last_error, read_json, write_whole
from wire.config import DEFAULT
from wire.errors import NoInput, SparsyncError


def train(launch: Launch, *, terminal: bool, json_out: bool) -> int:
    """Runs the cluster and reports; returns the exit code. `terminal`: standard output is one.

    Raises: the error that ended the run, with the log that tells more and how to resume.
    """
    kind = launch.config.telemetry.live
    if not launch.command:
        say_data(prepare_data(launch.config), quiet=kind == "off")
    create_run(launch)
    display = open_display(kind, terminal=terminal, json_out=json_out)
    try:
        for line in opening_lines(launch):
            display.note(line)
        cluster = asyncio.run(run_cluster(launch, display))
    finally:
        display.close()
    return finish(launch, cluster, json_out=json_out)


async def run_cluster(launch: Launch, display: Display) -> Cluster:
    """The cluster after its end."""
    cluster = Cluster(launch, display)
    await cluster.run()
    return cluster


# ── what is said before and after ───────────────────────────────────────────────────────────────


def say_data(prepared: dict[str, Any], *, quiet: bool) -> None:
    """One line about what is trained on."""
    if not quiet:
        tokens = f"{prepared['train_tokens']:,} training and {prepared['val_tokens']:,} validation tokens"
        click.echo(f"data       {prepared['source']}: {tokens}, digest {prepared['digest'][:16]}", err=True)


def opening_lines(launch: Launch) -> list[str]:
    """Where things are, and which values of the configuration are not the defaults."""
    config = launch.config
    values = config.model_dump()
    changed = [
        f"{key} = {_value(values, key)}  ({origin})"
        for key, origin in launch.loaded.origins.items()
        if origin != DEFAULT
    ]
    lines = [
        f"run        {launch.run.path.name}",
        f"directory  {quoted(launch.run.path)}",
        f"logs       {quoted(launch.run.logs)}",
        f"roles      1 coordinator, {launch.servers} servers, {config.cluster.workers} workers",
    ]
    if launch.checkpoint is not None:
        lines.append(f"resumes    {quoted(launch.checkpoint.path)}")
    return lines + [f"{'config' if i == 0 else '':<9}  {text}" for i, text in enumerate(changed)]


def _value(values: dict[str, Any], key: str) -> object:
    section, _, name = key.partition(".")
    return values[section][name]


def finish(launch: Launch, cluster: Cluster, *, json_out: bool) -> int:
    """Writes summary, plot and report, tells the user, returns the exit code or raises what ended the run."""
    run, supervisor = launch.run, cluster.supervisor
    if run.events.exists():
        write_plot(run)
    if supervisor.failure is not None:
        report_what_can_be(run)
        raise run_error(launch, cluster)
    summary = complete_summary(run, restarts=supervisor.restarts)
    report_what_can_be(run)
    if summary is None and supervisor.exit_code == 0:
        raise SparsyncError(
            f"the run ended without {run.summary}, which the coordinator writes last; see {run.log(COORDINATOR)}"
        )
    if json_out and summary is not None:
        click.echo(json.dumps(summary))
    for line in closing_lines(launch, summary, interrupted=supervisor.exit_code != 0):
        click.echo(line, err=json_out)
    return supervisor.exit_code


def run_error(launch: Launch, cluster: Cluster) -> SparsyncError:
    """The failure as the error class of its exit code: who, what its log says last, where, and how to go on."""
    failure, run = cluster.supervisor.failure, launch.run
    assert failure is not None
    log = run.log(failure.process)
    said = last_error(log, since=cluster.log_start(failure.process))
    lines = [f"{failure.process} {failure.reason}: {said}", f"its log: {quoted(log)}"]
    if run.newest_checkpoint() is not None:
        lines.append(f"resume from the newest checkpoint: {resume_command(run.path)}")
    return error_with_code(failure.code)("\n".join(lines))


def complete_summary(run: RunDirectory, *, restarts: int) -> dict[str, Any] | None:
    """The coordinator's summary with what only the launcher knows, written back; None where there is none."""
    summary = read_json(run.summary)
    if summary is None:
        return None
    summary |= {"restarts": restarts, "out": str(run.path)}
    write_whole(run.summary, json.dumps(summary, indent=2) + "\n")
    return summary


def write_plot(run: RunDirectory) -> None:
    with run.events.open(encoding="utf-8", errors="replace") as lines:
        losses = read_losses(event for line in lines if (event := parse_event(line)) is not None)
    write_whole(run.plot, loss_svg(losses, title=f"{run.path.name}: loss by step"))


def report_what_can_be(run: RunDirectory) -> None:
    """The report, if there is anything to tell and room for it: how the run ended matters more."""
    try:
        write_report(run)
    except NoInput:
        return
    except SparsyncError as error:
        click.echo(f"no report: {error}", err=True)


def closing_lines(launch: Launch, summary: dict[str, Any] | None, *, interrupted: bool) -> list[str]:
    """The end of the talk: figures, sample, plot, and what to do next."""
    run = launch.run
    lines = ["", *summary_lines(summary)] if summary is not None and summary.get("steps") else []
    if not interrupted and run.sample.exists():
        lines += [
            "",
            f"sample    {quoted(run.sample)}",
            *sample_lines(run.sample.read_text(encoding="utf-8")),
        ]
    if lines and run.plot.exists():
        lines.append(f"plot      {quoted(run.plot)}")
    if lines and run.report.exists():
        lines.append(f"report    {quoted(run.report)}")
    return [*lines, "", *(interrupted_lines(run) if interrupted else next_lines(launch))]


def interrupted_lines(run: RunDirectory) -> list[str]:
    checkpoint = run.newest_checkpoint()
    if checkpoint is None:
        return ["interrupted; there is no checkpoint to resume from"]
    return [f"interrupted after step {checkpoint.step}; resume with:", f"  {resume_command(run.path)}"]


def next_lines(launch: Launch) -> list[str]:
    """How to train further, and how the same roles start on machines of their own."""
    config, run = launch.config, launch.run
    epochs = config.run.epochs
    length = ("run.steps", config.run.steps) if epochs is None else ("run.epochs", epochs)
    machines = real_machine_lines(
        config=run.config,
        servers=launch.servers,
        workers=config.cluster.workers,
        command=[*launch.command],
    )
    return [
        "train it further:",
        f"  {continue_command(run.path, length=length)}",
        "the same roles on machines of their own:",
        *(f"  {line}" for line in machines),
    ]
