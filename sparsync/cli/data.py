"""`sparsync data list` and `prepare`: corpora by name, and the tokens that a run trains on."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def data() -> None:
    """List and prepare corpora."""


@data.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="A JSON array of corpora.")
def list_corpora(as_json: bool) -> None:
    """Show the corpora that go by a name; `data.source` also takes a path to text."""
    from sparsync.lm.corpus import CORPORA

    rows = [{"name": c.name, "description": c.description, "licence": c.licence} for c in CORPORA.values()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']:<10} {row['description']} ({row['licence']})")
    click.echo("Any text file or directory works as well: sparsync data prepare PATH", err=True)


@data.command()
@click.argument("source", default="stdlib")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where tokens are kept (data.cache_dir).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def prepare(source: str, cache_dir: Path | None, as_json: bool) -> None:
    """Turn SOURCE (a corpus, or a file or directory of text) into token files; prints their digest."""
    from sparsync.lm.corpus import prepare as prepare_tokens

    prepared = prepare_tokens(source, cache_dir)
    if as_json:
        click.echo(json.dumps(prepared.as_json(), indent=2))
        return
    click.echo(f"source      {prepared.source}, {prepared.documents} documents")
    click.echo(f"train       {prepared.train_tokens:>12,} tokens  {prepared.train}")
    click.echo(f"validation  {prepared.val_tokens:>12,} tokens  {prepared.val}")
    click.echo(f"digest      {prepared.digest}")
    click.echo("found in the cache, intact" if prepared.reused else "prepared now", err=True)
