"""What the exit of a role says: in words, whether a restart would meet it again, whose exit tells the cause.

The numbers are those of `wire/errors.py`; docs/exit-codes.md has a page for each.
"""

from __future__ import annotations

from signal import Signals
from typing import Literal

from wire.errors import (
    BadUnit,
    ConfigError,
    DamagedFile,
    DataRefused,
    Interrupted,
    ModelMismatch,
    NoInput,
    PermissionRefused,
    PortTaken,
    ProtocolMismatch,
    ScriptFailed,
    ShadowedModule,
    SparsyncError,
    StaleIncarnation,
    Unidentified,
    UsageError,
)

Role = Literal["coordinator", "ps", "worker"]

FINAL = frozenset(
    error.exit_code
    for error in (
        UsageError,
        DataRefused,
        NoInput,
        ScriptFailed,
        ProtocolMismatch,
        PermissionRefused,
        Unidentified,
        ConfigError,
        ModelMismatch,
        BadUnit,
        ShadowedModule,
    )
)
"""The same start would fail the same way."""
ORDERLY = frozenset((0, Interrupted.exit_code))
"""A role ends with the second where the run was stopped: by `sparsync stop`, or by us."""
KNOWN = frozenset(c.exit_code for c in SparsyncError.__subclasses__())
CRASHED = frozenset(error.exit_code for error in (SparsyncError, PortTaken, DamagedFile))
"""Of a coordinator, beside signals: the run has not ended. Every other code tells how it has."""
TELLING = FINAL | {DamagedFile.exit_code}
"""Of a server that is lost for good; anything else is told as the loss that it is."""
FENCED = StaleIncarnation.exit_code
"""Of a server: another one serves its shard; it is to begin anew."""


def describe_exit(code: int) -> str:
    """An exit code of `subprocess` in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def exit_order(role: Role, code: int) -> int:
    """Sort key for exits seen together: the process that tells the cause comes before those it took along."""
    if role == "worker":
        return 0 if code in FINAL else 3
    return 1 if role == "coordinator" else 2
