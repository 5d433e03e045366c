"""`sparsync coordinator`, `ps` and `worker`: one role in the foreground, as systemd wants it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sparsync import refuse_beside
from sparsync.cli.options import load_config, set_option
from sparsync.cli.place import COORDINATOR_LISTEN, coordinator_of, find_place, listen_of, name_of
from sparsync.cli.security import SecurityFlags, security_options
from sparsync.cli.telemetry import telemetry_options
from wire.telemetry import TelemetryFlags, log_to_stderr

Command = TypeVar("Command", bound=Callable[..., Any])

ANY_PORT_LISTEN = "127.0.0.1:0"


def _end_with(ctx: click.Context, param: click.Parameter, pid: int | None) -> None:
    """Acts while options are parsed, before anything else can take time."""
    if pid is not None:
        from sparsync.orphan_guard import end_with_parent

        end_with_parent(pid)


def common_options(command: Callable[..., int]) -> Callable[..., int]:
    """What every role takes, passed as `data_dir`, `security` and `telemetry`."""
    command = click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="Directory of this process; without it, one named after the role.",
    )(command)
    command = click.option(
        "--parent-pid", type=int, hidden=True, is_eager=True, expose_value=False, callback=_end_with
    )(command)
    return telemetry_options(security_options(command))


def listen_options(default: str | None, shown: str) -> Callable[[Command], Command]:
    """`--listen` and `--advertise`."""

    def add(command: Command) -> Command:
        command = click.option(
            "--advertise", metavar="HOST:PORT", help="Address told to the others, where it is not --listen."
        )(command)
        return click.option(
            "--listen", metavar="HOST:PORT", default=default, show_default=shown, help="Port 0: any free one."
        )(command)

    return add


def coordinator_option(command: Command) -> Command:
    return click.option(
        "--coordinator",
        metavar="HOST:PORT",
        envvar="SPARSYNC_COORDINATOR",
        show_default=f"MASTER_ADDR, or {COORDINATOR_LISTEN}",
        help="Where the coordinator serves.",
    )(
        click.option(
            "--join-timeout",
            "join_timeout_s",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            default=60.0,
            show_default=True,
            help="How long to try to reach it.",
        )(command)
    )


def end_quietly_when_asked() -> None:
    """End with 0 on SIGTERM while the role is still being loaded, before it has a handler of its own.

    At once: nothing was begun, and an exception would end in whichever module is being imported, some of which take
    any for a failure of their own.
    """
    import os
    import signal

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


@click.command()
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="Configuration of the run (TOML)."
)
@set_option
@listen_options(None, COORDINATOR_LISTEN)
@common_options
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Continue a run directory, or a checkpoints/step-N of one.",
)
def coordinator(
    config_file: Path | None,
    overrides: tuple[str, ...],
    listen: str | None,
    advertise: str | None,
    data_dir: Path | None,
    security: SecurityFlags,
    telemetry: TelemetryFlags,
    resume: Path | None,
) -> int:
    """Run the coordinator: it decides who is in the run and what happens next.

    --resume begins a run from the newest good checkpoint; with the same words the next process continues that run.

    SIGTERM and SIGINT end the run, with a checkpoint. SIGUSR1 ends this process alone: the next one on its directory
    continues the run.
    """
    from sparsync.run_directory import run_of
    from wire.rpc.identity import Role

    if resume is not None and config_file is None:
        config_file = run_of(resume).config
    config = load_config(config_file, overrides).config
    secured = security.resolve(config.security)
    secured.name_as(Role.COORDINATOR, None, otherwise="coordinator")
    log_to_stderr("coordinator", "coordinator", form=telemetry.log_format or config.telemetry.log_format)

    from coordinator.runtime import run

    return run(
        config,
        listen=listen_of(listen),
        advertise=advertise,
        data_dir=(data_dir or Path("coordinator-data")).absolute(),
        security=secured,
        telemetry=telemetry,
        resume=resume.absolute() if resume else None,
    )


@click.command()
@coordinator_option
@listen_options(ANY_PORT_LISTEN, ANY_PORT_LISTEN)
@click.option(
    "--name", help="Name in the run; each server has its own. Without it, the certificate's name, or ps-RANK."
)
@common_options
def ps(
    coordinator: str | None,
    join_timeout_s: float,
    listen: str,
    advertise: str | None,
    name: str | None,
    data_dir: Path | None,
    security: SecurityFlags,
    telemetry: TelemetryFlags,
) -> int:
    """Run a parameter server: it holds one shard of the model."""
    end_quietly_when_asked()
    from wire.rpc.identity import Role

    secured = security.resolve()
    log_to_stderr("ps", name or "ps", form=telemetry.log_format)
    place = find_place()
    name = name_of(name, Role.PS, place, secured, otherwise="ps-0")

    from ps.runtime import run

    return run(
        coordinator=coordinator_of(coordinator, place),
        join_timeout_s=join_timeout_s,
        listen=listen,
        advertise=advertise,
        data_dir=(data_dir or Path(name)).absolute(),
        name=name,
        security=secured,
        telemetry=telemetry,
    )


@click.command(context_settings={"allow_interspersed_args": False})
@coordinator_option
@click.option("--device", help="Such as cuda:0 or cpu; without it, CUDA by local rank, else the CPU.")
@click.option(
    "--name", help="Name in the run; without it, the certificate's, worker-RANK, or host and process id."
)
@common_options
@click.argument("script", required=False, type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, metavar="[ARGS]...")
def worker(
    coordinator: str | None,
    join_timeout_s: float,
    device: str | None,
    name: str | None,
    data_dir: Path | None,
    security: SecurityFlags,
    telemetry: TelemetryFlags,
    script: Path | None,
    arguments: tuple[str, ...],
) -> int:
    """Run a worker: SCRIPT with its ARGS on one device, or the built-in language-model trainer."""
    end_quietly_when_asked()
    import os
    import socket

    from wire.errors import NoInput
    from wire.rpc.identity import Role

    if script is not None and not script.is_file():
        raise NoInput(f"{script}: no such script; expected the path of a Python file")
    if script is not None:
        refuse_beside(script.absolute())
    secured = security.resolve()
    log_to_stderr("worker", name or "worker", form=telemetry.log_format)
    place = find_place()
    name = name_of(name, Role.WORKER, place, secured, otherwise=f"{socket.gethostname()}-{os.getpid()}")

    from worker.runtime import run

    return run(
        coordinator=coordinator_of(coordinator, place),
        join_timeout_s=join_timeout_s,
        name=name,
        device=device,
        data_dir=(data_dir or Path(name)).absolute(),
        security=secured,
        telemetry=telemetry,
        script=str(script) if script else None,
        args=list(arguments),
    )
