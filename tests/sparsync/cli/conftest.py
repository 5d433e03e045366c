"""A coordinator that answers what a test tells it, on a real socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import grpc.aio
import pytest

from wire.errors import ConfigError, NoInput, SparsyncError
from wire.rpc.identity import Security
from wire.rpc.server import serve
from wire.v1 import coordinator_pb2 as pb
from wire.v1.coordinator_pb2_grpc import CoordinatorServicer, add_CoordinatorServicer_to_server

SERVICE = pb.DESCRIPTOR.services_by_name["Coordinator"].full_name


class Answers(CoordinatorServicer):
    """Status: `statuses` one after the other, the last one for ever. The others: what a coordinator would say."""

    def __init__(self) -> None:
        self.address = ""
        self.statuses: list[dict[str, Any] | SparsyncError] = [
            {"run": "r1", "state": "running", "mode": "sync"}
        ]
        self.settings = {"sync.mode": "sync", "sync.staleness": "3"}
        self.drained: list[str] = []
        self.stops: list[str] = []
        self.lists: list[bytes] = []
        self.checkpoint: tuple[int, str] | SparsyncError = (12, "/runs/r1/checkpoints/step-12")

    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusReply:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if isinstance(status, SparsyncError):
            raise status
        return pb.StatusReply(json=json.dumps(status))

    async def Set(self, request: pb.SetRequest, context: Any) -> pb.SetReply:
        wanted = dict(request.settings)
        if unknown := sorted(wanted.keys() - self.settings.keys()):
            raise ConfigError(f"{unknown[0]}: not live; live are sync.mode and sync.staleness")
        differ = [key for key, value in self.settings.items() if wanted.get(key, value) != value]
        changed = [f"{k}={wanted[k] if wanted[k].isdigit() else json.dumps(wanted[k])}" for k in differ]
        self.settings |= wanted
        return pb.SetReply(changed=changed)

    async def Drain(self, request: pb.DrainRequest, context: Any) -> pb.DrainReply:
        if request.name != "worker-1":
            raise NoInput(f"{request.name}: no such worker in the run; expected worker-1")
        self.drained.append(request.name)
        return pb.DrainReply(incarnation=4)

    async def Checkpoint(self, request: pb.CheckpointRequest, context: Any) -> pb.CheckpointReply:
        if isinstance(self.checkpoint, SparsyncError):
            raise self.checkpoint
        step, path = self.checkpoint
        return pb.CheckpointReply(step=step, path=path)

    async def Deny(self, request: pb.DenyRequest, context: Any) -> pb.DenyReply:
        newer = request.crl not in self.lists
        self.lists.append(request.crl)
        return pb.DenyReply(newer=newer, certificates=1)

    async def Stop(self, request: pb.StopRequest, context: Any) -> pb.StopReply:
        self.stops.append(request.reason)
        return pb.StopReply(at_step=17)


@pytest.fixture
def coordinator() -> Iterator[Answers]:
    answers = Answers()
    serving, over = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        def add(server: grpc.aio.Server) -> None:
            add_CoordinatorServicer_to_server(answers, server)

        started = await serve(listen="127.0.0.1:0", security=Security(), add=add, services=[SERVICE])
        answers.address = started.address
        serving.set()
        await over.wait()
        await started.stop(0)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert serving.wait(10)
    yield answers
    loop.call_soon_threadsafe(over.set)
    thread.join(10)
    assert not thread.is_alive()
    loop.close()
