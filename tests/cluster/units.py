"""Machines of a test's own, and units of systemd run on them by hand.

A machine is a network namespace and a directory with its /etc and /var, which the processes of its units see in
place of the host's. What a unit says is done as systemd does it, as far as its ExecStart needs: specifiers, environment
files, credentials, the notification socket. Its sandbox is not set up: `systemd-analyze` looks at that.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparsync.node.install import install
from sparsync.node.plan import Node

PROGRAM = str(Path(sys.executable).parent / "sparsync")
SPANS = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}
HOST_FILES = ("passwd", "group", "nsswitch.conf", "ld.so.cache", "localtime", "services", "protocols")
OWN = ("etc", "var/lib", "var/cache")
POLL_S = 0.05


def words_of(line: str, environ: Mapping[str, str]) -> list[str]:
    """A command line as systemd takes it: `${X}` stays within a word, a word `$X` becomes as many as it holds."""
    words: list[str] = []
    for word in shlex.split(line):
        if found := re.fullmatch(r"\$(\w+)", word):
            words += shlex.split(environ.get(found[1], ""))
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda m: environ.get(m[1], ""), word))
    return words


@dataclass
class Unit:
    """A service that runs: its process, and what its service manager was told."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    _line: socket.socket
    _heard: list[str] = field(default_factory=list)

    @property
    def heard(self) -> list[str]:
        """Every message so far."""
        while True:
            try:
                self._heard.append(self._line.recv(8192).decode())
            except BlockingIOError:
                return self._heard

    def told(self, key: str) -> list[str]:
        """Values of a key, in order."""
        lines = [line.partition("=") for message in self.heard for line in message.splitlines()]
        return [value for found, _, value in lines if found == key]

    def wait_told(self, key: str, fits: Callable[[str], object] = bool, *, limit_s: float = 200.0) -> str:
        """The first value that fits. Fails when the process ends without it, or time is up."""
        deadline = time.monotonic() + limit_s
        while True:
            over = self.process.poll() is not None or time.monotonic() > deadline
            if (found := next(filter(fits, self.told(key)), None)) is not None:
                return found
            assert not over, f"{self.name} has told nothing such of {key}: {self.story()}"
            time.sleep(POLL_S)

    def wait_more(self, key: str, *, limit_s: float = 60.0) -> None:
        """Until it has told of a key once more."""
        known, deadline = len(self.told(key)), time.monotonic() + limit_s
        while len(self.told(key)) == known:
            assert time.monotonic() < deadline, f"{self.name} has told no more of {key}: {self.story()}"
            time.sleep(POLL_S)

    def wait_ended(self, *, limit_s: float = 60.0) -> int:
        """Its exit code."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended in {limit_s:g} s: {self.story()}") from None

    def story(self) -> str:
        log = self.log.read_text(errors="replace")[-3000:]
        return f"exit code {self.process.poll()}, told {self.heard[-5:]}\n{log}"

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
        self._line.close()


class Machine:
    """One of them.

    Args:
        name: as the others dial it.
        within: words that enter its network namespace.
        hosts: addresses of all machines by name.
    """

    def __init__(
        self, name: str, directory: Path, *, within: Sequence[str], hosts: Mapping[str, str]
    ) -> None:
        self.name = name
        self.root = directory
        self._within = within
        self.units: dict[str, Unit] = {}
        self._starts = itertools.count()
        for part in OWN:
            (directory / part).mkdir(parents=True)
        for file in HOST_FILES:
            if Path("/etc", file).exists():
                shutil.copy(Path("/etc", file), directory / "etc" / file)
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in hosts.items())]
        (directory / "etc" / "hosts").write_text("\n".join(lines) + "\n")

    def install(self, role: str, **options: object) -> None:
        """As `sparsync node install` does."""
        node = Node(role, name=self.name, host=self.name, program=PROGRAM, **options)  # type: ignore[arg-type]
        install(node, root=self.root)

    # --- what runs here ------------------------------------------------------------------

    def start(self, name: str, environ: Mapping[str, str]) -> Unit:
        """Run the ExecStart of a unit, such as `sparsync-ps@0.service`."""
        stem, _, instance = name.removesuffix(".service").partition("@")
        file = f"{stem}@.service" if instance else name
        text = (self.root / "etc/systemd/system" / file).read_text()
        specifiers = {
            "%i": instance,
            "%S": "/var/lib",
            "%C": "/var/cache",
            "%d": str(self._credentials(name)),
        }
        for specifier, value in specifiers.items():
            text = text.replace(specifier, value)
        settings = [tuple(line.split("=", 1)) for line in text.splitlines() if re.match(r"\w+=", line)]
        self._load(settings, self._credentials(name))
        own = self._environment(settings)
        line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        start = f"{name}.{next(self._starts)}"
        address = self.root / f"{start}.socket"
        line.bind(str(address))
        line.setblocking(False)
        (command,) = (value for key, value in settings if key == "ExecStart")
        (watchdog,) = (value for key, value in settings if key == "WatchdogSec")
        own |= {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": str(round(seconds(watchdog) * 1e6))}
        log = self.root / f"{start}.log"
        with log.open("wb") as told:
            process = subprocess.Popen(
                self.entering(*words_of(command, own)),
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=subprocess.STDOUT,
                env={**environ, **own},
                cwd="/",
                start_new_session=True,
            )
        if name in self.units:
            self.units[name].close()
        self.units[name] = Unit(f"{self.name} {name}", process, log, line)
        return self.units[name]

    def entering(self, *command: str) -> list[str]:
        """The words that run a command here: the process that they start becomes the command's own."""
        mounts = [f"mount --bind {shlex.quote(str(self.root / part))} /{part}" for part in OWN]
        script = " && ".join(["mount --make-rprivate /", *mounts, 'WATCHDOG_PID=$$ exec "$@"'])
        return [*self._within, "unshare", "--mount", "sh", "-c", script, "sh", *command]

    def run(
        self, *command: str, environ: Mapping[str, str], limit_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            self.entering(*command),
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def lose(self) -> None:
        """Every process here is killed at once, and nothing comes out of it any more."""
        for unit in self.units.values():
            if unit.process.poll() is None:
                os.killpg(unit.process.pid, signal.SIGKILL)

    def close(self) -> None:
        for unit in self.units.values():
            unit.close()

    # --- what systemd does ----------------------------------------------------------------

    def _credentials(self, name: str) -> Path:
        return self.root / "run/credentials" / name

    def _load(self, settings: Sequence[tuple[str, ...]], directory: Path) -> None:
        """LoadCredential: copies that this service alone can read."""
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, mode=0o700)
        for key, value in settings:
            if key == "LoadCredential":
                credential, _, path = value.partition(":")
                shutil.copy(self.root / path.lstrip("/"), directory / credential)
                (directory / credential).chmod(0o400)

    def _environment(self, settings: Sequence[tuple[str, ...]]) -> dict[str, str]:
        """Environment, then EnvironmentFile, which goes before it."""
        pairs = [p for key, value in settings if key == "Environment" for p in shlex.split(value)]
        for key, value in settings:
            if key == "EnvironmentFile":
                lines = (self.root / value.lstrip("/")).read_text().splitlines()
                pairs += [line for line in lines if line and not line.startswith("#")]
        return dict(pair.split("=", 1) for pair in pairs)


def seconds(span: str) -> float:
    """Of a time span such as `10min`."""
    found = re.fullmatch(r"(\d+)([a-z]*)", span)
    assert found is not None, span
    return int(found[1]) * SPANS[found[2]]
