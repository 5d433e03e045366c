"""`sparsync bench codec`, `wire` and `modes`: how fast codecs, data path and whole runs are on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sparsync.cli.bench_modes import modes

if TYPE_CHECKING:
    from sparsync.bench.report import Table

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def bench() -> None:
    """Measure this machine: codecs, the way of a gradient to the servers and back, modes beside baselines."""


bench.add_command(modes)


def result_options(command: Command) -> Command:
    """`--json`, `--out`, `--rounds`, `--quick`, passed as `as_json`, `out`, `rounds`, `quick`."""
    for option in (
        click.option("--quick", is_flag=True, help="Seconds instead of minutes; to see that it works."),
        click.option(
            "--rounds", type=click.IntRange(min=1), help="How often everything is measured in turn."
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path, file_okay=False),
            help="Write NAME.json and NAME.html there.",
        ),
        click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output."),
    ):
        command = option(command)
    return command


def say(text: str) -> None:
    """Talk, which is never data."""
    click.echo(text, err=True)


def hand_over(
    result: Mapping[str, Any], tables: Iterable[Table], html: str, *, out: Path | None, as_json: bool
) -> None:
    """The result to standard output, as JSON or as tables, and into `out`. Raises: UsageError."""
    from sparsync.bench.report import text_table, write

    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo("\n\n".join("\n".join(text_table(table)) for table in tables))
    if out is not None:
        for path in write(out, result["benchmark"], result, html):
            say(f"written: {path}")


@bench.command()
@click.option("--mb", metavar="MB[,MB…]", help="Sizes in MB of float32 (32).")
@click.option(
    "--codec",
    "patterns",
    metavar="NAME",
    multiple=True,
    help="A codec, or a pattern with *, such as 'topk-64-*'; may be repeated. Without it, all.",
)
@click.option(
    "--input",
    "kind",
    type=click.Choice(["updates", "gradients", "gaussian"]),
    default="updates",
    show_default=True,
    help="Differences of the default model over some steps, its gradients, or random numbers.",
)
@click.option(
    "--data", "source", default="stdlib", show_default=True, help="What it is trained on (data.source)."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of training and numbers."
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads to encode with."
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the planes lie, and who encodes.",
)
@result_options
def codec(
    mb: str | None,
    patterns: tuple[str, ...],
    kind: str,
    source: str,
    seed: int,
    threads: int,
    device: str,
    as_json: bool,
    out: Path | None,
    rounds: int | None,
    quick: bool,
) -> None:
    """Encode and decode real pseudo-gradients with each codec, beside a copy of memory and torch.topk."""
    from sparsync.bench.cases import QUICK, chosen

    cases = chosen(patterns or (QUICK if quick else ()), device=device)
    sizes = megabytes(mb or ("4" if quick else "32"))
    from sparsync.bench import codec_report
    from sparsync.bench.codec import Options, measure
    from sparsync.bench.load import whole_blocks

    options = Options(
        sizes=tuple(whole_blocks(size) for size in sizes),
        cases=cases,
        rounds=rounds or (2 if quick else 5),
        kind=kind,
        source=source,
        seed=seed,
        threads=threads,
        device=device,
        quick=quick,
    )
    result = measure(options, say)
    hand_over(result, codec_report.tables(result), codec_report.html(result), out=out, as_json=as_json)


def megabytes(text: str) -> list[float]:
    """The sizes in a list with commas. Raises: UsageError."""
    from wire.errors import UsageError

    try:
        sizes = [float(word) for word in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(0 < size < 1e6 for size in sizes):
        raise UsageError(f"--mb {text}: expected megabytes above 0 and below a million, such as 32 or 13,128")
    return sizes


@bench.command()
@click.option("--mb", type=click.FloatRange(min=1), help="Size of the model in MB of float32 (64).")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Workers, or clients."
)
@click.option("--servers", type=click.IntRange(min=1), default=1, show_default=True, help="Servers.")
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    type=click.Choice(["dense", "topk"]),
    help="Codec of both ways; may be repeated. Without it: dense and topk.",
)
@click.option(
    "-s",
    "--set",
    "overrides",
    metavar="section.key=value",
    multiple=True,
    help="A key of the runs' configuration.",
)
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Of each measurement (5).")
@result_options
def wire(
    mb: float | None,
    workers: int,
    servers: int,
    codecs: tuple[str, ...],
    overrides: tuple[str, ...],
    seconds: float | None,
    as_json: bool,
    out: Path | None,
    rounds: int | None,
    quick: bool,
) -> None:
    """Push and pull a model through real processes, against bare grpc.aio streams in the same rounds.

    Starts whole clusters on this machine, whose gradients cost nothing; nothing else should run meanwhile.
    """
    from sparsync.bench import wire_report
    from sparsync.bench.load import whole_blocks
    from sparsync.bench.wire import Options, measure

    options = Options(
        size=whole_blocks(mb or (4 if quick else 64)),
        workers=workers,
        servers=servers,
        codecs=codecs or (("dense",) if quick else ("dense", "topk")),
        settings=overrides,
        seconds=seconds or (1.0 if quick else 5.0),
        rounds=rounds or (1 if quick else 3),
        quick=quick,
    )
    result = measure(options, say)
    tables = [wire_report.speed(result), wire_report.accounting(result), wire_report.phases(result)]
    hand_over(result, tables, wire_report.html(result), out=out, as_json=as_json)
