"""The worker's process: join the run, seed, run the user's script; what `sparsync.join` finds there."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import platform
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wire.clock import Deadline, monotonic_clock
from wire.codec import kernels
from wire.compiled import fill_cache
from wire.config import Config, complete, environment, load
from wire.errors import (
    ConfigError,
    RunOver,
    ScriptFailed,
    SparsyncError,
    Unreachable,
    UsageError,
    WrongRun,
)
from wire.files import check_writable
from wire.launchers import place_in
from wire.memory import keep_freed_memory
from wire.metrics import Samples
from wire.notify import Notify
from wire.rpc.access import InRun
from wire.rpc.channel import reach
from wire.rpc.identity import Role, Security
from wire.rpc.join import join
from wire.telemetry import Logs, TelemetryFlags, log_to_stderr
from wire.v1 import coordinator_pb2
from worker import heartbeat
from worker.patience import PATIENCE_S
from worker.randomness import seed_all
from worker.transfer import Transfer
from worker.vitals import Vitals, in_words
from worker.watching import watch

log = logging.getLogger(__name__)
JOIN_TIMEOUT_S = 60.0
CPUINFO = Path("/proc/cpuinfo")


class Attachment:
    """This process's place in a run: identity, device, connections. At most one a process.

    Its incarnation and what hangs on it (heartbeat, transfer) change when it was given up and joins anew.

    Args:
        name: stable name in the run.
    """

    def __init__(
        self,
        *,
        coordinator: str,
        name: str,
        security: Security,
        reply: coordinator_pb2.JoinReply,
        heart: heartbeat.Heartbeat,
        device: torch.device,
    ) -> None:
        self._coordinator = coordinator
        self._name = name
        self._security = security
        self._identity_path: Path | None = None
        self._asked_to_end = False
        self.joined = False
        self.training = False
        self.clock: Callable[[], int | None] = lambda: None
        """The step at hand, once a model has joined."""
        self.samples: Callable[[], Samples] = lambda: ()
        """For metrics, once a model has joined."""
        self.device = device
        self.config = Config.from_json(reply.config_json)
        self.run = reply.run
        self.origin = reply.origin
        out = Path(reply.out)
        self.out = out if out.is_dir() else None
        self.vitals = Vitals(
            Notify(environment()), run=reply.run, least_s=self.config.cluster.progress_timeout_s
        )
        self._enter(reply, heart)

    def _enter(self, reply: coordinator_pb2.JoinReply, heart: heartbeat.Heartbeat) -> None:
        """Begin to live as the incarnation that the coordinator handed out."""
        self.timeline = reply.timeline
        self.incarnation = reply.incarnation
        run = InRun(reply.run, reply.timeline)
        self._heartbeat: heartbeat.Heartbeat | None = heart
        heart.begin(
            self._coordinator,
            self._security,
            run=run,
            incarnation=reply.incarnation,
            interval_s=self.config.cluster.heartbeat_interval_s,
        )
        self.transfer = Transfer(
            coordinator=self._coordinator,
            security=self._security,
            run=run,
            incarnation=reply.incarnation,
        )

    def rejoin(self) -> None:
        """Enter the run as a new incarnation, after this one was given up. A signal meanwhile ends the process.

        Raises:
            RunOver: it has ended, or is not the one that is served there any more.
            WrongRun: it was resumed there, maybe under another configuration than this process was started with.
            Unreachable: the coordinator does not answer.
        """
        self.training = False
        self.detach()
        with heartbeat.starting() as heart:
            reply = self._join_patiently()
            if reply.run != self.run:
                raise RunOver(
                    f"run {self.run} is gone, {self._coordinator} serves run {reply.run}; start this worker anew"
                )
            if reply.timeline != self.timeline:
                raise WrongRun(
                    f"{self._coordinator} serves timeline {reply.timeline} of run {self.run}, this process was started "
                    f"for timeline {self.timeline}; start it anew to take part"
                )
            self._enter(reply, heart)
        if self._identity_path is not None:
            self.write_identity(self._identity_path)
        log.info("joined run %s again as incarnation %d", self.run, self.incarnation)

    def _join_patiently(self) -> coordinator_pb2.JoinReply:
        """A coordinator that is away is waited for; one that is there says within `JOIN_TIMEOUT_S` what it thinks."""
        deadline = Deadline(monotonic_clock, PATIENCE_S)
        while True:
            try:
                return asyncio.run(
                    _join(
                        self._coordinator,
                        self._name,
                        self.device,
                        self._security,
                        JOIN_TIMEOUT_S,
                        say=self._waits_to_join,
                    )
                )
            except Unreachable as error:
                if deadline.passed:
                    raise
                log.warning("%s; trying for %.0f s more", error, deadline.remaining())

    def _waits_to_join(self, what: str) -> None:
        log.info("%s", what)
        self.vitals.progressed()

    def report(self, **fields: Any) -> None:
        """Tell the coordinator, by the name of the field in WorkerReport; the service manager hears what that means."""
        self.transfer.report(**fields)
        for kind, told in fields.items():
            if kind == "announce":
                self.vitals.excuse()
                self.vitals.tell(told["activity"])
            elif kind == "progress":
                self.vitals.progressed(unit_s=told["unit_s"])
                self.vitals.tell(in_words(told))
            elif kind == "evaluated":
                self.vitals.progressed()

    def waits(self) -> None:
        """The training thread waits, for others: no fault of its own while the network thread is at work."""
        if self.transfer.answers():
            self.vitals.progressed()

    def write_identity(self, path: Path) -> None:
        """Keep who this process is in the run, for whoever looks at the machine."""
        identity = {
            "run": self.run,
            "timeline": self.timeline,
            "incarnation": self.incarnation,
            "pid": os.getpid(),
        }
        self._identity_path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(identity) + "\n")

    def asked_to_end(self) -> bool:
        return self._asked_to_end

    def on_signal(self, number: int, frame: object) -> None:
        """SIGTERM or SIGINT: leave at the next boundary; before the loop has begun, or a second time, at once."""
        if not self.training or self._asked_to_end:
            sys.exit(0)
        self._asked_to_end = True

    def detach(self) -> None:
        """Stop beating and close the connections: the run has no more of this process."""
        if self._heartbeat is not None:
            self._heartbeat.end()
            self._heartbeat = None
        self.transfer.close()
        self.vitals.excuse()


_attachment: Attachment | None = None


def attachment() -> Attachment:
    """The place that `sparsync.join` takes up; a script that was started by hand finds it in the environment.

    Raises: UsageError when the process has none.
    """
    if _attachment is None:
        place = place_in(environment())
        launched = place.master.value if place.master is not None and place.rank is not None else None
        coordinator = environment().get("SPARSYNC_COORDINATOR") or launched
        if not coordinator:
            raise UsageError(
                "this process has joined no run; start the script with `sparsync train -- SCRIPT` or `sparsync worker "
                "SCRIPT`, or set SPARSYNC_COORDINATOR=HOST:PORT"
            )
        security = Security.configured(load(None, (), environment()).config.security)
        name = security.name_as(
            Role.WORKER,
            None,
            otherwise=place.named("worker") or f"{platform.node()}-{os.getpid()}",
            place=place.number.value if place.number is not None else None,
        )
        attach(coordinator, name=name, device=None, security=security)
    assert _attachment is not None
    if _attachment.joined:
        raise UsageError("sparsync.join was called twice; one process trains one model")
    _attachment.joined = True
    return _attachment


def run_config() -> Config:
    """The configuration of the run that this process joined (`sparsync.config()`), complete."""
    if _attachment is None:
        raise UsageError("this process has joined no run; start the script with `sparsync train -- SCRIPT`")
    return complete(_attachment.config)


def run(
    *,
    coordinator: str,
    join_timeout_s: float,
    name: str,
    device: str | None,
    data_dir: Path,
    security: Security,
    telemetry: TelemetryFlags,
    script: str | None,
    args: list[str],
) -> int:
    """Join the run, then run `script` (None: the built-in trainer) as `__main__`; the exit code.

    Raises: SparsyncError, with the exit code that it knows.
    """
    logs = log_to_stderr("worker", name, form=telemetry.log_format)
    check_writable(data_dir)
    identity = data_dir / "identity.json"
    identity.unlink(missing_ok=True)  # of a process before; health checks take it for having joined
    attach(coordinator, name=name, device=device, security=security, join_timeout_s=join_timeout_s, logs=logs)
    assert _attachment is not None
    _attachment.write_identity(identity)
    watched = watch(_attachment, telemetry.metrics, name=name, data_dir=data_dir, security=security)
    try:
        _run_script(script or str(Path(__file__).parent.parent / "sparsync" / "lm" / "train.py"), args)
    finally:
        _end_in_peace()
        _attachment.vitals.end("this worker ends")
        watched.close()
        _attachment.detach()
        gc.freeze()  # the interpreter's last collection would take seconds over torch's modules
    return 0


def _run_script(path: str, args: list[str]) -> None:
    """Run it as `__main__`. Raises: ScriptFailed when it ends badly; SparsyncError as it is."""
    sys.argv = [path, *args]
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        runpy.run_path(path, run_name="__main__")
    except SparsyncError:
        raise
    except SystemExit as end:  # a bare exit code of the script's would read as one of ours, or as a crash
        if end.code not in (None, 0):
            raise ScriptFailed(f"{path} ended with sys.exit({end.code!r})") from None
    except Exception as error:
        traceback.print_exc()
        raise ScriptFailed(f"{path} raised {type(error).__name__}: {error}") from None


def _end_in_peace() -> None:
    """This process ends by itself in a moment: a signal must not change its exit code.

    The interpreter takes handlers away before it is done, but leaves alone what is ignored.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def attach(
    coordinator: str,
    *,
    name: str,
    device: str | None,
    security: Security,
    join_timeout_s: float = JOIN_TIMEOUT_S,
    logs: Logs | None = None,
) -> None:
    """Join the run as a new incarnation; seed torch, numpy and random for the script.

    Raises: Unreachable, UsageError, ModelMismatch, ProtocolMismatch.
    """
    global _attachment
    keep_freed_memory()  # first: the C library makes no arenas fewer
    chosen = choose_device(device)
    with heartbeat.starting() as heart:
        fill_cache()
        kernels.warm()  # compiled or loaded before the others wait for this worker
        reply = asyncio.run(_join(coordinator, name, chosen, security, join_timeout_s))
        config = Config.from_json(reply.config_json)
        if logs is not None:
            logs.follow(config.telemetry)
            logs.clock = lambda: _attachment.clock() if _attachment is not None else None
        torch.set_num_threads(config.cluster.compute_threads)
        seed_all("run", config.run.seed)
        _attachment = Attachment(
            coordinator=coordinator, name=name, security=security, reply=reply, heart=heart, device=chosen
        )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _attachment.on_signal)
    log.info("joined run %s as %s (incarnation %d) on %s", reply.run, name, reply.incarnation, chosen)
    _attachment.vitals.joined(name)


