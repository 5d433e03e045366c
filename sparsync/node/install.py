"""Putting on a machine what a role needs there, and taking it away again; with another root, into a directory.

Nothing is started or stopped: the commands for that are told. A file is whole or as it was; what belongs to the
machine (environment files, run.toml, keys, runs) is never overwritten, and only removed by `purge`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sparsync.node.plan import KEPT, OURS, UNIT_OF, UNITS, Node, Wanted, wanted
from wire.errors import PermissionRefused, UsageError

WROTE, CHANGED, SAME, KEEPS, MISSING, REMOVED = "wrote", "changed", "same", "kept", "missing", "removed"


@dataclass(frozen=True)
class Done:
    """What became of one path, as it is called on the machine."""

    what: str
    path: PurePosixPath
    why: str = ""


def install(node: Node, *, root: Path = Path("/"), dry: bool = False) -> list[Done]:
    """Write what belongs there; `dry`: only say what would be done.

    Raises: PermissionRefused.
    """
    done = [_put(item, at(root, item.path), dry=dry) for item in wanted(node)]
    return [*done, *_missing_certificates(node, root)]


def at(root: Path, path: PurePosixPath) -> Path:
    return root / path.relative_to("/")


def _put(item: Wanted, path: Path, *, dry: bool) -> Done:
    if item.text is None:
        if not path.is_dir():
            _changing(path, lambda: _make(path, item.mode), dry=dry)
            return Done(WROTE, item.path, "a directory")
        return Done(SAME, item.path)
    there = path.read_text(encoding="utf-8") if path.is_file() else None
    if there == item.text:
        return Done(SAME, item.path)
    if there is not None and not item.ours:
        return Done(KEEPS, item.path, "this machine's own; differs from what a new one would hold")
    text = item.text
    _changing(path, lambda: _write(path, text, item.mode), dry=dry)
    return Done(WROTE if there is None else CHANGED, item.path)


def _make(path: Path, mode: int) -> None:
    path.mkdir(parents=True)
    path.chmod(mode)


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.chmod(mode)
    os.replace(partial, path)


def _changing(path: Path, change: Callable[[], None], *, dry: bool) -> None:
    """Raises: PermissionRefused."""
    if dry:
        return
    try:
        change()
    except PermissionError as error:
        raise PermissionRefused(
            f"{path} cannot be changed ({error.strerror}); run this as root, or look with --dry-run"
        ) from None


def _missing_certificates(node: Node, root: Path) -> Iterator[Done]:
    for path in node.certificates:
        if not at(root, path).is_file():
            yield Done(MISSING, path, f"of the authority (sparsync certs), for {node.role} {node.name}")


def remove(*, root: Path = Path("/"), purge: bool = False, dry: bool = False) -> list[Done]:
    """Take away all units and their like; `purge`: configuration, keys, runs, shards and caches too.

    Raises:
        UsageError: a unit is still enabled.
        PermissionRefused.
    """
    if enabled := sorted(path.name for path in at(root, UNITS).glob("*.wants/sparsync*")):
        raise UsageError(
            f"{', '.join(enabled)} still enabled; first: systemctl disable --now {' '.join(enabled)}"
        )
    files = [*(UNITS / name for name in UNIT_OF.values()), *OURS.values()]
    done = [_take(path, at(root, path), dry=dry) for path in files if at(root, path).exists()]
    for path in KEPT:
        if at(root, path).exists():
            done.append(
                _take(path, at(root, path), dry=dry) if purge else Done(KEEPS, path, "--purge removes it")
            )
    return done


def _take(name: PurePosixPath, path: Path, *, dry: bool) -> Done:
    _changing(path, lambda: shutil.rmtree(path) if path.is_dir() else path.unlink(), dry=dry)
    return Done(REMOVED, name)
