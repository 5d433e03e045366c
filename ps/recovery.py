"""A shard from its server's disk: the newest good image, and every record behind it.

Raises DamagedFile, naming file and offset, where nothing good leads to the end of the log: then the shard is not
what was acknowledged, and is not served.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from ps.holdings import Holdings, Identity
from ps.log import read_tail
from ps.log_records import decode
from ps.replication import Copy, Window
from ps.snapshots import Snapshots
from wire.clock import monotonic_clock
from wire.files import replace_durably

log = logging.getLogger(__name__)


Key = tuple[str, int, int]
"""Run, timeline and incarnation: whose shard it is."""


@dataclass(frozen=True)
class Recovered:
    """A shard as it was when its server ended.

    Attributes:
        position: of the newest record of its log.
        window: the newest records.
    """

    holdings: Holdings
    position: int
    window: Window


def recover(directory: Path) -> Recovered | None:
    """The shard in a server's directory, or None where there is none.

    Raises: DamagedFile.
    """
    began = monotonic_clock.now()
    found = Snapshots(directory).newest_good(log.warning)
    if found is None:
        return None
    image, tree = found
    holdings, position, window = Holdings.restore(tree, directory), image, Window(image)
    for position, payload in read_tail(directory / "log", image):
        holdings.apply(decode(payload))
        window.add(Copy(position, payload))
    holdings.store.unlink(holdings.store.take_discarded())
    log.info(
        "recovered shard %d: image of record %d, %d records behind it, %.1f s",
        holdings.shard.spec.shard,
        image,
        position - image,
        monotonic_clock.now() - began,
    )
    return Recovered(holdings, position, window)


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
    """Keep who this server is, before its shard can be on the disk."""
    run, timeline, incarnation = key_of(identity)
    told = {"run": run, "timeline": timeline, "incarnation": incarnation}
    replace_durably(directory / "identity.json", json.dumps(told).encode())
