"""A small world around the coordinator's core: shards on the real ledger, workers, and lines that delay and break.

Everything comes from one seed. Messages between two processes arrive in order, those of different
pairs in any; workers are killed, paused, started again, join and leave; lines break and lose what is
under way. The world checks what must hold after every event and raises `Broken` where it does not.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coordinator import actions as a
from coordinator import records as r
from coordinator.core import Core
from coordinator.desk import Rules
from coordinator.state import State
from ps.ledger import Ledger, Verdict
from ps.publish import Delta, DeltaLog, Outcome
from wire.errors import SparsyncError
from wire.ids import UnitId
from wire.layout import Layout, Parameter
from wire.messages import Commit, OptimizerSpec

LAYOUT = Layout((Parameter("w", (9 * 4096,), "float32", 0), Parameter("b", (5,), "float32", 0)))
SPEC = OptimizerSpec("sgd", ({"lr": 0.1, "momentum": 0.0},))
TICK_S = 0.25
ENDLESS_S = 900.0


class Broken(AssertionError):
    """Something that must always hold does not."""


def rules(**changes: Any) -> Rules:
    """Rules of a small synchronous run."""
    base: dict[str, Any] = {
        "servers": 2,
        "workers_to_begin": 2,
        "units_per_step": 4,
        "steps": 10,
        "epochs": None,
        "checkpoint_every": 0,
        "stream_state_every": 3,
        "on_bad_unit": "skip",
        "dead_s": 5.0,
        "progress_timeout_s": 60.0,
        "straggler_s": 5.0,
        "mixed_fingerprints": False,
    }
    return Rules(**(base | changes))


def began(streams: int, *, first_step: int = 0, checkpoint: str = "") -> State:
    """The state of a coordinator that just took office."""
    state = State(streams)
    state.apply(r.Began("run", 1, 1, "ab", first_step, checkpoint))
    return state


def commit_of(step: int, stream: int) -> Commit:
    """The same for every attempt at a unit; now and then an empty one."""
    empty = "epoch_end" if (7 * step + 3 * stream) % 11 == 0 else ""
    return Commit(empty, 0 if empty else 8, 64, 1.0 / (1 + step), 1.0, (0.1,))


class Line:
    """One direction of a connection: in order, each message late by a random time; a cut line is silent."""

    def __init__(self, world: World, deliver: Callable[[Any], None], owner: Worker | None = None) -> None:
        self._world, self._deliver, self._owner = world, deliver, owner
        self._last = 0.0
        self._until = float("inf")

    def send(self, message: Any) -> None:
        self._last = max(self._last, self._world.now + self._world.delay())
        self._world.at(self._last, lambda: self._arrive(message), self._owner)

    def _arrive(self, message: Any) -> None:
        if self._world.now <= self._until:
            self._deliver(message)

    def cut(self, after_s: float = 0.0) -> None:
        self._until = min(self._until, self._world.now + after_s)


class Shard:
    """A server without arithmetic: the real ledger and delta log, deposits as sets of steps."""

    def __init__(self, world: World, index: int) -> None:
        self.world, self.index = world, index
        self.incarnation = 0
        self.configured = False
        self.ledger = world.ledger(1, world.rules.units_per_step, world.first_step)
        self.deltas = DeltaLog(world.first_step)
        self.bases = {world.first_step}
        self.deposits: dict[int, set[int]] = {s: set() for s in range(world.rules.units_per_step)}
        self.accepts: list[tuple[int, int]] = []
        self.settled: list[tuple[int, tuple[int, ...]]] = []
        self.fences: dict[int, int] = {}
        self.held: dict[int, a.UnitAccepted] = {}
        self.followers: list[tuple[Worker, Line]] = []
        self.up: Line | None = None

    def tell(self, event: a.Event) -> None:
        if self.up is not None:
            self.up.send(event)

    def command(self, command: Any) -> None:
        match command:
            case "attach":
                self.tell(a.ShardAttached(self.index, self.incarnation, self.configured, self.ledger.step))
                for accepted in self.held.values():
                    self.tell(accepted)
            case a.ConfigureShard():
                self.configured = True
                self.tell(a.ShardConfigured(self.index))
            case a.FenceStream():
                self.fences[command.stream] = max(command.attempt, self.fences.get(command.stream, 0))
                stands = self.ledger.fence(command.step, command.stream, command.attempt)
                self.tell(a.FenceAnswered(self.index, command.step, command.stream, command.attempt, stands))
            case a.RetireWorker():
                self.tell(a.WorkerRetired(self.index, command.incarnation))
            case a.CloseStep():
                self._close(command)

    def _close(self, close: a.CloseStep) -> None:
        if close.step == self.ledger.step:
            if set(close.streams) != set(self.held):
                raise Broken(f"shard {self.index} closes {close} while it holds {sorted(self.held)}")
            outcomes = [Outcome(UnitId(1, close.step, s), 1.0) for s in close.streams]
            self.deltas.append(
                Delta(self.deltas.version, close.step, outcomes, b"", close.deposit, close.final)
            )
            self.deltas.trim(close.retain_from)
            self.ledger.close(close.step)
            self.held.clear()
            self.settled.append((close.step, close.streams))
            if close.deposit:
                self.bases.add(self.deltas.version)
            reached = sorted(b for b in self.bases if b <= close.retain_from)
            self.bases -= set(reached[:-1])
            for steps in self.deposits.values():
                steps -= {step for step in steps if step < close.retain_from}
            for _, line in self.followers:
                line.send((self.index, close.step, close.deposit, close.final))
        elif close.step > self.ledger.step:
            raise Broken(f"shard {self.index} at step {self.ledger.step} is told to close {close.step}")
        self.tell(a.StepSettled(self.index, close.step))

    def push(self, worker: Worker, lane: Job, unit: UnitId) -> Verdict:
        verdict = self.ledger.judge(unit, lane.attempt)
        if verdict in (Verdict.EARLY, Verdict.FOREIGN):
            raise Broken(f"shard {self.index} calls {unit} of {worker.name} {verdict.name}: a torn step")
        if verdict is Verdict.ADMIT:
            key = (unit.step, unit.stream)
            if key in self.accepts:
                raise Broken(f"shard {self.index} accepts {unit} a second time")
            if lane.attempt < self.fences.get(unit.stream, 0):
                raise Broken(
                    f"shard {self.index} accepts {unit} attempt {lane.attempt} behind fence {self.fences}"
                )
            self.ledger.accept(unit, lane.attempt)
            self.accepts.append(key)
            commit = commit_of(unit.step, unit.stream)
            self.held[unit.stream] = a.UnitAccepted(
                self.index, unit, lane.attempt, worker.incarnation, commit
            )
            self.tell(self.held[unit.stream])
        return verdict

    def follow(self, worker: Worker, line: Line, deposit: int | None) -> None:
        """Everything from the deposit on, as a joiner or an heir needs it."""
        start = self.world.first_step if deposit is None else deposit
        base = max((b for b in self.bases if b <= start), default=None)
        if base is None or base < self.deltas.base:
            raise Broken(
                f"shard {self.index}: version {start} cannot be reached from bases {sorted(self.bases)} "
                f"and deltas {self.deltas.base}..{self.deltas.version}"
            )
        known = self.deltas.version - self.deltas.final  # that the log has ended is told to everybody
        for version in range(min(start, known), self.deltas.version):
            delta = self.deltas.get(version)
            assert delta is not None
            line.send((self.index, version, delta.deposit, delta.final))
        self.followers.append((worker, line))


@dataclass
class Job:
    """A stream at work on a worker: `at` is the unit that its state stands before."""

    stream: int
    attempt: int
    first: int
    deposit: int | None
    send_to: tuple[int, ...]
    at: int
    release: bool = False
    released: bool = False
    busy: bool = False
    blocked: bool = False
    over: bool = False
    deposited: int | None = None
    depositing: int | None = None
    heard: dict[int, set[int]] = field(default_factory=dict)
    flags: dict[int, tuple[bool, bool]] = field(default_factory=dict)


def final_at(job: Job) -> bool:
    """Whether the run ends with the version that the stream stands before."""
    return job.flags.get(job.at, (False, False))[1]


class Worker:
    """A process: joins, declares, uploads if asked, computes what its plan says."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.incarnation = 0
        self.alive = True
        self.paused_until = 0.0
        self.jobs: dict[int, Job] = {}
        self.reports: list[a.Event] = []
        self.up = Line(world, world.hear)
        self.down = Line(world, self.hear, self)
        self.beats = Line(world, world.hear)
        self.ready = False
        self.told = False
        self.leaving = False
        self.evaluated = False
        self.join()

    # --- coming and going

    def join(self) -> None:
        self.up.send(
            a.Join(
                self.world.key(self, self.joined), "worker", self.name, "", "cpu", self.world.serial(), "host"
            )
        )

    def joined(self, value: Any) -> None:
        if isinstance(value, SparsyncError):
            self.world.after(1.0, self.join, self)
            return
        self.incarnation = value.incarnation
        self.beat()
        self.up.send(a.Attending(self.incarnation))
        self.declare()

    def declare(self) -> None:
        self.up.send(
            a.Declare(self.world.key(self, self.declared), self.incarnation, LAYOUT, self.world.spec)
        )

    def beat(self) -> None:
        self.beats.send(a.Beat(self.incarnation))
        self.world.after(1.0, self.beat, self)

    def declared(self, value: Any) -> None:
        if isinstance(value, SparsyncError):
            self.die(silent=False)
        elif self.told or self.ready:
            return  # the answer to a repeat
        elif value.upload:
            self.told = True
            self.world.after(self.world.random.uniform(0.1, 1.0), self.uploaded, self)
        else:
            self.become_ready()

    def uploaded(self) -> None:
        self.report(a.Uploaded(self.incarnation))
        self.become_ready()

    def become_ready(self) -> None:
        self.ready = True
        self.report(a.Ready(self.incarnation, 100, "d", 2, 1, True, 0))

    def report(self, event: a.Event) -> None:
        self.reports.append(event)
        self.up.send(event)

    def leave(self) -> None:
        self.leaving = True
        self.report(a.WorkerLeaving(self.incarnation, "SIGTERM"))

    def reopen(self) -> None:
        """The line to the coordinator broke: what was under way is lost and told again."""
        self.up.cut()
        self.down.cut()
        self.up, self.down = Line(self.world, self.world.hear), Line(self.world, self.hear, self)
        self.up.send(a.Attending(self.incarnation))
        for event in self.reports:
            self.up.send(event)
        if not self.ready:
            self.declare()

    def die(self, *, silent: bool) -> None:
        """Everything stops; what is under way may still arrive; the end is noticed at once or by silence."""
        self.alive = False
        self.up.cut(self.world.delay())
        self.beats.cut(self.world.delay())
        for shard in self.world.shards:
            shard.followers = [f for f in shard.followers if f[0] is not self]
        if not silent and self.incarnation:
            self.world.after(
                self.world.delay(), lambda: self.world.hear_checked(a.BeatsEnded(self.incarnation))
            )

    # --- orders

    def hear(self, order: a.Plan | a.End) -> None:
        if isinstance(order, a.End):
            self.die(silent=False)
            return
        self.world.total_steps = order.total_steps or self.world.total_steps
        kept = {s.stream: s for s in order.assignments}
        for stream, job in list(self.jobs.items()):
            if stream not in kept or kept[stream].attempt != job.attempt:
                job.over = True
                del self.jobs[stream]
        for s in order.assignments:
            if s.stream in self.jobs:
                self.jobs[s.stream].release |= s.release
                self.go_on(self.jobs[s.stream])
            else:
                self.take(s)

    def take(self, s: a.Assignment) -> None:
        lane = self.world.state.lanes[s.stream]
        if (lane.attempt, lane.holder) != (s.attempt, self.incarnation):
            return  # an old plan reaches a worker that was given up meanwhile; the shards refuse it politely
        start = self.world.first_step if s.deposit is None else s.deposit
        if start > s.step:
            raise Broken(f"{s} starts before its deposit")
        job = Job(s.stream, s.attempt, s.step, s.deposit, s.send_to, start, s.release, deposited=s.deposit)
        self.jobs[s.stream] = job
        for shard in self.world.shards:
            if s.deposit is not None and s.deposit not in shard.deposits[s.stream]:
                raise Broken(
                    f"{s}: no such deposit on shard {shard.index}: {sorted(shard.deposits[s.stream])}"
                )
            line = Line(self.world, lambda m, j=job: self.published(j, m), self)
            shard.follow(self, line, s.deposit)
        self.go_on(job)

    def published(self, job: Job, message: tuple[int, int, bool, bool]) -> None:
        shard, version, deposit, final = message
        job.heard.setdefault(version + 1, set()).add(shard)
        job.flags[version + 1] = (deposit, final)
        self.go_on(job)

    # --- computing

    def go_on(self, job: Job) -> None:
        """The next thing to do for a stream, if its version is here from every shard."""
        start = self.world.first_step if job.deposit is None else job.deposit
        if job.over or job.busy or job.blocked or job.released or not self.ready:
            return
        if job.at > start and len(job.heard.get(job.at, ())) < len(self.world.shards):
            return
        if any(shard.deltas.version < job.at for shard in self.world.shards):
            raise Broken(f"{self.name} entered version {job.at} before every shard had it")
        flagged, final = job.flags.get(job.at, (False, False))
        if job.release or (flagged and job.at not in (job.depositing, job.deposited)):
            if job.depositing is not None:
                return  # a deposit begins only when the last one stands on every shard
            self.deposit(job)
            if job.blocked:
                return
        if final or job.at >= self.world.total_steps:
            self.evaluate(job)
        else:
            self.compute(job)

    def deposit(self, job: Job) -> None:
        at, release = job.at, job.release
        job.depositing = at
        job.blocked = release or final_at(job) or self.world.random.random() < 0.5
        waiting = set(range(len(self.world.shards)))

        def stored(shard: Shard) -> None:
            if job.attempt >= shard.ledger.fences.get(job.stream, 0):
                shard.deposits[job.stream].add(at)
                self.world.on_deposit(shard.deposits[job.stream])
                self.world.after(self.world.delay(), lambda: acknowledged(shard), self)

        def acknowledged(shard: Shard) -> None:
            waiting.discard(shard.index)
            if waiting or job.over:
                return
            job.blocked = False
            job.depositing, job.deposited, job.released = None, at, release
            self.report(a.StreamDeposited(self.incarnation, job.stream, at, release))
            self.go_on(job)

        for shard in self.world.shards:
            self.world.after(self.world.delay(), lambda s=shard: stored(s), self)

    def compute(self, job: Job) -> None:
        job.busy = True
        self.world.after(self.world.random.uniform(0.05, 0.6), lambda: self.push(job), self)

    def push(self, job: Job) -> None:
        if job.over:
            return
        if job.at < job.first:
            self.finish(job)
            return
        unit = UnitId(1, job.at, job.stream)
        chosen = job.send_to if job.at == job.first and job.send_to else range(len(self.world.shards))
        waiting = set(chosen)

        def arrive(shard: Shard) -> None:
            if not self.alive and self.world.random.random() < 0.5:
                return  # it died in the middle of the push
            verdict = shard.push(self, job, unit)
            self.world.after(self.world.delay(), lambda: answered(shard, verdict), self)

        def answered(shard: Shard, verdict: Verdict) -> None:
            if verdict is Verdict.FENCED:
                job.over = True
            was = bool(waiting)
            waiting.discard(shard.index)
            if was and not waiting and not job.over:
                self.finish(job)

        for index in chosen:
            for _ in range(1 + (self.world.random.random() < 0.1)):
                # An answer that is lost makes the worker send the same bytes again.
                self.world.after(self.world.delay(), lambda s=self.world.shards[index]: arrive(s))

    def finish(self, job: Job) -> None:
        job.busy = False
        job.at += 1
        self.up.send(a.Progressed(self.incarnation, 0.3))
        self.go_on(job)

    def evaluate(self, job: Job) -> None:
        if job.stream == 0 and not self.evaluated:
            self.evaluated = True
            for model in ("published", "x"):
                self.report(a.LossEvaluated(self.incarnation, job.at, model, 2.5, 0.1))


