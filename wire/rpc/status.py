"""Errors out and back: a `SparsyncError` raised in a handler reaches the caller as the same class.

The class name travels in trailing metadata beside the gRPC status, the message as the
details. Any other exception in a handler is a bug of ours: INTERNAL, logged with traceback.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from urllib.parse import quote

import grpc
import grpc.aio

from wire.clock import utc_timestamp
from wire.errors import (
    Busy,
    Interrupted,
    PermissionRefused,
    ProtocolMismatch,
    SparsyncError,
    Unidentified,
    Unreachable,
    by_name,
)
from wire.ids import PROTOCOL_VERSION
from wire.rpc.handlers import Behavior, behavior_of, with_behavior
from wire.rpc.reloading import is_outdated
from wire.version import VERSION

ERROR_KEY = "sparsync-error"
RETRY_AFTER_KEY = "retry-after-ms"
BUILD_PREFIX = "sparsync-build-"
_BUILD_KEYS = ("version", "protocol", "at")
MAX_DETAILS_BYTES = 4096
"""Of the message as it travels (percent-encoded): gRPC drops calls whose trailers exceed 8 KiB."""

_WITHOUT_NAME: dict[grpc.StatusCode, tuple[type[SparsyncError], str]] = {
    grpc.StatusCode.UNAVAILABLE: (Unreachable, "check that it runs and that the network lets it through"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Unreachable, "it did not answer in the time given for the call"),
    grpc.StatusCode.CANCELLED: (Unreachable, "the connection was closed while the call was running"),
    grpc.StatusCode.UNIMPLEMENTED: (
        ProtocolMismatch,
        "it does not offer this call: use the same version on both sides",
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (ProtocolMismatch, "a message was larger than the limit"),
    grpc.StatusCode.PERMISSION_DENIED: (PermissionRefused, "its role does not allow this call"),
    grpc.StatusCode.UNAUTHENTICATED: (Unidentified, "it does not know us"),
}
BROKEN_HERE = "Internal error from Core"
"""What grpc.aio says of a call that ended while a message of its own was leaving: no word of the other side's.

