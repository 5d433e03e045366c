"""Arguments that several commands take, and how they become a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from wire.config import Loaded

Command = TypeVar("Command", bound=Callable[..., Any])


def config_argument(command: Command) -> Command:
    """`[CONFIG.toml]`, passed as `config_file: Path | None`."""
    return click.argument(
        "config_file", metavar="[CONFIG.toml]", required=False, type=click.Path(path_type=Path)
    )(command)


def set_option(command: Command) -> Command:
    """`-s section.key=value`, any number of times, passed as `overrides: tuple[str, ...]`."""
    return click.option(
        "-s",
        "--set",
        "overrides",
        metavar="section.key=value",
        multiple=True,
        shell_complete=complete_key,
        help="Set a key of the configuration; may be repeated.",
    )(command)


def complete_key(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The keys that begin so, for a shell."""
    from wire.config import fields

    return [f"{key}=" for key, _ in fields() if key.startswith(incomplete)]


def load_config(config_file: Path | None, overrides: Sequence[str]) -> Loaded:
    """The configuration of this command line and this environment. Raises ConfigError, NoInput."""
    from wire.config import environment, load

    return load(config_file, overrides, environment())
