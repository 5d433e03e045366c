"""The streams that a worker of the small world carries in an exact segment: a `Job` each, in any order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coordinator import actions as a
from coordinator import events as e
from ps.ledger import Verdict
from tests.coordinator.calls import Following
from tests.coordinator.ground import Broken
from wire.ids import UnitId
from worker.deltas import Delta
from worker.streams import Carrier

if TYPE_CHECKING:
    from tests.coordinator.hand import Worker


@dataclass
class Job:
    """A stream at work on a worker: `at` is the unit that its state stands before, `base` the first step of x̂ here."""

    stream: int
    attempt: int
    first: int
    deposit: int | None
    send_to: tuple[int, ...]
    base: int
    at: int
    release: bool = False
    released: bool = False
    busy: bool = False
    blocked: bool = False
    over: bool = False
    deposited: int | None = None
    depositing: int | None = None
    heard: dict[int, set[int]] = field(default_factory=dict)
    closing: dict[int, Delta] = field(default_factory=dict)
    followings: list[Following] = field(default_factory=list)

    def says(self, flag: str) -> bool:
        """What the delta says behind which the stream stands."""
        delta = self.closing.get(self.at)
        return delta is not None and getattr(delta, flag)


class Jobs:
    """All that `worker` carries, by stream."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.world = worker, worker.world
        self.jobs: dict[int, Job] = {}
        self.needs = Carrier()
        """Knows what each unit is computed on; streams are carried here."""

    def begin(self, plan: a.Plan) -> None:
        """A segment begins."""
        self.drop_all()
        self.needs = Carrier(begins=plan.begins, lag=plan.lag)

    def obey(self, plan: a.Plan) -> None:
        self.needs.take((), plan.drained)
        kept = {s.stream: s for s in plan.assignments}
        for stream, job in list(self.jobs.items()):
            if stream not in kept or kept[stream].attempt != job.attempt:
                self.drop(stream)
        for s in plan.assignments:
            if s.stream in self.jobs:
                self.jobs[s.stream].release |= s.release
                self.go_on(self.jobs[s.stream])
            else:
                self.take(s)

    def go_on_all(self) -> None:
        for job in self.jobs.values():
            self.go_on(job)

    def drop_all(self) -> None:
        for stream in list(self.jobs):
            self.drop(stream)

    def drop(self, stream: int) -> None:
        job = self.jobs.pop(stream)
        job.over = True
        for following in job.followings:
            following.close()

    def take(self, s: a.Assignment) -> None:
        state = self.world.state
        lane = state.lanes[s.stream]
        mine = (s.attempt, self.worker.incarnation, self.worker.segment)
        if (lane.attempt, lane.holder, state.segment.number) != mine:
            return  # an old plan reaches a worker that was given up meanwhile; the shards refuse it politely
        start = state.segment.step if s.deposit is None else s.deposit
        base = self.needs.need(start)
        if start > s.step:
            raise Broken(f"{s} starts before its deposit")
        for shard in self.world.shards:
            if s.deposit is not None and s.deposit not in shard.deposits[s.stream]:
                raise Broken(
                    f"{s}: no such deposit on shard {shard.index}: {sorted(shard.deposits[s.stream])}"
                )
        job = Job(
            s.stream, s.attempt, s.step, s.deposit, s.send_to, base, start, s.release, deposited=s.deposit
        )
        self.jobs[s.stream] = job
        versions = [shard.version_at(base) for shard in self.world.shards]
        if not self.worker.held:
            self.worker.clocks = [base] * len(versions)
            self.worker.follow(versions, [base] * len(versions))
        for index, version in enumerate(versions):
            following = self.worker.calls.follow(index, version, lambda delta, j=job: self.closed(j, delta))
            job.followings.append(following)
        self.go_on(job)

    def closed(self, job: Job, delta: Delta) -> None:
        if delta.closes:
            job.heard.setdefault(delta.step + 1, set()).add(delta.shard)
            job.closing[delta.step + 1] = delta
            self.needs.reached(delta.step + 1, deposit=False, final=False, drain=delta.drain)
            self.go_on(job)

    def stands(self, job: Job, step: int) -> bool:
        """Whether x̂ as `step` begins is here for a stream, from every shard."""
        heard = step <= job.base or len(job.heard.get(step, ())) == self.worker.servers
        if step > self.worker.step or not heard:
            return False
        if any(shard.ledger.step < step for shard in self.world.shards):
            raise Broken(f"{self.worker.name} entered step {step} before every shard had it")
        return True

    def go_on(self, job: Job) -> None:
        """The next thing to do for a stream, if its version is here from every shard."""
        if job.over or job.busy or job.blocked or job.released:
            return
        if self.stands(job, job.at):
            if job.release or (job.says("deposit") and job.at not in (job.depositing, job.deposited)):
                if job.depositing is not None:
                    return  # a deposit begins only when the last one stands on every shard
                self.deposit(job)
                if job.blocked:
                    return
            if job.says("final") or (self.worker.final and job.at >= self.worker.step):
                if job.stream == 0 and not self.worker.evaluated:
                    self.worker.evaluate(job.at)
                return
            if job.says("pause"):
                return
        elif job.release:
            return
        need = self.needs.need(job.at)
        if self.stands(job, need):
            self.world.laws.computes(self.worker, job.at, need)
            job.busy = True
            seconds = self.world.random.uniform(0.05, 0.6)
            self.world.after(seconds, lambda: self.send(job), self.worker)

    def deposit(self, job: Job) -> None:
        at, release = job.at, job.release
        job.depositing = at
        job.blocked = release or job.says("final") or self.world.random.random() < 0.5
        waiting = set(range(self.worker.servers))

        def acknowledged(shard: int, verdict: Verdict) -> None:
            if verdict is Verdict.FENCED:
                return
            waiting.discard(shard)
            if waiting or job.over:
                return
            job.blocked = False
            job.depositing, job.deposited, job.released = None, at, release
            incarnation = self.worker.incarnation
            self.worker.report(e.StreamDeposited(incarnation, job.stream, at, release, job.attempt))
            self.go_on(job)

        for index in range(self.worker.servers):
            self.worker.calls.ask(
                index,
                lambda server, reply: server.deposit(job.stream, at, job.attempt, reply),
                lambda verdict, i=index: acknowledged(i, verdict),
            )

    def send(self, job: Job) -> None:
        if job.over:
            return
        if job.at < job.first:
            self.finish(job)
            return
        chosen = job.send_to if job.at == job.first and job.send_to else range(self.worker.servers)
        waiting = set(chosen)

        def answered(index: int, verdict: Verdict) -> None:
            if verdict is Verdict.FENCED:
                job.over = True
            waiting.discard(index)
            if not waiting and not job.over:
                self.finish(job)

        for index in chosen:
            unit = UnitId(1, job.at, job.stream)
            self.worker.push(index, unit, job.attempt, 0, lambda v, i=index: answered(i, v))

    def finish(self, job: Job) -> None:
        job.busy = False
        job.at += 1
        self.worker.up.send(e.Progressed(self.worker.incarnation, 0.3))
        self.go_on(job)
