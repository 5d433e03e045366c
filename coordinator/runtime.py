"""The coordinator's process: its directory, its journal, its server, its end."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import secrets
import signal
from pathlib import Path

import grpc

from coordinator import events as e
from coordinator.core import Core
from coordinator.desk import Rules
from coordinator.engine import Engine
from coordinator.event_log import EventLog
from coordinator.journal import Journal
from coordinator.records import Began, Segment, switching_to
from coordinator.report import summary
from coordinator.service import CoordinatorService
from coordinator.state import State
from wire.checkpoint import Manifest, load_manifest, newest
from wire.clock import monotonic_clock
from wire.config import Config
from wire.errors import ConfigError, NoInput, UsageError, by_name
from wire.rpc.identity import Security
from wire.rpc.server import serve
from wire.telemetry import log_to_stderr
from wire.v1 import coordinator_pb2_grpc

log = logging.getLogger(__name__)
SERVICE = "sparsync.v1.Coordinator"
FAREWELL_S = 10.0


def run(
    config: Config,
    *,
    listen: str,
    advertise: str | None,
    data_dir: Path,
    security: Security,
    resume: Path | None,
) -> int:
    """Coordinate one run until it is over; the exit code.

    Raises:
        PortTaken, PermissionRefused: it cannot listen there.
        UsageError: the directory holds a run already, or another coordinator works in it.
        NoInput, DamagedFile: the checkpoint to resume is not there or damaged.
        SparsyncError: what ended the run, if it did not end well.
    """
    log_to_stderr("coordinator", level=config.telemetry.log_level)
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:
        _lock(lock.fileno(), data_dir)
        return asyncio.run(_main(config, listen, advertise, data_dir.resolve(), security, resume))


def _lock(descriptor: int, data_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"another coordinator works in {data_dir}; give this one another --data-dir"
        ) from None


async def _main(
    config: Config, listen: str, advertise: str | None, out: Path, security: Security, resume: Path | None
) -> int:
    manifest = _checkpoint(resume)
    _check_resumable(config, manifest)

    def add(server: grpc.aio.Server) -> None:
        coordinator_pb2_grpc.add_CoordinatorServicer_to_server(service, server)

    clock = monotonic_clock
    journal = _journal(out, manifest)
    state = State(config.sync.units_per_step)
    began = _begin(out, manifest)
    first = Segment(0, began.first_step, **vars(switching_to(config)))
    for record in (began, first):
        state.apply(record)
        journal.append(record)
    journal.commit()
    core = Core(_rules(config), state, resumed=dict(manifest.extra["dataset"]) if manifest else None)
    events = EventLog(out / "events.jsonl", clock)
    engine = Engine(
        core, config=config, out=out, journal=journal, events=events, security=security, clock=clock
    )
    service = CoordinatorService(engine)
    serving = await serve(listen=listen, security=security, add=add, services=[SERVICE])
    engine.address = advertise or serving.address
    (out / "config.toml").write_text(config.to_toml())
    (out / "summary.json").unlink(missing_ok=True)  # of the run that is resumed here: it goes on
    events.write("began", {"run": state.run, "timeline": state.timeline, "address": engine.address})
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(
            number, lambda: engine.hear(e.StopAsked("", "the coordinator was asked to end"))
        )
    ticking = asyncio.create_task(engine.tick())
    await serving.serving()
    _write_address(out, engine.address)
    try:
        finished = asyncio.create_task(engine.finished.wait())
        await asyncio.wait({finished, ticking}, return_when=asyncio.FIRST_COMPLETED)
        if not finished.done():  # a journal that cannot be written: nothing may be decided any more
            finished.cancel()
            await ticking
        (out / "summary.json").write_text(json.dumps(summary(engine), indent=2) + "\n")
        await engine.farewell(FAREWELL_S)
    finally:
        ticking.cancel()
        await serving.stop(1.0)
        await engine.close()
    return _outcome(state)


def _outcome(state: State) -> int:
    """The exit code of a run that ended well. Raises: the error that ended it."""
    assert state.ended is not None
    if state.ended.error:
        raise by_name(state.ended.error)(state.ended.reason)
    return 0


def _checkpoint(resume: Path | None) -> Manifest | None:
    """The checkpoint at `resume` (a step-N directory), or the newest good one of a run directory."""
    if resume is None:
        return None
    path = resume if (resume / "manifest.json").exists() else newest(resume)
    if path is None:
        raise NoInput(f"no complete checkpoint under {resume}; expected {resume}/checkpoints/step-N")
    return load_manifest(path)


def _check_resumable(config: Config, manifest: Manifest | None) -> None:
    if manifest is not None and manifest.extra["streams"] != config.sync.units_per_step:
        raise ConfigError(
            f"sync.units_per_step is {config.sync.units_per_step}, the checkpoint {manifest.path} was written with "
            f"{manifest.extra['streams']} streams; resume with the same"
        )


def _journal(out: Path, manifest: Manifest | None) -> Journal:
    """A new journal. The one of the run that is being resumed is kept beside it."""
    path = out / "journal.sqlite"
    if path.exists():
        if manifest is None:
            raise UsageError(
                f"{out} holds a run already; give another directory, or continue it with --resume {out}"
            )
        for suffix in ("", "-wal", "-shm"):
            old = out / f"journal.sqlite{suffix}"
            if old.exists():
                old.rename(out / f"journal-timeline-{manifest.timeline}.sqlite{suffix}")
    return Journal(path)


def _begin(out: Path, manifest: Manifest | None) -> Began:
    nonce = secrets.token_hex(16)
    if manifest is None:
        run = f"{out.name}-{secrets.token_hex(2)}"
        return Began(run, timeline=1, term=1, nonce=nonce, first_step=0, checkpoint="")
    return Began(
        manifest.run,
        timeline=manifest.timeline + 1,
        term=1,
        nonce=nonce,
        first_step=manifest.step,
        checkpoint=str(manifest.path.resolve()),
        deposits=manifest.extra["deposits"],
    )


def _rules(config: Config) -> Rules:
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
    )


def _write_address(out: Path, address: str) -> None:
    partial = out / "address.partial"
    partial.write_text(address + "\n")
    os.replace(partial, out / "address")
