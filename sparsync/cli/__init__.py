"""The command line: one click group whose commands are imported when they are called.

Help comes from the table below and from modules that import neither torch, pydantic, grpc
nor numba at their top, so that it answers at once. `main` maps every error to its exit
code: docs/exit-codes.md.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

import click

from sparsync import __version__
from wire.errors import Interrupted, NoInput, NotWritten, PermissionRefused, SparsyncError, UsageError
from wire.telemetry import OWN_LOG, JsonFormatter


class Entry(NamedTuple):
    """Where a command lives (the attribute has the command's name), and its line in the root help."""

    module: str
    summary: str


COMMANDS = {
    "train": Entry("sparsync.cli.train", "Run a whole cluster on this machine."),
    "coordinator": Entry("sparsync.cli.roles", "Run the coordinator in the foreground."),
    "ps": Entry("sparsync.cli.roles", "Run a parameter server in the foreground."),
    "worker": Entry("sparsync.cli.roles", "Run a worker in the foreground."),
    "status": Entry("sparsync.cli.live", "Look at a live run."),
    "top": Entry("sparsync.cli.live", "Watch a live run."),
    "set": Entry("sparsync.cli.steer", "Change the pace of a live run."),
    "drain": Entry("sparsync.cli.steer", "Have a worker leave a live run."),
    "checkpoint": Entry("sparsync.cli.steer", "Write a checkpoint of a live run."),
    "stop": Entry("sparsync.cli.steer", "End a live run, with a checkpoint."),
    "certs": Entry("sparsync.cli.certs", "Issue, renew and revoke certificates."),
    "chaos": Entry("sparsync.cli.chaos", "Strike the processes of a live run."),
    "proxy": Entry("sparsync.cli.proxy", "Put a poor network in front of a role."),
    "report": Entry("sparsync.cli.report", "Tell what became of a run, as one HTML file."),
    "export": Entry("sparsync.cli.export", "Write the model of a checkpoint as safetensors."),
    "trace": Entry("sparsync.cli.trace", "Draw what all roles of a run did, and when."),
    "verify": Entry("sparsync.cli.verify", "Check every checksum of a run or a checkpoint."),
    "bench": Entry("sparsync.cli.bench", "Measure codecs and the data path."),
    "data": Entry("sparsync.cli.data", "List and prepare corpora."),
    "doctor": Entry("sparsync.cli.doctor", "Examine this machine before a role runs on it."),
    "config": Entry("sparsync.cli.config", "Show or check the configuration."),
    "node": Entry("sparsync.cli.node", "Install or remove a machine's services."),
    "completion": Entry("sparsync.cli.completion", "Have a shell complete commands, options and keys."),
}


class LazyGroup(click.Group):
    """A group over `COMMANDS` that imports only the command that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name].module), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


def _dashed(token: str) -> str:
    return token.replace("_", "-")


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _dashed},
)
@click.version_option(__version__, prog_name="sparsync")
def root() -> None:
    """Train one PyTorch model on many machines over ordinary networks."""


def tell(error: SparsyncError) -> None:
    """On standard error, a line for each fault; of a role whose log is JSON, as that."""
    log = logging.getLogger(OWN_LOG)
    as_json = any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)
    for fault in str(error).splitlines():
        if as_json:
            log.log(logging.ERROR if error.exit_code else logging.INFO, "%s", fault)
        else:
            click.echo(f"{'error' if error.exit_code else 'note'}: {fault}", err=True)


def of_a_file(error: OSError) -> SparsyncError | None:
    """What is wrong with a file or directory that was named; None where that is not what went wrong."""
    what = f"{error.filename}: {error.strerror}"
    if error.filename is None:
        return None
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermissionRefused(f"{what}; it must be open to user {os.getuid()}, or be another one")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return NoInput(f"{what}; a path that is given is wrong, or something was removed meanwhile")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NotWritten(f"{what}; make room, or choose another place")
    return None


def _is_role(argv: Sequence[str] | None) -> bool:
    """A role's errors are its own: its exit code decides whether it is started again."""
    words = sys.argv[1:] if argv is None else argv
    return any(word in ("coordinator", "ps", "worker") for word in words[:1])


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The `sparsync` script: runs a command and exits with the code that tells how it ended."""
    sys.exit(run(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code. What is no error of ours goes up with its traceback (exit 1)."""
    try:
        code = root.main(args=argv, prog_name="sparsync", standalone_mode=False)
    except SparsyncError as error:
        tell(error)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return UsageError.exit_code
    except (click.Abort, KeyboardInterrupt):
        return Interrupted.exit_code
    except BrokenPipeError:
        # The reader of a pipe went away; without this, the flush at exit would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if (ours := of_a_file(error)) is None or _is_role(argv):
            raise
        tell(ours)
        return ours.exit_code
    return code if isinstance(code, int) else 0
