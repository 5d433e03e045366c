"""The gate: every call to a server passes here before its handler runs, health and reflection included.

It asks who calls (wire/rpc/identity.py), whether the role may and the run is right (wire/rpc/access.py), writes down
what is to be (wire/rpc/audit.py), and ends the calls of certificates that are denied while they run, or end: a
handshake looks at dates, and a connection outlives it. All of this once a call or stream: the messages of a stream
pass without being looked at.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.message import Message

from wire.clock import utc_now
from wire.errors import PermissionRefused, SparsyncError, StaleIncarnation, Unidentified, WrongRun
from wire.rpc.access import RULES, InRun, Rule, check_role, check_run, told_run
from wire.rpc.audit import Audit
from wire.rpc.handlers import Behavior, behavior_of, with_behavior
from wire.rpc.identity import Peer, Role, peer_of

log = logging.getLogger(__name__)
REFUSALS = (PermissionRefused, Unidentified, WrongRun, StaleIncarnation)
"""What a handler may find only when it reads a message; written down like what is found here."""
CUT_S = 1.0
"""So long a reply that is on its way to somebody who is denied may take."""
OPERATORS = frozenset({Role.OPERATOR})
MOST_ASKED = 500
"""Letters of a request in the audit log."""

if TYPE_CHECKING:
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:  # generic in the stubs alone
    _Interceptor = grpc.aio.ServerInterceptor


@dataclass(eq=False)
class _Visit:
    """A call that is running.

    `writing`: a reply is on its way. gRPC takes no status before that has left, so who is cut then is cut behind it.
    """

    task: asyncio.Task[Any] | None
    ended: Unidentified | None = None
    writing: bool = False

    def end(self, error: Unidentified) -> None:
        """Whose call it is may call no more."""
        self.ended = error
        if self.writing:
            asyncio.get_running_loop().call_later(CUT_S, self._cut)
        else:
            self._cut()

    def _cut(self) -> None:
        if self.task is not None and not self.task.done():
            self.task.cancel()


class Gate(_Interceptor):
    """Lets calls through to one server.

    Args:
        audit: where refusals and what operators do is written.
        run: the run that is served, once that is known; absent: calls of any run are let through.
        rules: by full method name.
        now: the date, which certificates have as well.
    """

    def __init__(
        self,
        *,
        audit: Audit | None = None,
        run: Callable[[], Awaitable[InRun]] | None = None,
        rules: Mapping[str, Rule] = RULES,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._audit = audit or Audit(None)
        self._run = run
        self._rules = rules
        self._now = now
        self._denied: frozenset[str] = frozenset()
        self._visits: dict[Peer, set[_Visit]] = {}

    def deny(self, serials: frozenset[str]) -> None:
        """From now on refuse the certificates of these serial numbers, and end their calls that run."""
        self._denied = serials
        for peer in [peer for peer in self._visits if peer.serial in serials]:
            for visit in list(self._visits[peer]):
                visit.end(_revoked(peer))

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        unknown_method = not handler  # None, whatever the stubs say; gRPC then answers UNIMPLEMENTED
        if unknown_method:
            return handler
        told = told_run(handler_call_details.invocation_metadata)
        return with_behavior(handler, self._guard(behavior_of(handler), handler_call_details.method, told))

    def _guard(self, behavior: Behavior, method: str, told: str | None) -> Behavior:
        pours = inspect.isasyncgenfunction(behavior)

        async def guarded(request: Any, context: Any) -> Any:
            call = _Call(method, context.peer())
            try:
                call.peer = peer_of(context)
                with self._visiting(call.peer) as visit:
                    call.rule = await self._admit(call.peer, method, told)
                    if not pours:
                        reply = await behavior(request, context)
                    else:
                        reply = None
                        await _pour(behavior(request, context), context, visit)
                        if visit.ended:
                            raise visit.ended
            except (Exception, asyncio.CancelledError) as error:
                self._failed(call, request, error)
                raise
            if call.audited:
                self._audit.write(call.entry("ok", asked=_asked(request)), operators=call.steers)
            return reply

        return guarded

    async def _admit(self, peer: Peer, method: str, told: str | None) -> Rule | None:
        """Raises: what the caller is refused with."""
        rule = check_role(peer, method, self._rules)
        if rule is not None and rule.of_run and self._run is not None:
            check_run(peer, told, await self._run())
        return rule

    @contextmanager
    def _visiting(self, peer: Peer) -> Iterator[_Visit]:
        """The call runs within. Raises: Unidentified as soon as its certificate holds no more."""
        visit = _Visit(asyncio.current_task())
        if peer.ends is None:
            yield visit
            return
        if peer.serial in self._denied:
            raise _revoked(peer)
        left_s = (peer.ends - self._now()).total_seconds()
        if left_s <= 0:
            raise _over(peer)
        timer = asyncio.get_running_loop().call_later(left_s, visit.end, _over(peer))
        visits = self._visits.setdefault(peer, set())
        visits.add(visit)
        try:
            yield visit
        except asyncio.CancelledError:
            if visit.ended is None:
                raise
            if visit.writing:  # a reader who does not read: nothing can be said to him any more
                raise _Unheard(str(visit.ended)) from None
            assert visit.task is not None
            visit.task.uncancel()
            raise visit.ended from None
        finally:
            timer.cancel()
            visits.discard(visit)
            if not visits:
                self._visits.pop(peer, None)

    def _failed(self, call: _Call, request: Any, error: BaseException) -> None:
        told = {"code": _code(error), "error": type(error).__name__, "reason": str(error)}
        if isinstance(error, _Unheard):
            told |= {"error": Unidentified.__name__}
        if isinstance(error, (*REFUSALS, _Unheard)):
            self._audit.refuse(call.entry("refused", **told))
        elif call.steers:
            self._audit.write(call.entry("failed", asked=_asked(request), **told), operators=True)
        elif call.audited:
            self._audit.refuse(call.entry("failed", asked=_asked(request), **told))


@dataclass
class _Call:
    """What is known of a call so far."""

    method: str
    address: str
    peer: Peer | None = None
    rule: Rule | None = None

    @property
    def audited(self) -> bool:
        return self.rule is not None and self.rule.audited

    @property
    def steers(self) -> bool:
        """Whether it is audited and operators' alone."""
        return self.rule is not None and self.rule.audited and self.rule.roles == OPERATORS

    def entry(self, result: str, **more: object) -> dict[str, object]:
        """A line of the audit log."""
        peer = self.peer
        return {
            "who": peer.name if peer else "",
            "role": str(peer.role) if peer and peer.role else "",
            "serial": peer.serial if peer else "",
            "from": self.address,
            "method": self.method,
            "result": result,
            **more,
        }


