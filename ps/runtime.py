"""The server's process: recover, listen, join, serve until the coordinator says that the run is over.

DIR/lock, identity.json, term.json     one process; who it is in the run; whom it obeys
DIR/log, DIR/snapshots                 the shard (ps/archive.py)
DIR/base, DIR/streams                  what workers' recovery needs beside it (ps/store.py)
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import grpc
import torch

from ps import optimizer
from ps.control import Control, Place
from ps.holdings import Identity
from ps.metrics import Metrics
from ps.owner import Owner
from ps.recovery import Recovered, key_of, load_identity, recover, save_identity
from ps.service import ShardService
from ps.standby import Standby
from ps.tally import Tally
from ps.terms import TermGuard
from ps.vitals import status_line, watch
from wire.clock import monotonic_clock
from wire.codec import kernels
from wire.compiled import fill_cache
from wire.config import Config, environment
from wire.errors import Busy, DamagedFile, SparsyncError, StaleIncarnation, Unreachable
from wire.files import own
from wire.memory import keep_freed_memory
from wire.notify import Notify
from wire.rounds import Rounds
from wire.rpc.audit import AUDIT_FILE, Audit
from wire.rpc.channel import reach
from wire.rpc.frames import add_shard_service
from wire.rpc.gate import Gate
from wire.rpc.handshakes import told_handshakes
from wire.rpc.identity import Role, Security
from wire.rpc.join import join
from wire.rpc.revocation import is_revoked, open_revocations
from wire.rpc.server import serve
from wire.telemetry import Logs, TelemetryFlags, log_to_stderr
from wire.trace_file import traced
from wire.v1 import coordinator_pb2

log = logging.getLogger(__name__)
T = TypeVar("T")
SERVICE = "sparsync.v1.Shard"
ALONE_S = 900.0
"""A server whose coordinator has not been heard for this long has no run any more."""
IMAGE_S, RECORD_S = 600.0, 60.0
"""While a shard is recovered the start may take so long: until its image is in, until its next record is."""
DROPPED_S = 5.0
"""A server that is not attended for so long, by a coordinator that can be reached, asks whether it is counted on."""


def run(
    *,
    coordinator: str,
    join_timeout_s: float,
    listen: str,
    advertise: str | None,
    data_dir: Path,
    name: str,
    security: Security,
    telemetry: TelemetryFlags,
) -> int:
    """Serve one shard until the run is over; the exit code.

    Raises: SparsyncError, with the exit code that it knows.
    """
    logs = log_to_stderr("ps", name, form=telemetry.log_format)
    keep_freed_memory()
    fill_cache()
    kernels.warm()  # compiled or loaded before anybody waits for this server
    optimizer.warm()
    try:
        knows = os.access(data_dir, os.F_OK)
        return asyncio.run(
            _serve(
                coordinator,
                name,
                data_dir,
                security,
                listen,
                advertise,
                join_timeout_s,
                logs,
                telemetry,
                knows=knows,
            )
        )
    finally:
        gc.freeze()  # the interpreter's last collection would take seconds over torch's modules


async def _serve(
    coordinator: str,
    name: str,
    data_dir: Path,
    security: Security,
    listen: str,
    advertise: str | None,
    join_timeout_s: float,
    logs: Logs,
    telemetry: TelemetryFlags,
    *,
    knows: bool,
) -> int:
    """What is on the disk is looked at before anybody is asked; where no coordinator answers no directory is made."""

    async def reached() -> grpc.aio.Channel:
        return await reach(
            coordinator,
            security,
            role=Role.COORDINATOR,
            pool="control",
            timeout_s=join_timeout_s,
            say=log.info,
        )

    channel = None if knows else await reached()
    with own(data_dir, "server"):
        server = Server(coordinator, name, data_dir, security, logs, metrics=telemetry.metrics)
        try:
            recovered = await server.recover()
        except Busy as error:
            log.info("asked to end while its disk was full: %s", error)
            return 0
        channel = channel or await server.unless_ended(reached())
        if channel is None:
            return 0
        return await server.run(channel, listen, advertise, join_timeout_s, recovered)


class Server:
    """One server, from its start to its end.

    Args:
        coordinator: host:port.
        directory: for its files.
    """

    def __init__(
        self,
        coordinator: str,
        name: str,
        directory: Path,
        security: Security,
        logs: Logs,
        *,
        metrics: str | None = None,
    ) -> None:
        self._coordinator = coordinator
        self._name = name
        self._directory = directory
        self._security = security
        self._logs = logs
        self._metrics = metrics
        self._watched = ExitStack()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._owner = Owner(directory, on_broken=self._fail)
        self._standby = Standby(self._owner, security, lambda: self._identity)
        self._control = Control(
            self._owner, self._standby, finish=self._finish, dismiss=self._dismiss, deny=self._deny
        )
        self._audit = Audit(directory / AUDIT_FILE)
        self._gate = Gate(audit=self._audit, run=self._control.run)
        self._revocations = open_revocations(security, directory, tell=self._gate.deny)
        self._over = False
        self._asked_to_end = threading.Event()
        self._notify = Notify(environment())

    async def recover(self) -> Recovered | None:
        """The shard that is on the disk. Raises: DamagedFile; Busy where it was asked to end on a full disk."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave)
        self._notify.extend_start(IMAGE_S)
        return await loop.run_in_executor(
            None,
            lambda: recover(
                self._directory,
                ended=self._asked_to_end,
                progressed=lambda: self._notify.extend_start(RECORD_S),
            ),
        )

    async def unless_ended(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` comes to; None once this server was asked to end."""
        task = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {task, self._ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            return None
        return task.result()

    async def run(
        self,
        channel: grpc.aio.Channel,
        listen: str,
        advertise: str | None,
        join_timeout_s: float,
        recovered: Recovered | None,
    ) -> int:
        """The exit code. Raises: SparsyncError."""
        service = ShardService(self._owner, self._control)
        if self._security.tls:
            self._watched.enter_context(told_handshakes(self._audit))
        serving = await serve(
            listen=listen,
            security=self._security,
            add=lambda server: add_shard_service(service, server),
            services=[SERVICE],
            gate=self._gate,
        )
        address = advertise or serving.address
        watching: asyncio.Task[None] | None = None
        try:
            await self._join(channel, address, join_timeout_s, recovered)
            self._watch(service.tally, port=serving.port)
            await serving.serving()
            self._notify.ready(status_line(self._owner, self._identity.run))
            watching = asyncio.create_task(watch(self._owner, self._notify, self._identity.run))
            reason = await self._until_ended(channel, address, join_timeout_s)
            log.info("the run is over: %s", reason)
            return 0
        finally:
            if watching is not None:
                watching.cancel()
            self._notify.stopping("this server ends")
            self._watched.close()
            self._control.end()
            await self._standby.stop()
            await self._owner.end()
            await serving.stop(1.0)
            await channel.close(None)
            self._owner.close(forget=self._over)
            self._audit.close()

    async def _join(
        self, channel: grpc.aio.Channel, address: str, timeout_s: float, recovered: Recovered | None
    ) -> None:
        """Enter the run: with the shard that was recovered, if the run still counts on it, else with nothing."""
        held = load_identity(self._directory) if recovered is not None else None
        reply = await self._ask_to_join(channel, address, timeout_s, held)
        config = Config.from_json(reply.config_json)
        self._logs.follow(config.telemetry)
        self._out = Path(reply.out)
        self._config, self._rounds = config, Rounds.of(config, origin=reply.origin)
        self._logs.clock = self._clock
        torch.set_num_threads(config.cluster.compute_threads)
        self._identity = Identity(reply.run, reply.timeline, reply.incarnation, reply.config_json)
        self._owner.admit_bytes = config.cluster.admit_bytes
        self._owner.archive.level = config.durability.ack
        if recovered is not None and held == key_of(self._identity):
            self._owner.adopt(recovered, self._identity, replicas=config.durability.replicas)
        else:
            await self._owner.clear()
        save_identity(self._directory, self._identity)
        terms = TermGuard(self._directory / "term.json", scope=f"{reply.run} timeline {reply.timeline}")
        self._control.joined(Place(self._identity, config, terms))
        log.info(
            "joined run %s as %s (incarnation %d), serving on %s",
            reply.run,
            self._name,
            reply.incarnation,
            address,
        )

    def _watch(self, tally: Tally, *, port: int) -> None:
        """Write spans and serve the metrics, where they were asked for."""
        run, rounds, directory = self._identity.run, self._rounds, self._directory
        if self._config.telemetry.trace:
            self._watched.enter_context(traced(directory, role="ps", id=self._name, run=run, rounds=rounds))
        if listen := self._metrics or self._config.telemetry.metrics:
            told = Metrics(
                self._owner,
                self._control,
                self._standby,
                tally,
                port=port,
                rounds=rounds,
                replicas=self._config.durability.replicas,
            )
            serving = told.serve(
                listen,
                self._security,
                id=self._name,
                run=run,
                places=[self._out, directory],
                audit=self._audit,
                denied=lambda serial: is_revoked(self._revocations, serial),
            )
            self._watched.enter_context(serving)

    def _clock(self) -> int | None:
        """The step that this server's newest delta led to, as people count; None before there is a shard."""
        owner = self._owner
        return self._rounds.first_step(owner.shard.deltas.clock) if owner.configured else None

    async def _ask_to_join(
        self, channel: grpc.aio.Channel, address: str, timeout_s: float, held: tuple[str, int, int] | None
    ) -> coordinator_pb2.JoinReply:
        return await join(
            channel,
            role="ps",
            name=self._name,
            coordinator=self._coordinator,
            timeout_s=timeout_s,
            address=address,
            held=held,
        )

    async def _until_ended(self, channel: grpc.aio.Channel, address: str, timeout_s: float) -> str:
        """The reason for the end.

        Raises:
            Unreachable: the coordinator is gone for good.
            StaleIncarnation: the run counts on this server no more.
        """
        clock = monotonic_clock
        heard = attended = clock.now()
        while not self._ended.done():
            await asyncio.wait({self._ended}, timeout=1.0)
            if self._revocations is not None:
                self._revocations.look()
            now = clock.now()
            up = channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY
            attended = now if self._control.attached.is_set() or not up else attended
            heard = now if up or self._control.attached.is_set() else heard
            if now - heard > ALONE_S:
                raise Unreachable(
                    f"coordinator {self._coordinator} has not been heard for {ALONE_S:.0f} s; this server ends, its "
                    f"shard stays in {self._directory}: start it again when the coordinator is back"
                )
            if now - attended > DROPPED_S:
                await self._ask_again(channel, address, timeout_s)
                attended = now
        return self._ended.result()

    async def _ask_again(self, channel: grpc.aio.Channel, address: str, timeout_s: float) -> None:
        """Whether the run still counts on this server. Raises: StaleIncarnation if not."""
        reply = await self._ask_to_join(channel, address, timeout_s, key_of(self._identity))
        if (reply.run, reply.timeline, reply.incarnation) != key_of(self._identity):
            raise StaleIncarnation(
                f"run {reply.run} does not count on incarnation {self._identity.incarnation} of {self._name} any more: "
                "another server has its shard; start this one again, empty"
            )

    def _deny(self, crl: bytes) -> None:
        """Certificates were revoked. A list that cannot be read or kept here is no reason to end the run."""
        if self._revocations is None:
            return
        try:
            self._revocations.take(crl)
        except (SparsyncError, OSError) as error:
            log.error("the coordinator's list of revoked certificates: %s", error)

    def _leave(self) -> None:
        """A signal: end, whatever is waited for."""
        self._asked_to_end.set()
        self._end("asked to end")

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)

    def _finish(self, reason: str) -> None:
        """The run is over: nobody needs the shard any more."""
        self._over = True
        self._end(reason)

    def _dismiss(self, reason: str) -> None:
        """The run counts on this server no more: its shard is served elsewhere."""
        self._owner.serves = False
        if not self._ended.done():
            self._ended.set_exception(
                StaleIncarnation(f"{reason}; start this server again, it joins anew with nothing")
            )

    def _fail(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(
                DamagedFile(
                    f"the log cannot be written any more ({error}); check the disk, then start this server again"
                )
            )
