"""Images of a shard on disk, each named by the position in the log that it was taken at.

    DIR/snapshots/00000000000000001234.image     DIR = the server's data directory

An image has its name when it is whole and durable: written as .partial, fsynced, renamed, its directory fsynced. The
newest two are kept, so that one damaged image costs nothing but a longer replay. A damaged one is put aside as
.damaged when another stands in for it: it counts as no snapshot, and the log behind the good one stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ps.image import Tree, decode, digest, encode
from ps.unbuffered import Unbuffered
from wire.codec.base import Buffer
from wire.crash import crash_point
from wire.errors import DamagedFile
from wire.files import fsync_directory

KEPT = 2
CUT_BYTES = 1 << 20
SPREAD_S = 2.0
SPREAD_S_A_GB = 2.5
"""So long an image rests in all: what it costs is spread over several steps; what a restart replays grows meanwhile."""
_DIGITS = 20


class Saved(NamedTuple):
    """What was written: the digest of the state, and the size of the file."""

    digest: bytes
    bytes: int


def unhurried(pieces: Sequence[Buffer], rest: Callable[[float], object]) -> Iterator[Buffer]:
    """The same bytes in small pieces, with a rest after each that has been written, in proportion to its size."""
    size = sum(map(len, pieces))
    rest_s_a_byte = (SPREAD_S + SPREAD_S_A_GB * size / 1e9) / size
    for piece in pieces:
        view = memoryview(piece).cast("B") if len(piece) else memoryview(b"")
        for start in range(0, len(view), CUT_BYTES):
            cut = view[start : start + CUT_BYTES]
            yield cut
            rest(rest_s_a_byte * len(cut))


class Snapshots:
    """The images of one shard. What is half written when a process begins is removed.

    One thread saves, receives or clears at a time; any may read.
    """

    def __init__(self, directory: Path) -> None:
        self._home = directory / "snapshots"
        self._home.mkdir(parents=True, exist_ok=True)
        for path in self._home.glob("*.partial"):
            path.unlink()

    def save(self, position: int, tree: Tree, rest: Callable[[float], object] | None = None) -> Saved:
        """Write the image of the state at `position`, durable when this returns, and drop what is too old.

        rest: sleeps for so many seconds, so that an image beside a training takes little of a core.
        Raises: OSError, as where the disk is full; nothing is left of the image then.
        """
        crash_point("ps.snapshot.before")
        header, blobs = encode(tree)
        receiver = self.receive(position)
        try:
            pieces = [header, *blobs]
            receiver.write_all(unhurried(pieces, rest) if rest else pieces)
            receiver.seal()
        except BaseException:
            receiver.abandon()
            raise
        return Saved(digest(header), len(header) + sum(map(len, blobs)))

    def receive(self, position: int) -> Receiver:
        """A writer for an image that comes in pieces."""
        return Receiver(self, self._path(position))

    def positions(self) -> list[int]:
        """Of the images that are here, the oldest first."""
        return sorted(int(path.stem) for path in self._home.glob("*.image"))

    def load(self, position: int) -> Tree:
        """Raises: DamagedFile; FileNotFoundError where there is none."""
        return decode(self._path(position))

    def newest_good(self, say: Callable[[str], None]) -> tuple[int, Tree] | None:
        """The newest image that is whole, with its position; None where there is none at all.

        `say` is told of each damaged one that is passed over.
        Raises: DamagedFile, naming all, where none is whole; ProtocolMismatch for one of another version.
        """
        damaged: list[tuple[Path, DamagedFile]] = []
        for position in reversed(self.positions()):
            try:
                tree = self.load(position)
            except DamagedFile as error:
                damaged.append((self._path(position), error))
                continue
            for path, why in damaged:
                say(f"{why}; it is passed over for the image at position {position}")
                path.rename(path.with_suffix(".damaged"))
            return position, tree
        if damaged:
            raise DamagedFile("no image of this shard is whole: " + "; ".join(str(why) for _, why in damaged))
        return None

    @property
    def oldest(self) -> int:
        """What stands in the log before this position is in every image (0 where there is none)."""
        return min(self.positions(), default=0)

    def newest_at(self) -> float | None:
        """When the newest image was written, in seconds since the epoch; None: there is none."""
        try:
            return max((path.stat().st_mtime for path in self._home.glob("*.image")), default=None)
        except FileNotFoundError:  # it was dropped just now, as another one is newer
            return None

    def clear(self) -> None:
        """Remove everything: the shard is another one's now."""
        self._remove(self._home.iterdir())

    def adopt(self, partial: Path, path: Path, *, alone: bool = False) -> None:
        """Give a durable file its name, and drop what is too old; `alone`: all others, which are of another history."""
        partial.rename(path)
        fsync_directory(self._home)
        crash_point("ps.snapshot.after")
        kept = [int(path.stem)] if alone else self.positions()[-KEPT:]
        old = [self._path(position) for position in self.positions() if position not in kept]
        damaged = [other for other in self._home.glob("*.damaged") if int(other.stem) < kept[0]]
        self._remove([*old, *damaged])

    def _path(self, position: int) -> Path:
        return self._home / f"{position:0{_DIGITS}}.image"

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in list(paths):
            path.unlink(missing_ok=True)
        fsync_directory(self._home)


class Receiver:
    """An image that is being written; it counts once it is finished."""

    def __init__(self, snapshots: Snapshots, path: Path) -> None:
        self._snapshots = snapshots
        self._path = path
        self._partial = path.with_suffix(".partial")
        self._file = Unbuffered(self._partial)

    def write(self, data: Buffer) -> None:
        """The next bytes."""
        self._file.write(data)

    def write_all(self, pieces: Iterable[Buffer]) -> None:
        for piece in pieces:
            self.write(piece)

    def finish(self) -> Tree:
        """All bytes are here: the tree, after it was verified; from now on the image counts, and no other one here.

        Raises: DamagedFile; nothing is left of the image then.
        """
        try:
            self._file.seal()
            tree = decode(self._partial)
            self._adopt(alone=True)
        except BaseException:
            self.abandon()
            raise
        return tree

    def seal(self) -> None:
        """Make durable what was written, and have it count."""
        self._file.seal()
        self._adopt()

    def _adopt(self, *, alone: bool = False) -> None:
        """`alone`: instead of all that are here."""
        crash_point("ps.snapshot.written")
        self._snapshots.adopt(self._partial, self._path, alone=alone)

    def abandon(self) -> None:
        """No more bytes come. A repeat changes nothing."""
        self._file.close()
        self._partial.unlink(missing_ok=True)
