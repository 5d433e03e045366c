"""`sparsync config show` and `check`: the effective configuration, and where each value came from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sparsync.cli.options import config_argument, load_config, set_option


@click.group()
def config() -> None:
    """Show or check the configuration."""


@config.command()
@config_argument
@set_option
@click.option("--origin", is_flag=True, help="Tell where each value came from.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: section.key to value and origin.")
@click.option("--markdown", is_flag=True, help="The reference of all keys instead (docs/configuration.md).")
def show(
    config_file: Path | None, overrides: tuple[str, ...], origin: bool, as_json: bool, markdown: bool
) -> None:
    """Print the effective configuration as TOML.

    A value comes from its default, then CONFIG.toml, then the environment
    (SPARSYNC_SECTION__KEY), then -s; the later wins.
    """
    if markdown:
        from sparsync.cli.reference import configuration_page

        click.echo(configuration_page(), nl=False)
        return
    loaded = load_config(config_file, overrides)
    if as_json:
        tree = loaded.config.model_dump(mode="json")
        values = {key: tree[key.partition(".")[0]][key.partition(".")[2]] for key in loaded.origins}
        table = {key: {"value": values[key], "origin": where} for key, where in loaded.origins.items()}
        click.echo(json.dumps(table, indent=2))
    else:
        click.echo(loaded.config.to_toml(loaded.origins if origin else None), nl=False)


@config.command()
@config_argument
@set_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object: good, faults.")
def check(config_file: Path | None, overrides: tuple[str, ...], as_json: bool) -> int:
    """Check a configuration: exit 0 where it is good, 78 with every fault named where it is not."""
    from wire.errors import ConfigError

    try:
        load_config(config_file, overrides)
    except ConfigError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"good": False, "faults": str(error).splitlines()}))
        return error.exit_code
    if as_json:
        click.echo(json.dumps({"good": True, "faults": []}))
    else:
        click.echo("the configuration is good", err=True)
    return 0
