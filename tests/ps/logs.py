"""Logs for tests: written batch by batch, and read by a parser of their own."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from ps.log import Log, read_tail
from ps.log_tail import Disk


@dataclass
class Told:
    """What a log said, and a way to wait for it."""

    durable: list[int] = field(default_factory=list)
    stalled: list[str] = field(default_factory=list)
    broken: list[Exception] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def tell(self, where: list[Any]) -> Callable[[Any], None]:
        def told(what: Any) -> None:
            with self.changed:
                where.append(what)
                self.changed.notify_all()

        return told

    def wait(self, until: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(until, 20), (self.durable, self.stalled, self.broken)

    def wait_durable(self, position: int) -> None:
        self.wait(lambda: bool(self.durable) and self.durable[-1] >= position)


def open_log(directory: Path, told: Told, *, after: int = 0, level: str = "os", **more: Any) -> Log:
    return Log(
        directory,
        after=after,
        level=level,
        on_durable=told.tell(told.durable),
        on_stalled=told.tell(told.stalled),
        on_broken=told.tell(told.broken),
        **more,
    )


def write_batches(directory: Path, batches: Iterable[Sequence[bytes]], **more: Any) -> list[bytes]:
    """A closed log that got `batches`: the first record of each is a batch of its own, the others gather meanwhile."""
    free, busy = threading.Event(), threading.Event()

    def write(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if offset:
            busy.set()
            assert free.wait(20)
        return os.pwritev(fd, buffers, offset)

    told = Told()
    log = open_log(directory, told, disk=Disk(write=write), **more)
    for batch in batches:
        free.clear()
        busy.clear()
        log.append([batch[0]])
        assert busy.wait(20)
        for payload in batch[1:]:
            log.append([payload[:1], payload[1:]])
        free.set()
        told.wait_durable(log.position)
    log.close()
    return [payload for batch in batches for payload in batch]


def contents(directory: Path, after: int = 0) -> list[bytes]:
    """The records behind `after`; their positions have no holes."""
    found = list(read_tail(directory, after))
    assert [position for position, _ in found] == list(range(after + 1, after + 1 + len(found)))
    return [payload for _, payload in found]


class Placed(NamedTuple):
    """A record or a mark as docs/log.md describes it."""

    offset: int
    kind: int
    position: int
    durable: int
    end: int


def parse(data: bytes) -> list[Placed]:
    """What a whole file holds, by docs/log.md alone."""
    assert data[:8] == b"SPLF\x01\0\0\0"
    found = []
    offset = 24
    while data[offset : offset + 4] == b"SPLR":
        kind, length, position, durable, checksum = struct.unpack_from("<4xB3xQQQQ", data, offset)
        end = offset + 40 + length
        sealed = data[offset : offset + 32] + data[offset + 40 : end]
        assert checksum == xxhash.xxh3_64_intdigest(sealed, seed=offset)
        found.append(Placed(offset, kind, position, durable, end))
        offset = end
    assert not any(data[offset:])
    return found
