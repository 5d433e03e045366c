"""What a check has found, how bad that is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis. `remedy`: what to do; nothing where all is well."""

    level: Level
    what: str
    found: str
    remedy: str = ""


def ok(what: str, found: str) -> Finding:
    return Finding(Level.OK, what, found)


def warning(what: str, found: str, remedy: str) -> Finding:
    return Finding(Level.WARNING, what, found, remedy)


def failure(what: str, found: str, remedy: str) -> Finding:
    return Finding(Level.FAILURE, what, found, remedy)


def refused(what: str, error: Exception) -> Finding:
    """A failure in the words of an error of ours, which end with what to do."""
    found, semicolon, remedy = str(error).partition("; ")
    return failure(what, found, remedy if semicolon else "see docs/exit-codes.md")
