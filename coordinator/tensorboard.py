"""Scalars for TensorBoard, as event files in `RUN_DIR/tensorboard`.

Written with tensorboardX's messages and its `RecordWriter`, on the caller's thread, about 35 µs a step. Its
`SummaryWriter` puts a queue and a thread before that; on a full disk the thread dies and the next write waits for ever.
A board that cannot be written says so once and is silent from then on: a run does not end for its pictures.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from wire.clock import utc_timestamp

log = logging.getLogger(__name__)

FILE_VERSION = "brain.Event:2"
FLUSH_EVERY_S = 10.0
"""How old TensorBoard's picture may be."""


class Board:
    """One event file in `directory`, which is made; a run that is resumed adds another one beside it.

    Raises: OSError where the directory cannot be made or written.
    """

    def __init__(self, directory: Path) -> None:
        with _hidden("torch"):
            from tensorboardX import RecordWriter
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.proto.summary_pb2 import Summary
        self._event, self._summary = Event, Summary
        self._utc_offset_s: float | None = None
        self._flushed_s = 0.0
        began = _utc_s()
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / f"events.out.tfevents.{began:.0f}.{socket.gethostname()}.{os.getpid()}"
        self._writer: Any = RecordWriter(str(self._path))
        self._writer.write(Event(wall_time=began, file_version=FILE_VERSION).SerializeToString())

    def write(self, step: int, values: Mapping[str, float], now_s: float) -> None:
        """Adds `values` (tag -> scalar, kept as float32) at `step`. `now_s`: of the run's monotonic clock."""
        if self._writer is None or not values:
            return
        if self._utc_offset_s is None:
            self._utc_offset_s = _utc_s() - now_s
            self._flushed_s = now_s
        scalars = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        event = self._event(
            wall_time=self._utc_offset_s + now_s, step=step, summary=self._summary(value=scalars)
        )
        try:
            self._writer.write(event.SerializeToString())
            if now_s - self._flushed_s >= FLUSH_EVERY_S:
                self._flushed_s = now_s
                self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Everything written is in the file. A repeat does nothing."""
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        except OSError as error:
            self._tell(error)

    def _give_up(self, error: OSError) -> None:
        writer, self._writer = self._writer, None
        self._tell(error)
        with suppress(OSError):  # what is still in its buffer
            writer.close()

    def _tell(self, error: OSError) -> None:
        log.warning("%s: no more scalars for TensorBoard: %s", self._path, error.strerror)


def _utc_s() -> float:
    """Seconds since the epoch, which is how TensorBoard dates what it shows."""
    return datetime.fromisoformat(utc_timestamp()).timestamp()


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Makes `import module` fail inside, as where it is not installed.

    tensorboardX imports torch where it finds it, to know its tensors: 190 MB that no scalar needs.
    """
    absent = object()
    present: Any = sys.modules.get(module, absent)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if present is absent:
            del sys.modules[module]
        else:
            sys.modules[module] = present