class _Unheard(asyncio.CancelledError):
    """A call whose certificate holds no more ends without a status."""


async def _pour(replies: AsyncGenerator[Any, None], context: Any, visit: _Visit) -> None:
    """Write the replies, until the call is ended."""
    async with aclosing(replies):
        async for reply in replies:
            visit.writing = True
            await context.write(reply)
            visit.writing = False
            if visit.ended:
                return


def _code(error: BaseException) -> str:
    """As the caller sees it; who cancels his call sees nothing more."""
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED"
    return error.status if isinstance(error, SparsyncError) else "INTERNAL"


def _revoked(peer: Peer) -> Unidentified:
    return Unidentified(
        f"the certificate of {peer} (serial {peer.serial}) is revoked; have another one issued"
    )


def _over(peer: Peer) -> Unidentified:
    return Unidentified(
        f"the certificate of {peer} (serial {peer.serial}) was good until {peer.ends:%Y-%m-%d %H:%M:%S} UTC; "
        f"have the next one issued: `sparsync certs renew {peer}`"
    )


def _asked(request: Any) -> str:
    """A request in words, as far as they go; a stream is none."""
    if not isinstance(request, Message):
        return ""
    text = json_format.MessageToJson(request, indent=None, preserving_proto_field_name=True)
    return text if len(text) <= MOST_ASKED else text[:MOST_ASKED] + "…"
