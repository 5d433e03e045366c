"""A shard from its server's disk: the newest good image, and every record behind it.

Raises DamagedFile, naming file and offset, where nothing good leads to the end of the log: then the shard is not
what was acknowledged, and is not served.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ps.holdings import Holdings, Identity
from ps.log import read_tail
from ps.log_records import decode
from ps.replication import Copy, Window
from ps.snapshots import Snapshots
from wire.clock import monotonic_clock
from wire.errors import Busy
from wire.files import fsync_directory, replace_durably

log = logging.getLogger(__name__)
T = TypeVar("T")
FULL_RETRY_S = 0.5

Key = tuple[str, int, int]
"""Run, timeline and incarnation: whose shard it is."""


@dataclass(frozen=True)
class Recovered:
    """A shard as it was when its server ended.

    Attributes:
        image: position of the image that it was begun from.
        position: of the newest record of its log.
        applying_s: how long the records between them took.
        window: the newest records.
    """

    holdings: Holdings
    image: int
    position: int
    applying_s: float
    window: Window


def recover(
    directory: Path, *, ended: threading.Event | None = None, progressed: Callable[[], None] = lambda: None
) -> Recovered | None:
    """The shard in a server's directory, or None where there is none. A full disk is waited for.

    Args:
        ended: set when nobody waits for the shard any more.
        progressed: called when the image is in, and after each record.

    Raises: DamagedFile; Busy where it ended on a full disk.
    """
    ended = ended or threading.Event()
    began = monotonic_clock.now()
    found = Snapshots(directory).newest_good(log.warning)
    if found is None:
        return None
    image, tree = found
    holdings = _patiently(lambda: Holdings.restore(tree, directory), ended)
    position, window = image, Window(image)
    progressed()
    loaded = monotonic_clock.now()
    for position, payload in read_tail(directory / "log", image):
        record = decode(payload)
        _patiently(lambda: holdings.apply(record), ended)  # noqa: B023
        window.add(Copy(position, payload))
        progressed()
    holdings.store.unlink(holdings.store.take_discarded())
    ready = monotonic_clock.now()
    log.info(
        "recovered shard %d: image of record %d, %d records behind it, %.1f s",
        holdings.shard.spec.shard,
        image,
        position - image,
        ready - began,
    )
    return Recovered(holdings, image, position, ready - loaded, window)


def _patiently(act: Callable[[], T], ended: threading.Event) -> T:
    """What changes nothing while the disk is full is done again, until there is room. Raises: Busy once it `ended`."""
    told = False
    while True:
        try:
            return act()
        except Busy as error:
            if not told:
                log.error("recovery waits: %s", error)
                told = True
            if ended.wait(FULL_RETRY_S):
                raise


def forget_beside(directory: Path) -> None:
    """Remove what is kept beside a shard, once that is gone: no lower term is obeyed while anything of it is there."""
    for name in ("base", "streams"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in ("identity.json", "term.json"):
        (directory / name).unlink(missing_ok=True)
    fsync_directory(directory)


def key_of(identity: Identity) -> Key:
    return identity.run, identity.timeline, identity.incarnation


def load_identity(directory: Path) -> Key | None:
    """Who the server was that worked in this directory, if it joined a run."""
    path = directory / "identity.json"
    if not path.exists():
        return None
    told = json.loads(path.read_text())
    return told["run"], told["timeline"], told["incarnation"]


def save_identity(directory: Path, identity: Identity) -> None:
    """Keep who this server is, before its shard can be on the disk. Nothing is written where that stands there."""
    if load_identity(directory) == key_of(identity):
        return
    run, timeline, incarnation = key_of(identity)
    told = {"run": run, "timeline": timeline, "incarnation": incarnation}
    replace_durably(directory / "identity.json", json.dumps(told).encode())
