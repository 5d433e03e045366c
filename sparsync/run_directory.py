"""A run directory as the launcher and the read commands see it: names, the newest checkpoint, old runs.

The coordinator owns the directory and writes all but `logs/`, `command.json`, `sample.txt`, `loss.svg`
and `report.html`. A checkpoint counts only with its manifest, which is written last, by a rename.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wire.checkpoint import newest
from wire.clock import utc_timestamp
from wire.errors import DamagedFile, NoInput, UsageError
from wire.telemetry import OWN_LOG

CHECKPOINT_NAME = re.compile(r"step-(\d+)")
TRACES_OF_A_RUN = ("config.toml", "events.jsonl", "summary.json", "checkpoints")
ERROR_PREFIX = "error: "
MAX_ERROR_LINES = 20


@dataclass(frozen=True)
class RunDirectory:
    """The paths inside one run directory."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def command(self) -> Path:
        return self.path / "command.json"

    @property
    def address(self) -> Path:
        return self.path / "address"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def sample(self) -> Path:
        return self.path / "sample.txt"

    @property
    def plot(self) -> Path:
        return self.path / "loss.svg"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def tls(self) -> Path:
        """Certificates of its processes, by their names."""
        return self.path / "tls"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    @property
    def holds_a_run(self) -> bool:
        return any((self.path / name).exists() for name in TRACES_OF_A_RUN)

    def newest_checkpoint(self) -> Checkpoint | None:
        """The complete checkpoint with the highest step."""
        found = (_checkpoint_at(p) for p in self.path.glob("checkpoints/step-*"))
        return max((c for c in found if c is not None), key=lambda c: c.step, default=None)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its directory, and the last step that is in it."""

    path: Path
    step: int

    @property
    def run(self) -> RunDirectory:
        """The run directory in which it lies."""
        return RunDirectory(self.path.parent.parent)


def _checkpoint_at(path: Path) -> Checkpoint | None:
    named = CHECKPOINT_NAME.fullmatch(path.name)
    if named is None or not (path / "manifest.json").is_file():
        return None
    return Checkpoint(path, int(named[1]))


def run_of(path: Path) -> RunDirectory:
    """The run directory that `--resume PATH` is about: PATH itself, or the one in which the checkpoint PATH lies.

    Raises: NoInput.
    """
    path = path.absolute()
    run = RunDirectory(path.parent.parent if CHECKPOINT_NAME.fullmatch(path.name) else path)
    if not run.path.is_dir():
        raise _nowhere(path)
    return run


def find_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint that `--resume PATH` means: PATH itself, or the newest good one of the run directory PATH.

    Damaged ones of a run directory are told by name and passed over. Raises: NoInput.
    """
    path = path.absolute()
    if not path.is_dir():
        raise _nowhere(path)
    good = path if _checkpoint_at(path) else newest(path)
    if good is not None and (checkpoint := _checkpoint_at(good)):
        return checkpoint
    if CHECKPOINT_NAME.fullmatch(path.name):
        raise NoInput(
            f"--resume {path}: this checkpoint is incomplete (no manifest.json); "
            f"give the run directory to take the newest complete one"
        )
    raise NoInput(
        f"--resume {path}: no whole checkpoint in {path / 'checkpoints'}; a run writes one when it ends and every "
        f"run.checkpoint_every steps. Start anew without --resume"
    )


def _nowhere(path: Path) -> NoInput:
    return NoInput(
        f"--resume {path}: no such directory; expected a run directory or a checkpoints/step-N in one"
    )


def new_run_path() -> Path:
    """`runs/<UTC timestamp>-<4 hex>` under the current directory."""
    stamp = re.sub(r"[-:]|\.\d+", "", utc_timestamp())
    return Path.cwd() / "runs" / f"{stamp}-{secrets.token_hex(2)}"


def refuse_occupied(run: RunDirectory) -> None:
    """Raises UsageError where a new run would write over an older one."""
    if run.path.exists() and not run.path.is_dir():
        raise UsageError(f"--out {run.path}: expected a directory, found a file; choose another path")
    if not run.holds_a_run:
        return
    if run.newest_checkpoint() is None:
        remedy = "it has no checkpoint, so remove it, or choose another --out"
    else:
        remedy = f"continue it with --resume {run.path}, or choose another --out"
    raise UsageError(f"--out {run.path} already holds a run: {remedy}")


def read_address(run: RunDirectory) -> str | None:
    """Where the run's coordinator serves, or None while it has not said so."""
    try:
        return run.address.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`, or None where there is no such file. Raises DamagedFile."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedFile(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DamagedFile(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value


def write_whole(path: Path, text: str) -> None:
    """Writes beside, then renames: a reader sees the old file or the new one."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def error_text(lines: Iterable[str]) -> str:
    """What a role's log says at its end: the last run of `error:` lines and what follows, else the last line."""
    kept = [_plain(line.rstrip()) for line in lines if line.strip()]
    marked = [line.startswith(ERROR_PREFIX) for line in kept]
    if not any(marked):
        return kept[-1] if kept else "it printed nothing"
    start = len(kept) - 1 - marked[::-1].index(True)
    while start > 0 and marked[start - 1]:
        start -= 1
    return "\n".join(line.removeprefix(ERROR_PREFIX) for line in kept[start:][:MAX_ERROR_LINES])


def _plain(line: str) -> str:
    """A line of a log as people read it, whichever format it has; what ended the process is marked."""
    if not line.startswith('{"t": '):
        return line
    try:
        told = json.loads(line)
    except ValueError:
        return line
    ended = told.get("logger") == OWN_LOG and told.get("level") == "error"
    return (ERROR_PREFIX if ended else "") + str(told.get("message", line))


def last_error(log: Path, *, since: int) -> str:
    """`error_text` of a log from byte `since` on, where its newest process began to write."""
    try:
        with log.open("rb") as file:
            file.seek(since)
            return error_text(file.read().decode("utf-8", errors="replace").splitlines())
    except FileNotFoundError:
        return "it printed nothing"
