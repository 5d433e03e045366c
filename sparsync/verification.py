"""Every checksum of a run directory, a checkpoint or a server's data directory, and what does not match.

Each kind of thing is found by its place and checked by who wrote it. What is written meanwhile by a live run is no
damage: what was found must be found a second time. Nothing is changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wire.errors import DamagedFile, NoInput

OFFSET = re.compile(r"offset (\d+)")
INSIDE = re.compile(r"-wal|/[^ :,/]+")
"""What follows a checked path in a message: a file beside it, or in it."""
LOOKS = 3


@dataclass(frozen=True)
class Damage:
    """One place that is not what was written."""

    path: Path
    offset: int | None
    what: str


@dataclass(frozen=True)
class Checked:
    """One checkpoint, journal, log or image. `files`: how many were read, of how many `bytes` together."""

    kind: str
    path: Path
    files: int
    bytes: int
    damage: tuple[Damage, ...]

    def as_json(self) -> dict[str, Any]:
        damage = [{"file": str(d.path), "offset": d.offset, "what": d.what} for d in self.damage]
        return {
            "kind": self.kind,
            "path": str(self.path),
            "files": self.files,
            "bytes": self.bytes,
            "damage": damage,
        }


def verify(directory: Path) -> Iterator[Checked]:
    """Everything with a checksum in `directory`, one after the other.

    Raises: NoInput where there is nothing of that kind.
    """
    things = list(_things(directory))
    if not things:
        raise NoInput(
            f"{directory}: nothing to verify there; expected a run directory, a checkpoints/step-N of one, or the "
            "data directory of a server"
        )
    for kind, path in things:
        yield _check(kind, path)


def _things(directory: Path) -> Iterator[tuple[str, Path]]:
    """(kind, path) of all that is found, in the order in which it is reported."""
    from wire.checkpoint import MANIFEST, checkpoint_paths

    if (directory / MANIFEST).is_file() or re.fullmatch(r"step-\d+", directory.name):
        yield "checkpoint", directory
        return
    yield from (("checkpoint", path) for path in checkpoint_paths(directory))
    yield from (("journal", path) for path in sorted(directory.glob("journal*.sqlite")))
    for home in [directory, *sorted(path for path in directory.glob("*") if path.is_dir())]:
        if any(home.glob("log/*.log")):
            yield "log", home / "log"
        yield from (("image", path) for path in sorted(home.glob("snapshots/*.image")))


def _check(kind: str, path: Path) -> Checked:
    """Damage counts when it is seen again: a live run may have been in the middle of it."""
    find, files = CHECKS[kind]
    found = list(find(path))
    for _ in range(LOOKS - 1):
        if not found:
            break
        again = {str(error) for error in find(path)}
        found = [error for error in found if str(error) in again]
    read = [file for file in files(path) if file.is_file()]
    size = sum(file.stat().st_size for file in read)
    return Checked(kind, path, len(read), size, tuple(_damage(error, path) for error in found))


def _damage(error: DamagedFile, checked: Path) -> Damage:
    """The file and the offset that the message names."""
    what, start = str(error), str(checked)
    inside = INSIDE.match(what, len(start)) if what.startswith(start) else None
    offset = OFFSET.search(what)
    return Damage(Path(start + inside[0]) if inside else checked, int(offset[1]) if offset else None, what)


# ── one kind each ───────────────────────────────────────────────────────────────────────────────


def _checkpoint(path: Path) -> Iterator[DamagedFile]:
    from wire.checkpoint import find_damage, read_manifest

    try:
        yield from find_damage(read_manifest(path))
    except DamagedFile as error:
        yield error
    except NoInput as error:
        yield DamagedFile(f"{path}: {error}")


def _journal(path: Path) -> Iterator[DamagedFile]:
    from coordinator.journal_check import find_damage

    yield from find_damage(path)


def _log(path: Path) -> Iterator[DamagedFile]:
    """It must go on from the older image, if there is one: a restart may need that."""
    from ps.log_files import find_damage

    images = sorted(int(image.stem) for image in path.parent.glob("snapshots/*.image"))
    try:
        yield from find_damage(path, after=images[0] if images else 0)
    except FileNotFoundError:
        return  # a live server has removed what it needs no more


def _image(path: Path) -> Iterator[DamagedFile]:
    from ps.image import decode

    try:
        decode(path)
    except DamagedFile as error:
        yield error
    except FileNotFoundError:
        return


def _files(path: Path) -> Iterable[Path]:
    return path.iterdir() if path.is_dir() else [path, *path.parent.glob(f"{path.name}-wal")]


Find = Callable[[Path], Iterator[DamagedFile]]
CHECKS: dict[str, tuple[Find, Callable[[Path], Iterable[Path]]]] = {
    "checkpoint": (_checkpoint, _files),
    "journal": (_journal, _files),
    "log": (_log, lambda path: path.glob("*.log")),
    "image": (_image, _files),
}
