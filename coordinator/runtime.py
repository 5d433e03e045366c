"""The coordinator's process: its directory, its journal, its server, its end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import grpc

from coordinator.chronicle import Chronicle
from coordinator.core import Core
from coordinator.desk import Rules
from coordinator.engine import Engine
from coordinator.event_log import EventLog
from coordinator.metrics import IN_THE_RUN, serve_metrics
from coordinator.office import take_office
from coordinator.report import summary
from coordinator.service import CoordinatorService
from coordinator.state import State
from coordinator.vitals import Vitals
from wire.clock import monotonic_clock
from wire.config import Config, environment
from wire.errors import by_name
from wire.files import own
from wire.notify import Notify
from wire.rounds import Rounds
from wire.rpc.audit import AUDIT_FILE, Audit
from wire.rpc.gate import Gate
from wire.rpc.handshakes import told_handshakes
from wire.rpc.identity import Security
from wire.rpc.revocation import Revocations, is_revoked, open_revocations
from wire.rpc.server import serve
from wire.telemetry import Logs, TelemetryFlags, log_to_stderr
from wire.trace_file import traced
from wire.v1 import coordinator_pb2_grpc

log = logging.getLogger(__name__)
SERVICE = "sparsync.v1.Coordinator"
MOST_MESSAGE_BYTES = 8 << 20
"""Received: the longest are the layout of a model, a hundred bytes a tensor, and an authority's list of the revoked."""
FAREWELL_S = 10.0
LOOK_S = 1.0
GO_AWAY = signal.SIGUSR1
"""Ends this process and not the run, as the end of a machine does: what a service manager sends to stop it."""


def run(
    config: Config,
    *,
    listen: str,
    advertise: str | None,
    data_dir: Path,
    security: Security,
    telemetry: TelemetryFlags,
    resume: Path | None,
) -> int:
    """Coordinate one run until it is over; the exit code.

    A run that is not over is continued from the journal in `data_dir`, where the process that coordinated it has ended;
    one that was begun otherwise than `resume` says is refused.

    Raises:
        PortTaken, PermissionRefused: it cannot listen there.
        UsageError: the directory holds a run that is over, or another one than is resumed; it cannot be written, or
            another coordinator works in it.
        ConfigError: the run in the directory was begun with another configuration.
        NoInput, DamagedFile: the checkpoint to resume is not there; it or the journal is damaged.
        StaleIncarnation: another coordinator decides: this one works on a copy of the directory.
        SparsyncError: what ended the run, if it did not end well.
    """
    logs = log_to_stderr("coordinator", IN_THE_RUN, form=telemetry.log_format)
    logs.follow(config.telemetry)
    with own(data_dir, "coordinator"):
        return asyncio.run(
            _main(config, listen, advertise, data_dir.resolve(), security, resume, logs, telemetry.metrics)
        )


async def _main(
    config: Config,
    listen: str,
    advertise: str | None,
    out: Path,
    security: Security,
    resume: Path | None,
    logs: Logs,
    metrics: str | None,
) -> int:
    def add(server: grpc.aio.Server) -> None:
        coordinator_pb2_grpc.add_CoordinatorServicer_to_server(service, server)

    clock = monotonic_clock
    office = take_office(config, out, resume)
    state = office.state
    core = Core(_rules(config, origin=state.origin), state, resumed=office.resumed)
    events = EventLog(out / "events.jsonl", clock, goes_on=office.again)
    engine = Engine(
        core,
        config=office.config,
        out=out,
        journal=office.journal,
        events=events,
        security=security,
        clock=clock,
    )
    logs.clock = lambda: engine.rounds.first_step(state.open_step)
    service = CoordinatorService(engine)
    chronicle = Chronicle(engine, events)
    if office.again:  # before anybody can call
        engine.worked_before_s = events.worked_s
        engine.carry_out(core.reopen(clock.now()))
    audit = Audit(out / AUDIT_FILE)
    gate = Gate(audit=audit, run=engine.run)
    service.revocations = revocations = _open_revocations(engine, gate, out)
    watched = _watch(engine, metrics, audit, revocations)
    serving = await serve(
        listen=listen,
        security=security,
        add=add,
        services=[SERVICE],
        gate=gate,
        most_message_bytes=MOST_MESSAGE_BYTES,
    )
    engine.address = advertise or serving.address
    if not office.again:
        (out / "config.toml").write_text(config.to_toml())
        (out / "summary.json").unlink(missing_ok=True)  # of the run that is resumed here: it goes on
    told = {"run": state.run, "timeline": state.timeline, "address": engine.address, "term": state.term}
    events.write("reopened" if office.again else "began", told)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.end)
    loop.add_signal_handler(GO_AWAY, engine.go_away)
    notify = Notify(environment())
    vitals = Vitals(notify, workers=office.config.cluster.workers)
    ticking = asyncio.create_task(engine.tick(taken=vitals.decided))
    looking = asyncio.create_task(_look(service, vitals, revocations))
    keeping = asyncio.create_task(chronicle.keep())
    await serving.serving()
    _write_address(out, engine.address)
    vitals.begin(service.looked)
    try:
        await _until_over(engine, ticking)
        if not engine.away:
            chronicle.end()
            _write_summary(engine, out, again=office.again)
            await engine.farewell(FAREWELL_S)
            await engine.dismissed()
    finally:
        notify.stopping("this coordinator ends")
        watched.close()
        ticking.cancel()
        looking.cancel()
        keeping.cancel()
        await serving.stop(1.0)
        await engine.close()
        audit.close()
    return 0 if engine.away else _outcome(state)


