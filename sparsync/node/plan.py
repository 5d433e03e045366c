"""What belongs on a machine that runs one role: units, environment files, directories, places of certificates.

Units and their like are the files in `systemd/`, with the program and the user put in; they are Sparsync's, and
written anew by every installation. Environment files and run.toml are the machine's: they are written once and kept.
Everything is decided here; `install` touches the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from wire.errors import UsageError

SHIPPED = Path(__file__).parent / "systemd"
PROGRAM, USER = "/opt/sparsync/bin/sparsync", "sparsync"
"""As the shipped files have them."""
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What a service does not see (ProtectHome, PrivateTmp)."""

UNITS = PurePosixPath("/etc/systemd/system")
CONFIG = PurePosixPath("/etc/sparsync")
KEPT = (CONFIG, PurePosixPath("/var/lib/sparsync"), PurePosixPath("/var/cache/sparsync"))
"""Configuration, keys, runs and shards, caches: `node remove --purge` takes them too."""
PEMS = ("ca.pem", "cert.pem", "key.pem")
CRL = CONFIG / "crl.pem"
COORDINATOR_PORT, FIRST_PS_PORT = 7700, 7701

UNIT_OF = {
    "coordinator": "sparsync-coordinator.service",
    "ps": "sparsync-ps@.service",
    "worker": "sparsync-worker@.service",
}
OURS = {
    "sparsync.target": UNITS / "sparsync.target",
    "sparsync.slice": UNITS / "sparsync.slice",
    "sparsync.sysusers.conf": PurePosixPath("/etc/sysusers.d/sparsync.conf"),
    "sparsync.tmpfiles.conf": PurePosixPath("/etc/tmpfiles.d/sparsync.conf"),
}
"""Shipped files that every role needs, and where they go."""


@dataclass(frozen=True)
class Node:
    """One role on one machine.

    Attributes:
        instance: which of several servers or workers; a coordinator has none.
        name: of the machine, as in its certificates: its processes are `NAME.ps0`, `NAME.w0`.
        host: how the others dial it.
        coordinator: host:port.
        script: the worker's script and its arguments; empty: the built-in trainer.
    """

    role: str
    name: str
    host: str
    instance: int = 0
    coordinator: str = ""
    device: str = ""
    script: str = ""
    user: str = USER
    program: str = PROGRAM

    def __post_init__(self) -> None:
        """Raises: UsageError."""
        if self.role != "coordinator" and not self.coordinator:
            raise UsageError(
                f"--role {self.role} needs --coordinator HOST:PORT, where the coordinator serves"
            )
        if not PurePosixPath(self.program).is_absolute():
            raise UsageError(f"--program {self.program}: expected an absolute path")
        if any(
            "\n" in value or '"' in value for value in (self.host, self.coordinator, self.device, self.script)
        ):
            raise UsageError(
                "a line break or a double quote cannot stand in an environment file; leave it out"
            )

    @property
    def unit(self) -> str:
        """The unit that runs it, with its instance."""
        return UNIT_OF[self.role].replace("@.", f"@{self.instance}.")

    @property
    def tls(self) -> PurePosixPath:
        """Directory of its PEM files."""
        return CONFIG / "tls" / self.role

    @property
    def certificates(self) -> list[PurePosixPath]:
        """What an authority gives it; the coordinator also needs the list of the revoked, empty as that may be."""
        return [*(self.tls / name for name in PEMS), *([CRL] if self.role == "coordinator" else [])]

    @property
    def commands(self) -> list[str]:
        """What is left to do, as root."""
        users = [f"systemd-sysusers {OURS['sparsync.sysusers.conf']}"] if self.user == USER else []
        return [
            *users,
            f"systemd-tmpfiles --create {OURS['sparsync.tmpfiles.conf']}",
            "systemctl daemon-reload",
            f"systemctl enable --now sparsync.target {self.unit}",
        ]


@dataclass(frozen=True)
class Wanted:
    """A file, or a directory where `text` is None. `ours`: written anew where it differs."""

    path: PurePosixPath
    text: str | None
    mode: int
    ours: bool = field(default=True)


