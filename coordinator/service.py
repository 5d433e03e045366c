"""The Coordinator service: decode, ask the core, encode."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc

from coordinator import actions as a
from coordinator import events as e
from coordinator.admission import address_of, check_words, shown
from coordinator.engine import Engine
from coordinator.records import switching_to
from coordinator.report import status
from wire.config import amend, toml_value
from wire.errors import ProtocolMismatch, StaleIncarnation, UsageError
from wire.ids import PROTOCOL_VERSION
from wire.messages import layout_from_proto, optimizer_from_proto, placement_to_proto
from wire.rpc.access import InRun, check_name
from wire.rpc.identity import peer_of
from wire.rpc.revocation import Revocations
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc
from wire.words import cut_words

Context = grpc.aio.ServicerContext[Any, Any]


class CoordinatorService(coordinator_pb2_grpc.CoordinatorServicer):
    """Handlers around one engine.

    Attributes:
        looked: what the run looked like when all that was decided was durable.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._heartbeat_lines = itertools.count(1)
        self.revocations: Revocations | None = None
        self.look()

    def look(self) -> None:
        """Keep what the run looks like now, unless it holds decisions that are not durable."""
        if not self._engine.stalled:
            self.looked = status(self._engine)

    async def Join(self, request: coordinator_pb2.JoinRequest, context: Context) -> coordinator_pb2.JoinReply:
        if request.role not in ("worker", "ps"):
            raise ProtocolMismatch(f"role {request.role[:20]!a} joins no run; expected worker or ps")
        check_words(request.role, request.name, request.fingerprint)
        if request.protocol_version != PROTOCOL_VERSION:
            raise ProtocolMismatch(
                f"{request.role} {request.name} speaks protocol version {request.protocol_version}, this coordinator "
                f"{PROTOCOL_VERSION}; install the same version of Sparsync on both machines"
            )
        peer = peer_of(context)
        check_name(peer, role=request.role, name=request.name)
        address = address_of(request.role, request.address)
        if request.role == "ps":
            self._engine.check_held(peer, InRun(request.run, request.timeline), request.incarnation)
        joined = await self._engine.ask(
            lambda key: e.Join(
                key,
                request.role,
                request.name,
                address,
                request.fingerprint,
                request.pid,
                shown(request.host),
                request.run,
                request.timeline,
                request.incarnation,
            )
        )
        assert isinstance(joined, a.Joined)
        engine = self._engine
        return coordinator_pb2.JoinReply(
            protocol_version=PROTOCOL_VERSION,
            run=engine.state.run,
            timeline=engine.state.timeline,
            incarnation=joined.incarnation,
            config_json=engine.config.to_json(),
            out=str(engine.out),
            origin=engine.state.origin,
        )

    async def Declare(
        self, request: coordinator_pb2.DeclareRequest, context: Context
    ) -> coordinator_pb2.DeclareReply:
        self._engine.check_own(peer_of(context), request.incarnation)
        declared = await self._engine.ask(
            lambda key: e.Declare(
                key,
                request.incarnation,
                layout_from_proto(request.parameters),
                optimizer_from_proto(request.optimizer),
            )
        )
        assert isinstance(declared, a.Declared)
        return coordinator_pb2.DeclareReply(
            placement=placement_to_proto(declared.placement), plan=declared.plan, upload=declared.upload
        )

    async def Heartbeat(
        self, request_iterator: AsyncIterator[coordinator_pb2.Beat], context: Context
    ) -> coordinator_pb2.HeartbeatEnd:
        line, beats = next(self._heartbeat_lines), aiter(request_iterator)
        first = await anext(beats, None)
        if first is None:
            return coordinator_pb2.HeartbeatEnd()
        incarnation = first.incarnation
        self._engine.check_own(peer_of(context), incarnation)
        self._engine.check_present(incarnation)
        heard = e.Beat(incarnation, line)
        try:
            self._engine.hear(heard)
            async for beat in beats:
                if beat.incarnation != incarnation:
                    raise ProtocolMismatch(
                        f"a beat of incarnation {beat.incarnation} on the stream of {incarnation}; open another one"
                    )
                self._engine.hear(heard)
        finally:
            self._engine.hear(e.BeatsEnded(incarnation, line))
        return coordinator_pb2.HeartbeatEnd()

    async def Attend(
        self, request_iterator: AsyncIterator[coordinator_pb2.WorkerReport], context: Context
    ) -> AsyncIterator[coordinator_pb2.WorkerOrder]:
        reports = aiter(request_iterator)
        first = await anext(reports, None)
        if first is None or not first.HasField("attending"):
            raise ProtocolMismatch("the first report of a line must be `attending`")
        incarnation = first.attending.incarnation
        self._engine.check_own(peer_of(context), incarnation)
        orders = self._engine.attach(incarnation)
        await context.send_initial_metadata(())  # the first order may be long in coming
        listening = asyncio.create_task(self._listen(incarnation, reports))
        getting: asyncio.Task[coordinator_pb2.WorkerOrder | None] | None = None
        try:
            while True:
                getting = asyncio.create_task(orders.get())
                await asyncio.wait({getting, listening}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    await listening
                    return
                order = getting.result()
                if order is None:
                    raise StaleIncarnation(f"another line of incarnation {incarnation} was opened")
                yield order
                if order.HasField("end"):
                    return
        finally:
            listening.cancel()
            if getting is not None:
                getting.cancel()
            self._engine.detach(incarnation, orders)

    async def _listen(self, incarnation: int, reports: AsyncIterator[coordinator_pb2.WorkerReport]) -> None:
        async for report in reports:
            cut_words(report)
            self._engine.report(incarnation, report)

    async def Status(
        self, request: coordinator_pb2.StatusRequest, context: Context
    ) -> coordinator_pb2.StatusReply:
        """While the disk is full: as the run was before, and what is wrong."""
        self.look()
        now: dict[str, object] = {"address": self._engine.address}
        if stalled := self._engine.stalled:
            now["reason"] = stalled
        return coordinator_pb2.StatusReply(json=json.dumps(self.looked | now))

    async def Stop(self, request: coordinator_pb2.StopRequest, context: Context) -> coordinator_pb2.StopReply:
        cut_words(request)
        reason = request.reason or "an operator asked"
        stopped = await self._engine.ask(lambda key: e.StopAsked(key, reason))
        assert isinstance(stopped, a.Stopped)
        return coordinator_pb2.StopReply(at_step=self._engine.rounds.first_step(stopped.at_step))

    async def Checkpoint(
        self, request: coordinator_pb2.CheckpointRequest, context: Context
    ) -> coordinator_pb2.CheckpointReply:
        saved = await self._engine.ask(e.CheckpointAsked)
        assert isinstance(saved, a.Saved)
        return coordinator_pb2.CheckpointReply(
            step=self._engine.rounds.first_step(saved.step), path=saved.path
        )

    async def Set(self, request: coordinator_pb2.SetRequest, context: Context) -> coordinator_pb2.SetReply:
        engine = self._engine
        before, after = engine.config, amend(engine.config, dict(request.settings))
        await engine.ask(lambda key: e.SetAsked(key, switching_to(after)))
        engine.config = after
        old, new = before.sync.model_dump(), after.sync.model_dump()
        changed = [f"sync.{key}={toml_value(new[key])}" for key in new if new[key] != old[key]]
        return coordinator_pb2.SetReply(changed=changed)

    async def Deny(self, request: coordinator_pb2.DenyRequest, context: Context) -> coordinator_pb2.DenyReply:
        if self.revocations is None:
            raise UsageError("nobody shows a certificate here: this coordinator serves plain text")
        newer = self.revocations.take(request.crl)
        return coordinator_pb2.DenyReply(newer=newer, certificates=len(self.revocations.serials))

    async def Drain(
        self, request: coordinator_pb2.DrainRequest, context: Context
    ) -> coordinator_pb2.DrainReply:
        drained = await self._engine.ask(lambda key: e.DrainAsked(key, request.name))
        assert isinstance(drained, a.Done)
        return coordinator_pb2.DrainReply(incarnation=drained.incarnation)
