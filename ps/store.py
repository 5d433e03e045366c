"""What a shard keeps on its disk beside memory: retained bases of x̂ and deposits of stream state.

    DIR/base/STEP-VERSION        packed float32 of the published plane
    DIR/streams/S/STEP/PLANE     one file a plane (packed float32 of the trainable blocks, or a blob)

Which of them exist is state of the shard: an index, changed by records alone. The files only hold the bytes. None is
fsynced: images hold the bytes too (`image`), so a process that comes back writes all of them anew. What is trimmed
leaves the index at once and the disk when its owner says so (`discarded`, `unlink`). Only the coordinator knows which
deposits are whole on every shard, so it alone says what may go: a holder that dies leaves one on some shards only, and
so may its heir.
"""

from __future__ import annotations

import errno
import logging
import mmap
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from ps.trees import State
from wire.codec.base import Buffer
from wire.errors import Busy, NoInput

log = logging.getLogger(__name__)
FULL = (errno.ENOSPC, errno.EDQUOT)


class Store:
    """Files of one shard. `directory` is emptied: what an earlier process left belongs to nobody.

    Attributes:
        discarded: files and directories that the index has no more, in that order.
    """

    def __init__(self, directory: Path) -> None:
        for name in ("base", "streams"):
            shutil.rmtree(directory / name, ignore_errors=True)
            (directory / name).mkdir(parents=True)
        self._base = directory / "base"
        self._streams = directory / "streams"
        self._bases: dict[tuple[int, int], bytes | None] = {}
        """(step, version): the plane itself where the disk was full."""
        self._deposits: dict[tuple[int, int], tuple[str, ...]] = {}
        """(stream, step): names of the planes, sorted."""
        self.discarded: list[Path] = []

    def save_base(self, step: int, version: int, packed: bytes) -> None:
        """Keep the published plane at `version`, with which `step` begins; in memory while the disk is full."""
        path = self._base_path(step, version)
        try:
            _write(path, packed)
            self._bases[step, version] = None
        except OSError as error:
            if error.errno not in FULL:
                raise
            log.warning("%s: the disk is full, %d bytes stay in memory", path, len(packed))
            self._bases[step, version] = packed

    def load_base(self, step: int) -> tuple[int, int, bytes]:
        """The newest base at or below `step`: its step and version, and the plane.

        Raises: NoInput when none is retained.
        """
        found = [base for base in sorted(self._bases) if base[0] <= step]
        if not found:
            have = [begins for begins, _ in sorted(self._bases)]
            raise NoInput(f"no base of the published model at or below step {step}; retained: {have}")
        begins, version = found[-1]
        packed = self._bases[found[-1]]
        return begins, version, self._base_path(begins, version).read_bytes() if packed is None else packed

    def trim_bases(self, retain_from: int) -> None:
        """Forget the bases that no replay can need: all before the newest at or below step `retain_from`."""
        reached = [base for base in sorted(self._bases) if base[0] <= retain_from]
        for step, version in reached[:-1]:
            del self._bases[step, version]
            self.discarded.append(self._base_path(step, version))

    def save_deposit(self, stream: int, step: int, planes: Mapping[str, Buffer]) -> None:
        """Keep the state of `stream` before the unit of `step`.

        Raises: Busy while the disk is full. Nothing has changed then.
        """
        home = self._deposit_path(stream, step)
        partial = home.with_name(f"{step}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for name, data in planes.items():
                (partial / name).write_bytes(data)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if error.errno not in FULL:
                raise
            raise Busy(f"{home}: the disk is full; make room, the deposit is sent again") from error
        shutil.rmtree(home, ignore_errors=True)
        partial.rename(home)
        self._deposits[stream, step] = tuple(sorted(planes))

    def trim_deposits(self, retain_from: int) -> None:
        """Forget the deposits before `retain_from`: every stream has a later one on all shards."""
        for stream, step in sorted(self._deposits):
            if step < retain_from:
                del self._deposits[stream, step]
                self.discarded.append(self._deposit_path(stream, step))

    def deposit(self, stream: int, step: int) -> dict[str, Path]:
        """Files of a deposit by plane. Raises: NoInput when it is not here."""
        names = self._deposits.get((stream, step))
        if names is None:
            raise NoInput(f"no deposit of stream {stream} at step {step} on this shard")
        home = self._deposit_path(stream, step)
        return {name: home / name for name in names}

    def take_discarded(self) -> list[Path]:
        """What was discarded since the last call, for `unlink` once nothing can bring it back."""
        taken, self.discarded = self.discarded, []
        return taken

    def unlink(self, paths: Iterable[Path]) -> None:
        """Remove what was discarded, but not what has come back since."""
        kept = {self._base_path(*base) for base in self._bases}
        kept |= {self._deposit_path(*deposit) for deposit in self._deposits}
        for path in paths:
            if path.parent == self._base and path not in kept:
                path.unlink(missing_ok=True)
            elif path not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def image(self) -> State:
        """All that is kept. Files are mapped, not read: that they are replaced or unlinked later changes nothing."""
        return {
            "bases": [self._base_to_tree(*base) for base in sorted(self._bases)],
            "deposits": [self._deposit_to_tree(*deposit) for deposit in sorted(self._deposits)],
        }

    def restore(self, tree: State) -> None:
        """Keep what `image` showed, in an empty store."""
        for base in tree["bases"]:
            self.save_base(base["step"], base["version"], base["packed"])
        for deposit in tree["deposits"]:
            self.save_deposit(deposit["stream"], deposit["step"], deposit["planes"])

    def _base_to_tree(self, step: int, version: int) -> State:
        packed = self._bases[step, version]
        data = _mapped(self._base_path(step, version)) if packed is None else packed
        return {"step": step, "version": version, "packed": data}

    def _deposit_to_tree(self, stream: int, step: int) -> State:
        planes = {name: _mapped(path) for name, path in self.deposit(stream, step).items()}
        return {"stream": stream, "step": step, "planes": planes}

    def _base_path(self, step: int, version: int) -> Path:
        return self._base / f"{step}-{version}"

    def _deposit_path(self, stream: int, step: int) -> Path:
        return self._streams / str(stream) / str(step)


def _mapped(path: Path) -> Buffer:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return b""
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _write(path: Path, data: bytes) -> None:
    """The file has its name when it is whole; nothing is left of one that is not."""
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(data)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    partial.rename(path)