The connection broke, or the other side refused the call and its answer is written over (grpc/grpc#36066). Called again,
it answers again.
"""
TOO_MANY_CALLS = "Concurrent RPC limit exceeded!"
"""What gRPC answers beyond `wire.rpc.server.MOST_CALLS`."""
_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:  # generic in the stubs alone
    _Interceptor = grpc.aio.ServerInterceptor


class RetryHint:
    """How long a refused caller should wait, kept on the error instance itself."""

    _ATTRIBUTE = "retry_after_ms"

    @classmethod
    def put(cls, error: SparsyncError, milliseconds: int) -> SparsyncError:
        """The same error, telling its caller to come back after `milliseconds`."""
        setattr(error, cls._ATTRIBUTE, milliseconds)
        return error

    @classmethod
    def of(cls, error: SparsyncError) -> int | None:
        """Milliseconds that the refusing side asks for, or None."""
        return getattr(error, cls._ATTRIBUTE, None)


class FarBuild(NamedTuple):
    """What the refusing side said of itself, kept on the error: a caller who may see nothing else still can compare.

    Attributes:
        at: its wall clock, UTC.
    """

    version: str
    protocol_version: int
    at: str

    @classmethod
    def here(cls) -> list[tuple[str, str]]:
        """This side's, as trailing metadata."""
        said = (VERSION, str(PROTOCOL_VERSION), utc_timestamp())
        return [(f"{BUILD_PREFIX}{name}", value) for name, value in zip(_BUILD_KEYS, said, strict=True)]

    @classmethod
    def put(cls, error: SparsyncError, trailing: Mapping[str, str]) -> None:
        """Keeps what stands in `trailing` on `error`, if all of it does."""
        said = [trailing.get(f"{BUILD_PREFIX}{name}") for name in _BUILD_KEYS]
        version, protocol, at = said
        if version and protocol and protocol.isdigit() and at:
            setattr(error, BUILD_PREFIX, cls(version, int(protocol), at))

    @classmethod
    def of(cls, error: SparsyncError) -> FarBuild | None:
        found = getattr(error, BUILD_PREFIX, None)
        return found if isinstance(found, cls) else None


class ErrorInterceptor(_Interceptor):
    """Wraps the four kinds of handler so that an error leaves as its own status."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        unknown_method = not handler  # None, whatever the stubs say; gRPC then answers UNIMPLEMENTED
        return handler if unknown_method else _wrap(handler, handler_call_details.method)


def _wrap(handler: Any, method: str) -> grpc.RpcMethodHandler[Any, Any]:
    """`handler` with its behaviour guarded."""
    behavior = behavior_of(handler)
    guard = _guard_generator if inspect.isasyncgenfunction(behavior) else _guard_coroutine
    return with_behavior(handler, guard(behavior, method))


def _guard_coroutine(behavior: Behavior, method: str) -> Behavior:
    async def guarded(request: Any, context: Any) -> Any:
        try:
            return await behavior(request, context)
        except Exception as error:
            await _abort(context, error, method)

    return guarded


def _guard_generator(behavior: Behavior, method: str) -> Behavior:
    async def guarded(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        try:
            async with contextlib.aclosing(behavior(request, context)) as replies:
                async for reply in replies:
                    yield reply
        except Exception as error:
            await _abort(context, error, method)

    return guarded


async def _abort(context: Any, error: Exception, method: str) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):  # the handler has spoken for itself
        raise error
    if isinstance(error, SparsyncError):
        trailing = [(ERROR_KEY, type(error).__name__), *FarBuild.here()]
        pause_ms = RetryHint.of(error)
        if pause_ms is not None:
            trailing.append((RETRY_AFTER_KEY, str(pause_ms)))
        await context.abort(grpc.StatusCode[error.status], _clip(str(error)), tuple(trailing))
    _log.error("%s raised %s", method, type(error).__name__, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, _clip(f"{type(error).__name__}: {error}"))
    raise AssertionError("abort always raises")


def _clip(message: str) -> str:
    """The longest beginning of `message` that fits into a trailer."""
    if len(quote(message)) <= MAX_DETAILS_BYTES:
        return message
    fits, size = 0, len(quote("…"))
    for letter in message:
        size += len(quote(letter))
        if size > MAX_DETAILS_BYTES:
            break
        fits += 1
    return message[:fits] + "…"


def to_error(rpc_error: grpc.RpcError, *, peer: str) -> SparsyncError:
    """The error that the other side raised, as the class that it was there.

    Without the class name in the trailers the failure is the transport's own: it is named
    after its status, with `peer` and what to do.
    """
    code = rpc_error.code() if callable(getattr(rpc_error, "code", None)) else grpc.StatusCode.UNKNOWN
    details = (rpc_error.details() if callable(getattr(rpc_error, "details", None)) else None) or ""
    trailing = _trailing(rpc_error)
    error: SparsyncError
    if code is grpc.StatusCode.UNAUTHENTICATED and is_outdated(details):
        error = Unreachable(
            f"{peer}: an older certificate of ours was refused; calling again with the newer one"
        )
    elif ERROR_KEY in trailing:
        error = by_name(trailing[ERROR_KEY])(details)
    elif code is grpc.StatusCode.INTERNAL and details == BROKEN_HERE:
        error = Unreachable(f"{peer} ended the call, or the connection broke, while a message was leaving")
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and details == TOO_MANY_CALLS:
        error = Busy(f"{peer} answers as many calls as it takes at a time; try again later")
    elif code in _WITHOUT_NAME:
        kind, advice = _WITHOUT_NAME[code]
        error = kind(f"{peer}: {details or code.name} ({code.name}): {advice}")
    else:
        error = SparsyncError(f"{peer} failed: {details or code.name} ({code.name}); see its log")
    FarBuild.put(error, trailing)
    if trailing.get(RETRY_AFTER_KEY, "").isdigit():
        RetryHint.put(error, int(trailing[RETRY_AFTER_KEY]))
    return error


def _trailing(rpc_error: grpc.RpcError) -> dict[str, str]:
    read = getattr(rpc_error, "trailing_metadata", None)
    pairs = (read() or ()) if callable(read) else ()
    return {key: value for key, value in pairs if isinstance(value, str)}


def exit_code_of(error: BaseException) -> int:
    """The exit code of a process that ends with `error` (docs/exit-codes.md)."""
    if isinstance(error, SparsyncError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return Interrupted.exit_code
    return SparsyncError.exit_code
