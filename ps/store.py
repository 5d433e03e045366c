"""What a shard keeps on its disk beside memory: retained bases of x̂ and deposits of stream state.

    DIR/base/STEP-VERSION        packed float32 of the published plane
    DIR/streams/S/STEP/PLANE     one file a plane (packed float32 of the trainable blocks, or a blob)

A file or directory gets its name when it is whole. Nothing here is fsynced: it serves the
recovery of workers, while the shard itself lives. Only the coordinator knows which deposits are
whole on every shard, so it alone says what may go: a holder that dies leaves one on some shards
only, and so may its heir.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from wire.errors import NoInput


class Store:
    """Files of one shard. `directory` is emptied: what an earlier process left belongs to nobody."""

    def __init__(self, directory: Path) -> None:
        for name in ("base", "streams"):
            shutil.rmtree(directory / name, ignore_errors=True)
            (directory / name).mkdir(parents=True)
        self._base = directory / "base"
        self._streams = directory / "streams"

    def save_base(self, step: int, version: int, packed: bytes) -> None:
        """Keep the published plane at `version`, with which `step` begins."""
        _write(self._base / f"{step}-{version}", packed)

    def load_base(self, step: int) -> tuple[int, int, bytes]:
        """The newest base at or below `step`: its step and version, and the plane.

        Raises: NoInput when none is retained.
        """
        bases = self._bases()
        found = [base for base in bases if base[0] <= step]
        if not found:
            have = [begins for begins, _, _ in bases]
            raise NoInput(f"no base of the published model at or below step {step}; retained: {have}")
        begins, version, path = found[-1]
        return begins, version, path.read_bytes()

    def trim_bases(self, retain_from: int) -> None:
        """Forget the bases that no replay can need: all before the newest at or below step `retain_from`."""
        reached = [path for step, _, path in self._bases() if step <= retain_from]
        for path in reached[:-1]:
            path.unlink()

    def _bases(self) -> list[tuple[int, int, Path]]:
        """(step, version, file) of each whole base, oldest first."""
        named = [(path.name.split("-"), path) for path in self._base.iterdir() if not path.suffix]
        return sorted((int(step), int(version), path) for (step, version), path in named)

    def save_deposit(self, stream: int, step: int, planes: Mapping[str, bytes]) -> None:
        """Keep the state of `stream` before the unit of `step`."""
        home = self._streams / str(stream)
        partial = home / f"{step}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, data in planes.items():
            (partial / name).write_bytes(data)
        shutil.rmtree(home / str(step), ignore_errors=True)
        partial.rename(home / str(step))

    def trim_deposits(self, retain_from: int) -> None:
        """Forget the deposits before `retain_from`: every stream has a later one on all shards."""
        for home in self._streams.iterdir():
            for path in _numbered(home):
                if int(path.name) < retain_from:
                    shutil.rmtree(path)

    def deposit(self, stream: int, step: int) -> dict[str, Path]:
        """Files of a deposit by plane. Raises: NoInput when it is not here."""
        home = self._streams / str(stream) / str(step)
        if not home.is_dir():
            raise NoInput(f"no deposit of stream {stream} at step {step} on this shard")
        return {path.name: path for path in sorted(home.iterdir())}


def _numbered(directory: Path) -> list[Path]:
    """What in `directory` is named by a number, in that order; partial ones are not."""
    return sorted((p for p in directory.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))


def _write(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.rename(path)
