"""Logs of the roles: one event a line on standard error, as text or as JSON.

Every line says who speaks: role, id (the name in the run) and clock (the step that the role is at, once there is
one). The handler knows them, so that no call has to name them.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from wire.words import printable

if TYPE_CHECKING:
    from wire.config.schema import TelemetryConfig

OWN_LOG = "sparsync"
"""The logger of what ends a command."""
LogFormat = Literal["text", "json"]
TEXT = "%(asctime)s %(levelname)s %(speaker)s %(name)s: %(message)s"


class TelemetryFlags(NamedTuple):
    """How a process was asked to be watched, on its own command line; None: as its run says."""

    log_format: LogFormat | None = None
    metrics: str | None = None


class Logs:
    """The log of this process.

    Args:
        role: coordinator, ps or worker.
        id: the name in the run.
        form: as this process was asked; None: as the run says, once it is joined.

    Attributes:
        clock: called for each line, on whichever thread logs; None: nothing has begun.
    """

    def __init__(self, role: str, id: str, form: LogFormat | None) -> None:
        self.role, self.id = role, id
        self.clock: Callable[[], int | None] = lambda: None
        self._asked = form
        self._handler = logging.StreamHandler(sys.stderr)
        self._format(form or "text")
        logging.basicConfig(handlers=[self._handler], level=logging.INFO, force=True)
        logging.getLogger("numba").setLevel(logging.WARNING)

    def follow(self, telemetry: TelemetryConfig) -> None:
        """Level and format as the run has them; what this process was asked for goes first."""
        logging.getLogger().setLevel(telemetry.log_level.upper())
        self._format(self._asked or telemetry.log_format)

    def _format(self, form: LogFormat) -> None:
        self._handler.setFormatter({"text": TextFormatter, "json": JsonFormatter}[form](self))


class TextFormatter(logging.Formatter):
    """`TIME LEVEL ROLE ID@CLOCK LOGGER: MESSAGE`, for people; the id is left out where it is the role.

    Further lines of a message are indented, so that nobody's words pass for a line of their own.
    """

    def __init__(self, logs: Logs) -> None:
        super().__init__(TEXT)
        self._logs = logs
        self._name = logs.role if logs.id == logs.role else f"{logs.role} {logs.id}"

    def formatMessage(self, record: logging.LogRecord) -> str:
        clock = self._logs.clock()
        record.speaker = self._name if clock is None else f"{self._name}@{clock}"
        record.message = "\n    ".join(map(printable, record.message.splitlines()))  # others' words are in it
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One object a line: t (UTC), level, role, id, clock (null before there is one), logger, message, error."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "t": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "role": self._logs.role,
            "id": self._logs.id,
            "clock": self._logs.clock(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr(role: str, id: str, *, form: LogFormat | None = None) -> Logs:
    """Send this process's logs to standard error as lines of `role`, which is called `id` in the run."""
    return Logs(role, id, form)