def wanted(node: Node) -> Iterator[Wanted]:
    """Everything that belongs on the machine for this role, in the order in which it is made."""
    yield Wanted(CONFIG, None, 0o755)
    yield Wanted(CONFIG / "tls", None, 0o700)
    yield Wanted(node.tls, None, 0o700)
    for name, path in {UNIT_OF[node.role]: UNITS / UNIT_OF[node.role], **OURS}.items():
        if name != "sparsync.sysusers.conf" or node.user == USER:  # another user is there already
            yield Wanted(path, shipped(name, node), 0o644)
    for path, text in _settings(node):
        yield Wanted(path, text, 0o644, ours=False)


def shipped(name: str, node: Node) -> str:
    """A shipped file with this machine's program and user."""
    text = (SHIPPED / name).read_text(encoding="utf-8")
    return text.replace(PROGRAM, node.program).replace(f"\nUser={USER}\n", f"\nUser={node.user}\n")


def _settings(node: Node) -> Iterator[tuple[PurePosixPath, str]]:
    """The machine's own files."""
    if node.role == "coordinator":
        yield CONFIG / "coordinator.env", _COORDINATOR.format(node=node, port=COORDINATOR_PORT, CRL=CRL)
        yield CONFIG / "run.toml", _RUN
        return
    yield CONFIG / f"{node.role}.env", _SHARED.format(node=node)
    own = _PS if node.role == "ps" else _WORKER
    yield (
        CONFIG / f"{node.role}-{node.instance}.env",
        own.format(node=node, port=FIRST_PS_PORT + node.instance),
    )


_COORDINATOR = """\
# Read by sparsync-coordinator.service; after a change: systemctl restart sparsync-coordinator
SPARSYNC_LISTEN=0.0.0.0:{port}
# What the others dial.
SPARSYNC_ADVERTISE={node.host}:{port}
# Directory of the run, below /var/lib/sparsync/runs. Another run: another name.
SPARSYNC_RUN=first
# More options of `sparsync coordinator`, as --metrics 0.0.0.0:PORT.
# The list of revoked certificates is looked at each second.
SPARSYNC_OPTIONS=--tls-crl {CRL}
"""

_RUN = """\
# The run: what differs from the defaults (sparsync config show). Read when a run begins.
[cluster]
servers = 2
workers = 2
"""

_SHARED = """\
# Read by every {node.role} of this machine; after a change: systemctl restart 'sparsync-{node.role}@*'
SPARSYNC_COORDINATOR={node.coordinator}
# Name of this machine, as in its certificate; its processes are NODE.ps0, NODE.w0 and so on.
SPARSYNC_NODE={node.name}
# More options of `sparsync {node.role}`.
SPARSYNC_OPTIONS=
"""

_PS = """\
# Read by sparsync-ps@{node.instance}.service
SPARSYNC_LISTEN=0.0.0.0:{port}
# What the others dial.
SPARSYNC_ADVERTISE={node.host}:{port}
# Metrics of this one, on a port of its own:
# SPARSYNC_TELEMETRY__METRICS=0.0.0.0:PORT
"""

_WORKER = """\
# Read by sparsync-worker@{node.instance}.service
SPARSYNC_DEVICE={node.device}
# Script and arguments, on this machine's own disk and not below /home; nothing: the built-in trainer.
SPARSYNC_SCRIPT={node.script}
# Metrics of this one, on a port of its own:
# SPARSYNC_TELEMETRY__METRICS=0.0.0.0:PORT
"""


def refuse_hidden(program: str, *behind: Path) -> None:
    """Checks that a service can see the program, and what is behind it (interpreter, packages).

    Raises: UsageError.
    """
    for path in (program, *map(str, behind)):
        for hidden in HIDDEN:
            if PurePosixPath(path).is_relative_to(hidden):
                raise UsageError(
                    f"{path} is below {hidden}, which services do not see; install Sparsync into a virtual environment "
                    "elsewhere, as in python3 -m venv /opt/sparsync, or name a program there with --program"
                )