class World:
    """The event queue, the coordinator, and the chaos."""

    def __init__(
        self,
        seed: int,
        *,
        core: Callable[[Rules, State], Core] = Core,
        ledger: Callable[[int, int, int], Ledger] = Ledger,
        on_deposit: Callable[[set[int]], None] = lambda steps: None,
        chaos_s: float = 25.0,
    ) -> None:
        self.seed = seed
        self.random = rnd = random.Random(seed)
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None], Worker | None]] = []
        self._serial = 0
        self.first_step = 0
        self.total_steps = 1 << 30
        self.ledger = ledger
        self.on_deposit = on_deposit
        self.slowness = rnd.choice([0.02, 0.1, 0.4])
        self.spec = SPEC
        self.rules = rules(
            servers=rnd.choice([1, 2, 3]),
            workers_to_begin=rnd.choice([1, 2]),
            units_per_step=rnd.choice([1, 2, 4]),
            steps=rnd.randint(4, 14),
            stream_state_every=rnd.choice([1, 2, 5, 50]),
            checkpoint_every=rnd.choice([0, 0, 3, 4]),
        )
        self.state = began(self.rules.units_per_step)
        self.shadow = began(self.rules.units_per_step)
        self.core = core(self.rules, self.state)
        self.journal: list[str] = [r.to_json(r.Began("run", 1, 1, "ab", 0, ""))]
        self.history: list[str] = []
        self.answers: dict[str, tuple[Worker | Shard, Callable[[Any], None]]] = {}
        self.shards = [Shard(self, i) for i in range(self.rules.servers)]
        self.downs: list[Line] = []
        self.workers: list[Worker] = []
        self.over = False
        self.stopped_at: int | None = None
        self.checkpoints: list[int] = []
        self.kills = 0
        for shard in self.shards:
            self.hear(
                a.Join(
                    self.key(shard, lambda v, s=shard: setattr(s, "incarnation", v.incarnation)),
                    "ps",
                    f"ps{shard.index}",
                    f"h:{shard.index}",
                    "",
                    0,
                    "h",
                )
            )
        for _ in range(max(2, self.rules.workers_to_begin)):
            self.spawn()
        self._plan_chaos(chaos_s)
        self._tick()

    # --- time

    def delay(self) -> float:
        return self.random.expovariate(1 / self.slowness) + 0.001

    def serial(self) -> int:
        self._serial += 1
        return self._serial

    def at(self, time: float, act: Callable[[], None], owner: Worker | None = None) -> None:
        heapq.heappush(self._queue, (time, self.serial(), act, owner))

    def after(self, delay: float, act: Callable[[], None], owner: Worker | None = None) -> None:
        self.at(self.now + delay, act, owner)

    def _tick(self) -> None:
        self.hear(a.Tick())
        self.after(TICK_S, self._tick)

    def run(self) -> World:
        """Until the run is over. Raises: Broken."""
        while not self.over:
            self.now, _, act, owner = heapq.heappop(self._queue)
            if self.now > ENDLESS_S:
                raise Broken(f"the run does not end: {self.core.work.waits_for}; {self.history[-8:]}")
            if owner is not None and not owner.alive:
                continue
            if owner is not None and owner.paused_until > self.now:
                self.at(owner.paused_until, act, owner)
                continue
            act()
        self.check_end()
        return self

    # --- the coordinator

    def key(self, owner: Worker | Shard, then: Callable[[Any], None]) -> str:
        key = str(self.serial())
        self.answers[key] = (owner, then)
        return key

    def hear_checked(self, event: a.Event) -> None:
        self.hear(event)

    def hear(self, event: a.Event) -> None:
        if self.over:
            return
        self.history.append(f"{self.now:.2f} {event}")
        try:
            actions = self.core.handle(event, self.now)
        except SparsyncError:  # it was given up and did not know: the call fails, and it ends
            for worker in self.alive():
                if worker.incarnation == event.incarnation:  # type: ignore[union-attr]
                    worker.down.send(a.End("given up", "StaleIncarnation"))
            return
        for action in actions:
            self._act(action)
        if self.shadow != self.state:
            raise Broken(f"the journal does not make the state after {event}")

    def _act(self, action: a.Action) -> None:
        match action:
            case a.Journal(record):
                self.journal.append(r.to_json(record))
                self.shadow.apply(r.from_json(self.journal[-1]))
            case a.Answer(key, value):
                owner, then = self.answers.pop(key, (None, None))
                if isinstance(owner, Worker) and then is not None:
                    self.after(self.delay(), lambda: then(value), owner)
                elif then is not None:
                    then(value)
            case a.Tell(incarnation, order):
                self._check_revealed(order)
                for worker in self.workers:
                    if worker.incarnation == incarnation:
                        worker.down.send(order)
            case a.OpenShards():
                self.downs = [Line(self, shard.command) for shard in self.shards]
                for shard in self.shards:
                    self._attach(shard)
            case a.Command(shard, command):
                if isinstance(command, a.CloseStep) and self.shadow.open_step <= command.step:
                    raise Broken(f"{command} is revealed before it is journaled")
                self.downs[shard].send(command)
            case a.WriteCheckpoint(step):
                self._write(step)
            case a.Quit():
                self.over = True

    def _check_revealed(self, order: a.Plan | a.End) -> None:
        for s in order.assignments if isinstance(order, a.Plan) else ():
            lane = self.shadow.lanes[s.stream]
            if (lane.attempt, lane.step, lane.send_to) != (s.attempt, s.step, s.send_to):
                raise Broken(f"{s} is revealed before it is journaled: {lane}")

    def _attach(self, shard: Shard) -> None:
        shard.up = Line(self, self.hear)
        self.downs[shard.index] = Line(self, shard.command)
        self.downs[shard.index].send("attach")

    def _write(self, step: int) -> None:
        self._check_boundary(step)

        def written() -> None:
            self._check_boundary(step)
            if self.random.random() < 0.1 and not self.state.final:
                self.hear(a.CheckpointFailed(step, "disk full"))
            else:
                self.checkpoints.append(step)
                self.hear(a.CheckpointWritten(step, f"step-{step}", "x", "p"))

        self.after(self.random.uniform(0.1, 3.0), written)

    def _check_boundary(self, step: int) -> None:
        for shard in self.shards:
            if shard.deltas.version != step or any(step not in d for d in shard.deposits.values()):
                raise Broken(
                    f"checkpoint of {step}: shard {shard.index} at {shard.deltas.version}, {shard.deposits}"
                )

    # --- chaos

    def spawn(self, name: str | None = None) -> None:
        if not self.over:
            self.workers.append(Worker(self, name or f"w{self.serial()}"))

    def alive(self) -> list[Worker]:
        return [w for w in self.workers if w.alive]

    def staying(self) -> list[Worker]:
        return [w for w in self.alive() if not w.leaving]

    def _plan_chaos(self, chaos_s: float) -> None:
        rnd, time = self.random, 0.0
        rate = rnd.choice([0.1, 0.5, 1.5])
        weights = rnd.choice([[5, 2, 2, 1, 2, 2], [2, 8, 2, 1, 1, 1]])
        while (time := time + rnd.expovariate(rate)) < chaos_s:
            act = rnd.choices(
                [self._kill, self._pause, self._join, self._leave, self._break_shard, self._break_worker],
                weights,
            )[0]
            self.at(time, act)
        if rnd.random() < 0.15:
            self.at(rnd.uniform(1.0, 12.0), self._stop)
        self.at(chaos_s, self._make_sure)

    def _make_sure(self) -> None:
        """From now on somebody stays."""
        while len(self.staying()) < (1 if self.core.begun else self.rules.workers_to_begin):
            self.spawn()
        self.after(20.0, self._make_sure)

    def _kill(self) -> None:
        if workers := self.alive():
            worker = self.random.choice(workers)
            worker.die(silent=self.random.random() < 0.3)
            self.kills += 1
            if self.random.random() < 0.7:
                self.after(self.random.uniform(0.2, 8.0), lambda: self.spawn(worker.name))

    def _pause(self) -> None:
        if workers := self.alive():
            self.random.choice(workers).paused_until = self.now + self.random.uniform(1.0, 9.0)

    def _join(self) -> None:
        if len(self.alive()) < 6:
            self.spawn()

    def _leave(self) -> None:
        if workers := [w for w in self.alive() if w.incarnation]:
            self.random.choice(workers).leave()

    def _break_shard(self) -> None:
        if self.downs:
            shard = self.random.choice(self.shards)
            if shard.up is not None:
                shard.up.cut()
                shard.up = None
                self.downs[shard.index].cut()
                self.after(self.random.uniform(0.1, 2.0), lambda: self._attach(shard))

    def _break_worker(self) -> None:
        if workers := [w for w in self.alive() if w.incarnation]:
            self.random.choice(workers).reopen()

    def _stop(self) -> None:
        if self.stopped_at is None:
            self.stopped_at = self.state.open_step
            self.hear(a.StopAsked("", "an operator asked"))

    # --- the end

    def check_end(self) -> None:
        """A whole run: every unit of every step once on every shard, and the accounts say so."""
        state = self.state
        assert state.ended is not None
        if state.ended.error not in ("", "Interrupted"):
            raise Broken(f"the run ended badly: {state.ended}")
        if state.ended.error == "" and state.open_step != self.rules.steps:
            raise Broken(f"the run ended at step {state.open_step} of {self.rules.steps}")
        streams = tuple(range(self.rules.units_per_step))
        for shard in self.shards:
            if shard.settled != [(step, streams) for step in range(len(shard.settled))]:
                raise Broken(f"shard {shard.index} settled {shard.settled}")
            if state.final and len(shard.settled) != state.open_step:
                raise Broken(f"shard {shard.index} settled {len(shard.settled)} steps of {state.open_step}")
        units = [commit_of(step, s) for step in range(state.open_step) for s in streams]
        told = (state.totals.units, state.totals.empty, state.totals.samples)
        want = (
            sum(c.contributes for c in units),
            sum(not c.contributes for c in units),
            sum(c.samples for c in units),
        )
        if told != want:
            raise Broken(f"accounts {told}, expected {want}")
        if state.final and self.checkpoints[-1:] != [state.open_step]:
            raise Broken(f"no checkpoint of the last step {state.open_step}: {self.checkpoints}")
