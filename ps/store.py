"""What a shard keeps on its disk beside memory: retained bases of x̂ and deposits of stream state.

    DIR/base/VERSION             packed float32 of the published plane
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

    def save_base(self, version: int, packed: bytes) -> None:
        """Keep the published plane at `version`."""
        _write(self._base / str(version), packed)

    def load_base(self, version: int) -> tuple[int, bytes]:
        """The newest base at or below `version`, and its version. Raises: NoInput when none is retained."""
        bases = _numbered(self._base)
        found = [path for path in bases if int(path.name) <= version]
        if not found:
            have = [path.name for path in bases]
            raise NoInput(f"no base of the published model at or below version {version}; retained: {have}")
        return int(found[-1].name), found[-1].read_bytes()

    def trim_bases(self, retain_from: int) -> None:
        """Forget the bases that no replay can need: all before the newest at or below `retain_from`."""
        reached = [p for p in _numbered(self._base) if int(p.name) <= retain_from]
        for path in reached[:-1]:
            path.unlink()

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
