"""The one tree of errors: each class knows its gRPC status, its exit code and whether to retry.

`wire.rpc.status` maps an error out on the server and back to the same class on the client.
A message tells what was found, what was expected and what to do. The exit codes follow
sysexits.h where it has a fitting one; docs/exit-codes.md has a page for each.
"""

from __future__ import annotations

from typing import ClassVar


class SparsyncError(Exception):
    """Base of all errors that a user or an operator can do something about."""

    status: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[int] = 1
    retry: ClassVar[bool] = False


class UsageError(SparsyncError):
    """A command line or an API call that makes no sense."""

    status = "INVALID_ARGUMENT"
    exit_code = 64


class RunOver(SparsyncError):
    """There is nothing to join any more: the run has ended. No failure of the process that hears it."""

    status = "FAILED_PRECONDITION"
    exit_code = 0


class DataRefused(SparsyncError):
    """Data that is empty, damaged, or differs from what the other workers have."""

    status = "INVALID_ARGUMENT"
    exit_code = 65


class NameTaken(SparsyncError):
    """The name of a process that is, or may still be, in the run; a dead holder is given up within seconds."""

    status = "ALREADY_EXISTS"
    exit_code = 84
    retry = True


class NoInput(SparsyncError):
    """A file, directory or corpus that is not there."""

    status = "NOT_FOUND"
    exit_code = 66


class Unreachable(SparsyncError):
    """A peer that could not be reached within the time given for it."""

    status = "UNAVAILABLE"
    exit_code = 69
    retry = True


class ScriptFailed(SparsyncError):
    """The user's script raised."""

    exit_code = 70


class PortTaken(SparsyncError):
    """The address to listen on is in use or not ours."""

    status = "FAILED_PRECONDITION"
    exit_code = 71


class NotWritten(SparsyncError):
    """What was asked for is not on the disk: that is full, or a server went away before a checkpoint was whole."""

    exit_code = 73


class DamagedFile(SparsyncError):
    """A file whose content does not match its checksum; the message names file and offset."""

    status = "DATA_LOSS"
    exit_code = 74


class Busy(SparsyncError):
    """Admission refused for lack of memory; try again after a pause."""

    status = "RESOURCE_EXHAUSTED"
    exit_code = 75
    retry = True


class ProtocolMismatch(SparsyncError):
    """Two builds that speak different versions, or a message that breaks the contract."""

    status = "FAILED_PRECONDITION"
    exit_code = 76


class StaleIncarnation(SparsyncError):
    """A process, timeline or term that the run has moved past: it was given up, and must join anew."""

    status = "ABORTED"
    exit_code = 83


class WrongRun(SparsyncError):
    """A call that belongs to another run than the one that is served there."""

    status = "FAILED_PRECONDITION"
    exit_code = 86
    retry = True  # an address may have been another run's in between


class Unidentified(SparsyncError):
    """A certificate that says of nobody in the run whose it is, or one that was revoked or has ended."""

    status = "UNAUTHENTICATED"
    exit_code = 87


class PermissionRefused(SparsyncError):
    """Security forbids it: no TLS off loopback, a wrong role, a bad certificate."""

    status = "PERMISSION_DENIED"
    exit_code = 77


class ConfigError(SparsyncError):
    """An unknown key, a wrong type or a value out of range in the configuration."""

    status = "INVALID_ARGUMENT"
    exit_code = 78


class ModelMismatch(SparsyncError):
    """A worker whose model, optimizer or learning rates differ from the others'."""

    status = "FAILED_PRECONDITION"
    exit_code = 79


class BadUnit(SparsyncError):
    """A unit that stays bad (NaN, Inf, exception) when it is computed again."""

    status = "FAILED_PRECONDITION"
    exit_code = 80


class ServerLost(SparsyncError):
    """A parameter server that went away with its shard; resume from the newest checkpoint."""

    status = "UNAVAILABLE"
    exit_code = 81


class ShadowedModule(SparsyncError):
    """A file of the user's that hides one of Sparsync's packages."""

    exit_code = 82


class Unfit(SparsyncError):
    """A machine on which something would fail: `sparsync doctor` says what, and what to do."""

    status = "FAILED_PRECONDITION"
    exit_code = 85


class Interrupted(SparsyncError):
    """Stopped by the user or an operator."""

    exit_code = 130


def by_name(name: str) -> type[SparsyncError]:
    """The class of that name, or the base where a newer peer knows one that we do not."""
    return next((c for c in SparsyncError.__subclasses__() if c.__name__ == name), SparsyncError)
