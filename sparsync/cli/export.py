"""`sparsync export`: a checkpoint's model as safetensors for other programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from sparsync.cli.amounts import SIZE


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="RUN_DIR")
@click.option(
    "--step", type=click.IntRange(min=0), help="Of this step; without it, of the newest good checkpoint."
)
@click.option(
    "--published", is_flag=True, help="The published model that workers held, instead of the servers' x."
)
@click.option("--float32", is_flag=True, help="All parameters in float32, as the servers hold them.")
@click.option(
    "--split", type=SIZE, metavar="SIZE", help="At most this much a file, such as 5G, and an index of them."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for model.safetensors; without it, RUN-step-N here.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object: checkpoint, step, model, out, files, bytes."
)
def export(
    source: Path,
    step: int | None,
    published: bool,
    float32: bool,
    split: float | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write the model of a checkpoint as model.safetensors, after every checksum of it was checked.

    RUN_DIR is a run directory, or a checkpoints/step-N of one. Parameters have the dtype that they had in the
    model, and the model's buffers are there too.
    """
    from sparsync.exporting import export as write
    from sparsync.exporting import find_source

    manifest = find_source(source, step=step, say=lambda text: click.echo(text, err=True))
    done = write(
        manifest,
        out or Path(f"{manifest.run}-step-{manifest.step}"),
        model="published" if published else "x",
        float32=float32,
        most_bytes=int(split) if split else None,
    )
    if as_json:
        click.echo(json.dumps({**asdict(done), "checkpoint": str(done.checkpoint), "out": str(done.out)}))
        return
    click.echo(
        f"{done.model} of step {done.step}: {done.tensors} parameters, {done.buffers} buffers", err=True
    )
    click.echo("\n".join(str(done.out / name) for name in done.files))
