"""Logs of the roles: one line an event on standard error, with time, level and role."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname)s {role} %(name)s: %(message)s"


def log_to_stderr(role: str, *, level: str = "info") -> None:
    """Send this process's logs to standard error as lines of `role`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT.format(role=role)))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("numba").setLevel(logging.WARNING)
