"""What the launcher is to run: one command line, checked as a whole before anything is written or started.

`plan_launch` and `prepare_data` find what is wrong; `create_run` makes the run directory; `role_arguments`
and `role_environment` say how each process is called.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsync import refuse_beside
from sparsync.exits import Role
from sparsync.launch_certificates import OPERATOR, check_authority, issue_certificates, security_of
from sparsync.run_directory import (
    Checkpoint,
    RunDirectory,
    error_text,
    find_checkpoint,
    new_run_path,
    read_json,
    refuse_occupied,
    write_whole,
)
from wire.config import ENV_PREFIX, Config, Loaded, environment, load
from wire.errors import DamagedFile, NoInput, SparsyncError, UsageError
from wire.files import own
from wire.rpc.identity import Security

COORDINATOR = "coordinator"
SPARSYNC = (sys.executable, "-P", "-m", "sparsync")
"""-P keeps the current directory off sys.path: a `worker.py` in it must not hide ours."""


ANY_PORT = "127.0.0.1:0"


@dataclass(frozen=True)
class Place:
    """Where a process runs and listens.

    Attributes:
        within: words before its command, such as those that enter a network namespace; they must not fork.
        advertise: the address that the others dial, where it is not `listen`.
    """

    within: tuple[str, ...] = ()
    listen: str = ANY_PORT
    advertise: str | None = None


HERE = Place()


@dataclass(frozen=True)
class Launch:
    """What is to be run, found good.

    Attributes:
        command: the user's script and its arguments, or nothing.
        places: of processes that are not simply `HERE`.
    """

    loaded: Loaded
    run: RunDirectory
    checkpoint: Checkpoint | None
    command: tuple[str, ...]
    places: Mapping[str, Place] = field(default_factory=dict)

    def place(self, process: str) -> Place:
        return self.places.get(process, HERE)

    @property
    def config(self) -> Config:
        return self.loaded.config

    @property
    def security(self) -> Security:
        """How the launcher connects, as an operator."""
        return self.security_of(OPERATOR)

    def security_of(self, process: str) -> Security:
        return security_of(self.config.security, self.run, process)

    @property
    def servers(self) -> int:
        """Server processes: one a shard, and the standbys."""
        return self.config.cluster.servers * (1 + self.config.durability.replicas)

    @property
    def durable(self) -> bool:
        """Whether a shard outlives the process that serves it: in its log, or at its standby."""
        return self.config.durability.ack != "memory" or self.config.durability.replicas > 0

    @property
    def roles(self) -> dict[str, Role]:
        """All processes by name."""
        roles: dict[str, Role] = {COORDINATOR: "coordinator"}
        roles |= {f"ps-{i}": "ps" for i in range(self.servers)}
        return roles | {f"worker-{i}": "worker" for i in range(self.config.cluster.workers)}


# ── before anything is started ──────────────────────────────────────────────────────────────────


def plan_launch(
    config_file: Path | None,
    overrides: Sequence[str],
    *,
    out: Path | None,
    resume: Path | None,
    command: Sequence[str],
) -> Launch:
    """Checks everything that can be wrong with a command line; writes nothing.

    Raises: ConfigError, NoInput, UsageError, DamagedFile, PermissionRefused.
    """
    checkpoint = find_checkpoint(resume) if resume is not None else None
    if checkpoint is not None and config_file is None:
        config_file = checkpoint.run.config
    loaded = load(config_file, overrides, environment())
    check_authority(loaded.config.security)
    if checkpoint is not None:
        refuse_nothing_to_do(checkpoint, loaded.config)
    run = RunDirectory((out or (checkpoint.run.path if checkpoint else new_run_path())).absolute())
    if checkpoint is None or run.path != checkpoint.run.path:
        refuse_occupied(run)
    return Launch(loaded, run, checkpoint, find_command(command, checkpoint))


def refuse_nothing_to_do(checkpoint: Checkpoint, config: Config) -> None:
    """Raises UsageError where the checkpoint is at the run's last step already."""
    if config.run.epochs is None and checkpoint.step >= config.run.steps:
        raise UsageError(
            f"--resume: the checkpoint is of step {checkpoint.step} and run.steps = {config.run.steps}, so nothing "
            f"is left to train; raise it, as in -s run.steps={2 * checkpoint.step}"
        )


def find_command(command: Sequence[str], checkpoint: Checkpoint | None) -> tuple[str, ...]:
    """The script, by its absolute path, and its arguments; on resume without one, those of that run.

    Raises: NoInput, DamagedFile.
    """
    if not command and checkpoint is not None:
        return recorded_command(checkpoint.run)
    if not command:
        return ()
    script = Path(command[0])
    if not script.is_file():
        raise NoInput(f"{script}: no such script; expected the path of a Python file after --")
    refuse_beside(script.absolute())
    return (str(script.absolute()), *command[1:])


