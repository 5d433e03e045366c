"""A run started by hand whose roles all have certificates, and calls to it with any credential."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import grpc
import grpc.aio

from sparsync.control import Control
from tests.cluster.roles import COORDINATOR, Cluster
from tests.cluster.roles import Role as Started
from wire.errors import Unreachable
from wire.ids import PROTOCOL_VERSION
from wire.rpc.access import InRun
from wire.rpc.audit import AUDIT_FILE
from wire.rpc.channel import open_channel
from wire.rpc.identity import Role, Security
from wire.rpc.in_run import InRunChannel
from wire.rpc.status import BROKEN_HERE, to_error
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc

ROLES = {"coordinator": Role.COORDINATOR, "ps": Role.PS, "worker": Role.WORKER}
PASSING = frozenset({"uptime_s", "beat_age_s", "at"})
"""What a status has that changes with time alone."""


def flags(security: Security) -> list[str]:
    return [
        *("--tls-ca", str(security.tls_ca)),
        *("--tls-cert", str(security.tls_cert)),
        *("--tls-key", str(security.tls_key)),
    ]


class Guarded(Cluster):
    """A cluster over mutual TLS.

    Args:
        member: makes the files of a role and name.
    """

    def __init__(self, base: Path, settings: Mapping[str, object], *, member: Any, **more: Any) -> None:
        self._member = member
        super().__init__(base, settings, **more)

    def _start(self, name: str, words: Sequence[str], environ: Mapping[str, str] | None = None) -> Started:
        bearer = self._member(ROLES[words[0]], name.partition(".gpu")[0])
        return super()._start(name, [words[0], *flags(bearer), *words[1:]], environ)

    def status(self) -> dict[str, Any]:
        """Waited for, where the coordinator is just being started."""
        deadline = time.monotonic() + 10
        while True:
            try:
                return asyncio.run(self._status())
            except Unreachable:
                if self.over() or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    async def _status(self) -> dict[str, Any]:
        async with Control(self.address, self._member(Role.OPERATOR, "ann")) as control:
            return await control.status(timeout_s=10)

    def command(self, *words: str) -> CompletedProcess[str]:
        return super().command(*words, *flags(self._member(Role.OPERATOR, "ann")))

    def of(self, name: str) -> Path:
        """The data directory of a server or worker."""
        return self._base / name

    @property
    def run(self) -> InRun:
        began = self.events("began")[-1]
        return InRun(began["run"], began["timeline"])

    # --- what must not change ------------------------------------------------------------

    def journaled(self) -> int:
        """Decisions in the journal so far."""
        with closing(sqlite3.connect(f"file:{self.out / 'journal.sqlite'}?mode=ro", uri=True)) as journal:
            return int(journal.execute("SELECT count(*) FROM records").fetchone()[0])

    def logged(self, server: str) -> dict[str, int]:
        """Sizes of all that a server keeps of its shard."""
        base = self.of(server)
        kept = [
            path for folder in ("log", "snapshots", "base", "streams") for path in base.glob(f"{folder}/**/*")
        ]
        return {str(path.relative_to(base)): path.stat().st_size for path in kept if path.is_file()}

    def still(self, server: str) -> dict[str, Any]:
        """All that a refused call must leave as it is."""
        return {
            "status": without(self.status(), PASSING),
            "journal": self.journaled(),
            "log": self.logged(server),
        }

    def audited(self, where: str = COORDINATOR) -> list[dict[str, Any]]:
        """The audit log of the coordinator, or of a server by name."""
        path = (self.out if where == COORDINATOR else self.of(where)) / AUDIT_FILE
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def without(value: Any, names: frozenset[str]) -> Any:
    """A JSON value without the fields of these names, at any depth."""
    if isinstance(value, dict):
        return {key: without(inner, names) for key, inner in value.items() if key not in names}
    return [without(inner, names) for inner in value] if isinstance(value, list) else value


async def call(
    channel: grpc.aio.Channel, method: str, *requests: Any, run: InRun | None = None, limit_s: float = 10.0
) -> str:
    """`OK`, or code and class of what the call is refused with.

    Who is refused while he still sends may be told by gRPC that sending failed, and asks again like every role.
    """
    caller: Any = channel if run is None else InRunChannel(channel, run)
    while True:
        messages = iter([request.SerializeToString() for request in requests])
        calling = caller.stream_stream(method)(messages, timeout=limit_s)
        try:
            while await calling.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            if error.details() != BROKEN_HERE:
                return f"{error.code().name} {type(to_error(error, peer='it')).__name__}"
        else:
            return "OK"
        finally:
            calling.cancel()


async def calls(
    address: str, bearer: Security, role: Role, messages: Mapping[str, Sequence[Any]], *, run: InRun | None
) -> dict[str, str]:
    """Method -> outcome of a call to a role with these requests."""
    channel = open_channel(address, bearer, role=role, pool="control")
    try:
        found = await asyncio.gather(*(call(channel, m, *sent, run=run) for m, sent in messages.items()))
    finally:
        await channel.close(None)
    return dict(zip(messages, found, strict=True))


async def join(channel: grpc.aio.Channel, name: str) -> int:
    """A new incarnation of a worker."""
    request = coordinator_pb2.JoinRequest(protocol_version=PROTOCOL_VERSION, role="worker", name=name)
    reply = await coordinator_pb2_grpc.CoordinatorStub(channel).Join(request, timeout=10)
    return int(reply.incarnation)


class Beating(threading.Thread):
    """Beats for one incarnation, until it is ended."""

    def __init__(self, address: str, bearer: Security, *, run: InRun, incarnation: int) -> None:
        super().__init__()
        self._address, self._bearer, self._run, self._incarnation = address, bearer, run, incarnation
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        channel = open_channel(self._address, self._bearer, role=Role.COORDINATOR, pool="control")
        stub = coordinator_pb2_grpc.CoordinatorStub(InRunChannel(channel, self._run))
        await stub.Heartbeat(self._beats())
        await channel.close(None)

    async def _beats(self) -> AsyncIterator[coordinator_pb2.Beat]:
        while not self._over.is_set():
            yield coordinator_pb2.Beat(incarnation=self._incarnation)
            await asyncio.sleep(0.2)

    def end(self) -> None:
        self._over.set()
        self.join()
