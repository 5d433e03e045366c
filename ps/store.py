"""What a shard keeps on its disk beside memory: retained bases of x̂ and deposits of stream state.

    DIR/base/VERSION             packed float32 of the published plane
    DIR/streams/S/STEP/PLANE     one file a plane (packed float32 of the trainable blocks, or a blob)

A file or directory gets its name when it is whole. Nothing here is fsynced: it serves the
recovery of workers, while the shard itself lives. Of each stream the last two deposits are
kept: a worker begins one only after its last stood on every shard, so the newest that is
complete everywhere is among them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from wire.errors import NoInput

KEPT_DEPOSITS = 2


class Store:
    """Files of one shard. `directory` is emptied: what an earlier process left belongs to nobody."""

    def __init__(self, directory: Path) -> None:
        for name in ("base", "streams"):
            shutil.rmtree(directory / name, ignore_errors=True)
            (directory / name).mkdir(parents=True)
        self._base = directory / "base"
        self._streams = directory / "streams"

    def save_base(self, version: int, packed: bytes) -> None:
        """Keep the published plane at `version`."""
        _write(self._base / str(version), packed)

    def load_base(self, version: int) -> bytes:
        """Raises: NoInput when `version` is not a retained base."""
        path = self._base / str(version)
        if not path.exists():
            have = sorted(int(p.name) for p in self._base.iterdir())
            raise NoInput(f"no base of the published model at version {version}; retained: {have}")
        return path.read_bytes()

    def trim_bases(self, retain_from: int) -> None:
        """Forget the bases that no replay can need: all before the newest at or below `retain_from`."""
        versions = sorted(int(p.name) for p in self._base.iterdir() if p.name.isdigit())
        needed = [v for v in versions if v <= retain_from]
        for version in needed[:-1]:
            (self._base / str(version)).unlink()

    def save_deposit(self, stream: int, step: int, planes: Mapping[str, bytes]) -> None:
        """Keep the state of `stream` before the unit of `step`; older ones but the last go."""
        home = self._streams / str(stream)
        partial = home / f"{step}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, data in planes.items():
            (partial / name).write_bytes(data)
        shutil.rmtree(home / str(step), ignore_errors=True)
        partial.rename(home / str(step))
        steps = sorted(int(p.name) for p in home.iterdir() if p.name.isdigit())
        for old in steps[:-KEPT_DEPOSITS]:
            shutil.rmtree(home / str(old))

    def deposit(self, stream: int, step: int) -> dict[str, Path]:
        """Files of a deposit by plane. Raises: NoInput when it is not here."""
        home = self._streams / str(stream) / str(step)
        if not home.is_dir():
            raise NoInput(f"no deposit of stream {stream} at step {step} on this shard")
        return {path.name: path for path in sorted(home.iterdir())}


def _write(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.rename(path)
