"""Whether who calls is who the message says: asked once a call, of callers with a certificate.

What the coordinator told of the run's members (ps/members.py) decides. A process may be faster here than the word
that it joined: that is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from ps.members import Member, Members
from wire.errors import PermissionRefused, Unreachable
from wire.rpc.access import check_owner
from wire.rpc.identity import Peer, Role
from wire.v1 import shard_pb2

T = TypeVar("T")
TOLD_S = 2.0
"""A line to the coordinator that breaks is open again within this time."""


class Callers:
    """Judges callers by what was told so far."""

    def __init__(self) -> None:
        self._members = Members()
        self._told = asyncio.Event()

    def meet(self, message: shard_pb2.Meet) -> None:
        """The coordinator tells of members."""
        members = (Member(m.incarnation, m.role, m.name) for m in message.members)
        self._members.meet(
            members, uploader=message.uploader, evaluator=message.evaluator, standby=message.standby
        )
        self._told.set()
        self._told = asyncio.Event()

    async def check(self, peer: Peer, incarnation: int) -> None:
        """Whether `peer` goes by this incarnation.

        Raises:
            PermissionRefused: another one does.
            StaleIncarnation: nobody does.
            Unreachable: this server has not been told yet.
        """
        if peer.role is None:
            return
        member = await self._when(lambda: self._members.find(incarnation))
        if member is None:
            raise Unreachable(f"this server was not told yet who incarnation {incarnation} is; call again")
        check_owner(peer, incarnation, role=member.role, name=member.name)

    async def check_reader(self, peer: Peer, incarnation: int) -> None:
        """As `check`, for what viewers and operators may read as well: they go by no incarnation."""
        if peer.role not in (Role.VIEWER, Role.OPERATOR):
            await self.check(peer, incarnation)

    async def check_uploader(self, peer: Peer, incarnation: int) -> None:
        """Whether `peer` is the worker that was asked to upload the initial parameters. Raises: as `check`."""
        await self.check(peer, incarnation)
        if peer.role is None:
            return
        if not await self._when(lambda: self._members.uploader == incarnation or None):
            raise PermissionRefused(
                f"{peer} (incarnation {incarnation}) uploads initial parameters, but "
                f"{self._members.uploader or 'nobody'} was asked to"
            )

    async def check_standby(self, peer: Peer, incarnation: int) -> None:
        """Whether a server that goes by this incarnation is the standby of the shard here.

        Raises: PermissionRefused; a standby calls again whatever it is refused with.
        """
        if peer.role is None:
            return
        if not await self._when(lambda: self._members.standby == incarnation or None):
            raise PermissionRefused(
                f"{peer} (incarnation {incarnation}) follows this shard, but its standby is "
                f"{self._members.standby or 'nobody'}"
            )

    async def check_evaluator(self, peer: Peer, incarnation: int) -> None:
        """Whether a worker that goes by this incarnation was asked to evaluate x.

        One that was asked may ask here before that is told, for as long as the line to the coordinator is broken.

        Raises: Unreachable, which it takes for a reason to ask again.
        """
        if peer.role is not Role.WORKER:
            return
        if not await self._when(lambda: incarnation in self._members.evaluators or None):
            asked = ", ".join(map(str, sorted(self._members.evaluators))) or "nobody"
            raise Unreachable(
                f"{peer} (incarnation {incarnation}) asks for x, which is for the worker that evaluates it; "
                f"{asked} was asked to: call again"
            )

    async def _when(self, ask: Callable[[], T | None]) -> T | None:
        """What `ask` finds, as soon as that was told; None: not in time."""
        try:
            async with asyncio.timeout(TOLD_S):
                while (found := ask()) is None:
                    await self._told.wait()
                return found
        except TimeoutError:
            return None