async def _join(
    coordinator: str,
    name: str,
    device: torch.device,
    security: Security,
    join_timeout_s: float,
    *,
    say: Callable[[str], None] = log.info,
) -> coordinator_pb2.JoinReply:
    channel = await reach(
        coordinator, security, role=Role.COORDINATOR, pool="control", timeout_s=join_timeout_s, say=say
    )
    try:
        return await join(
            channel,
            role="worker",
            name=name,
            coordinator=coordinator,
            timeout_s=join_timeout_s,
            fingerprint=fingerprint(device),
        )
    finally:
        await channel.close(None)


def choose_device(asked: str | None) -> torch.device:
    """The device asked for, else CUDA by local rank, else the CPU.

    Raises: ConfigError when it is not there.
    """
    if asked is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = place_in(environment()).local_rank
        if local is None:
            return torch.device("cuda", 0)
        log.info("device by %s=%d", local.origin, local.value)
        return torch.device("cuda", local.value % torch.cuda.device_count())
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {asked}: not to be had here ({str(error).splitlines()[0]})") from None
    return device


def fingerprint(device: torch.device) -> str:
    """All that the bits of a unit depend on beside the run itself (P3); the threads are configuration."""
    model = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return json.dumps(
        {
            "torch": torch.__version__,
            "device": f"{device.type} {model}",
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "bfloat16": _bfloat16(),
        }
    )


def _bfloat16() -> list[str]:
    """What this CPU has for products in bfloat16, which Muon computes in: they round in another order with each."""
    try:
        words = set(CPUINFO.read_text().split())
    except OSError:
        return []
    return sorted(words & {"avx512_bf16", "amx_bf16", "bf16"})
