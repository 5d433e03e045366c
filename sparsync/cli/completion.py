"""`sparsync completion`: the script with which a shell completes our commands, options, choices and keys."""

from __future__ import annotations

import click

VARIABLE = "_SPARSYNC_COMPLETE"
"""Where click looks for what a shell asks."""
USE = {
    "bash": 'eval "$(sparsync completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(sparsync completion zsh)" in ~/.zshrc',
    "fish": "sparsync completion fish > ~/.config/fish/completions/sparsync.fish",
}


@click.command(epilog="\b\n" + "\n".join(f"{shell:<5} {line}" for shell, line in USE.items()))
@click.argument("shell", type=click.Choice(list(USE)))
def completion(shell: str) -> None:
    """Print the script with which SHELL completes our commands, options, choices and keys of the configuration."""
    from click.shell_completion import get_completion_class

    from sparsync.cli import root

    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(root, {}, "sparsync", VARIABLE).source())