def recorded_command(run: RunDirectory) -> tuple[str, ...]:
    """The script and arguments that a run was started with; empty for the built-in trainer."""
    recorded = (read_json(run.command) or {}).get("command", [])
    if not isinstance(recorded, list) or not all(isinstance(word, str) for word in recorded):
        raise DamagedFile(
            f"{run.command}: expected a list of words under `command`; give the script after --"
        )
    return find_command(recorded, None)


def prepare_data(config: Config) -> dict[str, Any]:
    """Token files for the built-in trainer, made by a child, so that neither numpy nor torch are loaded here.

    Raises the child's error.
    """
    arguments = ["data", "prepare", "--json"]
    if config.data.cache_dir is not None:
        arguments += ["--cache-dir", config.data.cache_dir]
    done = subprocess.run(
        [*SPARSYNC, *arguments, "--", config.data.source],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise error_with_code(done.returncode)(error_text(done.stderr.splitlines()))
    prepared = json.loads(done.stdout)
    assert isinstance(prepared, dict)
    return prepared


def error_with_code(code: int) -> type[SparsyncError]:
    """The error class whose exit code is `code`, else the base."""
    return next((c for c in SparsyncError.__subclasses__() if c.exit_code == code), SparsyncError)


def create_run(launch: Launch) -> None:
    """Makes the run directory, or takes over the one that is resumed; that of a live run stays as it is.

    Raises: UsageError where it cannot be made, and while a coordinator works in it.
    """
    from coordinator.aside import put_aside

    run = launch.run
    with own(run.path, COORDINATOR, option="--out"):
        run.logs.mkdir(exist_ok=True)
        if launch.checkpoint is not None:
            put_aside(run.path)  # what our coordinator finds it would continue
        run.address.unlink(missing_ok=True)
        if run.summary.exists():
            run.summary.replace(run.path / "summary.previous.json")
        write_whole(run.config, launch.config.to_toml())
        write_whole(run.command, json.dumps({"command": list(launch.command)}) + "\n")
        issue_certificates(launch.config.security, run, launch.roles)


def forget_shards(launch: Launch) -> None:
    """Removes what servers have left in a directory that is resumed: of an earlier timeline, and perhaps damaged.

    Only once our coordinator serves: then no other run is live there.
    """
    for process, role in launch.roles.items():
        if role == "ps" and launch.checkpoint is not None:
            shutil.rmtree(launch.run.path / process, ignore_errors=True)


# ── how the roles are called ────────────────────────────────────────────────────────────────────


def role_arguments(launch: Launch, process: str, *, address: str | None) -> list[str]:
    """The command line of one process after `sparsync`.

    `address`: the coordinator's. None for itself, unless it is started again: then it goes on, where it served before.
    """
    role, run, place = launch.roles[process], launch.run, launch.place(process)
    flags = [*security_flags(launch.security_of(process)), *telemetry_flags(launch.config)]
    told = ["--advertise", place.advertise] if place.advertise is not None else []
    if role == "coordinator":
        begins = address is None
        resume = ["--resume", str(launch.checkpoint.path)] if launch.checkpoint and begins else []
        listen = address or place.listen
        here = ["--config", str(run.config), "--listen", listen, *told, "--data-dir", str(run.path)]
        return ["coordinator", *here, *resume, *flags]
    assert address is not None
    named = ["--coordinator", address, "--name", process, "--data-dir", str(run.path / process)]
    named += flags
    if role == "ps":
        return ["ps", *named, "--listen", place.listen, *told]
    return ["worker", *named, *launch.command]


def security_flags(security: Security) -> list[str]:
    """The flags from which a role makes the same `security`."""
    if security.insecure:
        return ["--insecure"]
    files = {
        "--tls-ca": security.tls_ca,
        "--tls-cert": security.tls_cert,
        "--tls-key": security.tls_key,
        "--tls-crl": security.tls_crl,
    }
    return [word for flag, path in files.items() if path is not None for word in (flag, str(path))]


def telemetry_flags(config: Config) -> list[str]:
    """What a role has to know of its log before it has joined the run."""
    form = config.telemetry.log_format
    return ["--log-format", form] if form != "text" else []


def role_environment(
    launch: Launch, process: str, *, address: str | None, environ: Mapping[str, str]
) -> dict[str, str]:
    """The environment of one process: ours without the configuration keys, which config.toml holds already."""
    threads = str(launch.config.cluster.compute_threads)
    kept = {k: v for k, v in environ.items() if not (k.startswith(ENV_PREFIX) and "__" in k)}
    kept |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    if address is not None:
        kept["SPARSYNC_COORDINATOR"] = address
    if launch.roles[process] == "worker":
        kept["LOCAL_RANK"] = process.rpartition("-")[2]
    return kept