async def _until_over(engine: Engine, ticking: asyncio.Task[None]) -> None:
    """Wait for the end of the run, or of this process alone. Raises: what ended it before that."""
    finished = asyncio.create_task(engine.finished.wait())
    await asyncio.wait({finished, ticking}, return_when=asyncio.FIRST_COMPLETED)
    if not finished.done():  # a journal that cannot be written: nothing may be decided any more
        finished.cancel()
        await ticking
    if engine.failure is not None:
        raise engine.failure


def _write_summary(engine: Engine, out: Path, *, again: bool) -> None:
    """How it ended; one that an earlier coordinator wrote stays, which knew more."""
    path = out / "summary.json"
    if not (again and path.exists()):
        path.write_text(json.dumps(summary(engine), indent=2) + "\n")


def _watch(engine: Engine, metrics: str | None, audit: Audit, revocations: Revocations | None) -> ExitStack:
    """What until it is closed writes failed handshakes down, and where they were asked for spans and metrics."""
    watched, run = ExitStack(), engine.state.run
    if engine.security.tls:
        watched.enter_context(told_handshakes(audit))
    if engine.config.telemetry.trace:
        rounds = Rounds.of(engine.config, origin=engine.state.origin)
        watched.enter_context(traced(engine.out, role="coordinator", id=IN_THE_RUN, run=run, rounds=rounds))
    if listen := metrics or engine.config.telemetry.metrics:
        watched.enter_context(
            serve_metrics(engine, listen, audit=audit, denied=lambda serial: is_revoked(revocations, serial))
        )
    return watched


async def _look(service: CoordinatorService, vitals: Vitals, revocations: Revocations | None) -> None:
    """Have what the status shows on a full disk be no older than that, and the service manager know how it goes.

    Which certificates are revoked may be told in a file.
    """
    while True:
        await asyncio.sleep(LOOK_S)
        service.look()
        if vitals.due:
            vitals.tell(service.looked)
        if revocations is not None:
            revocations.look()


def _open_revocations(engine: Engine, gate: Gate, out: Path) -> Revocations | None:
    """What is known to be revoked: the gate refuses it, and the servers are told. None in plain text."""

    def deny(serials: frozenset[str]) -> None:
        gate.deny(serials)
        engine.switchboard.deny()

    known = open_revocations(engine.security, out, tell=deny)
    if known is not None:
        engine.revoked = lambda: known.pem
    return known


def _outcome(state: State) -> int:
    """The exit code of a run that ended well. Raises: the error that ended it."""
    assert state.ended is not None
    if state.ended.error:
        raise by_name(state.ended.error)(state.ended.reason)
    return 0


def _rules(config: Config, *, origin: int) -> Rules:
    return Rules(
        servers=config.cluster.servers,
        workers_to_begin=config.cluster.workers_to_begin,
        units_per_step=config.sync.units_per_step,
        steps=None if config.run.epochs else config.run.steps,
        epochs=config.run.epochs,
        checkpoint_every=config.run.checkpoint_every,
        stream_state_every=config.durability.stream_state_every,
        on_bad_unit=config.run.on_bad_unit,
        suspect_s=config.cluster.suspect_s,
        dead_s=config.cluster.dead_s,
        progress_timeout_s=config.cluster.progress_timeout_s,
        straggler_s=config.cluster.straggler_s,
        mixed_fingerprints=config.cluster.allow_mixed_fingerprints,
        ack=config.durability.ack,
        replicas=config.durability.replicas,
        rounds=Rounds.of(config, origin=origin),
        clip=config.push.clip,
    )


def _write_address(out: Path, address: str) -> None:
    """Where this coordinator serves. Where that stands there nothing is written: the disk may be full."""
    path, partial = out / "address", out / "address.partial"
    if path.exists() and path.read_text() == address + "\n":
        return
    partial.write_text(address + "\n")
    os.replace(partial, path)
