"""What Prometheus is told of a run and its coordinator: read from state that is there anyway, when it is scraped.

On the event loop. While the disk is full the run is shown as it was before: nothing is told that is not durable.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from coordinator.engine import Engine
from coordinator.entries import Member
from coordinator.report import bytes_dense, phase
from wire import metrics as m
from wire.metrics import Distribution, Sample, Samples
from wire.rpc.audit import Audit
from wire.rpc.identity import Role

IN_THE_RUN = "coordinator"
"""What the coordinator is called there."""
STATES = ("waiting", "running", "finishing", "done", "failed")
ROLES = ("worker", "ps")
STANDINGS = ("alive", "suspect", "leaving")


class Metrics:
    """The samples of one coordinator."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._run: list[Sample] = []

    def samples(self) -> list[Sample]:
        """All of them, as things are now."""
        engine = self._engine
        if not engine.stalled:
            self._run = [*_run(engine), *_members(engine), *_settled(engine)]
        return [*self._run, *_process(engine)]


def serve_metrics(
    engine: Engine, listen: str, *, audit: Audit, denied: Callable[[str], bool]
) -> AbstractContextManager[object]:
    """Metrics on `listen`, for whoever may read them and holds no revoked certificate."""
    from wire.exposition import Exposition, on_loop

    told, loop = Metrics(engine), asyncio.get_running_loop()

    async def samples() -> Samples:
        return told.samples()

    return Exposition.serving(
        listen,
        engine.security,
        on_loop(samples),
        role=Role.COORDINATOR,
        id=IN_THE_RUN,
        run=engine.state.run,
        places=[engine.out],
        denied=denied,
        refused=lambda refusal: loop.call_soon_threadsafe(audit.refuse, refusal),
    )


def _run(engine: Engine) -> Iterator[Sample]:
    state, rounds, phase_now = engine.state, engine.rounds, phase(engine)
    yield m.RUN(1, state.run, state.segment.mode, "true" if engine.core.pure else "false")
    yield from (m.STATE(name == phase_now, name) for name in STATES)
    yield m.TIMELINE(state.timeline)
    yield m.TERM(state.term)
    yield m.SEGMENT(state.segment.number)
    yield m.STEP(rounds.first_step(state.open_step))
    yield m.CLOCK(rounds.first_step(state.low // state.streams))
    if state.dataset is not None:
        yield m.PLANNED(state.dataset.steps)
    if state.checkpointed is not None:
        yield m.CHECKPOINT(rounds.first_step(state.checkpointed.step))
    yield m.RECOVERIES(state.recoveries)


def _members(engine: Engine) -> Iterator[Sample]:
    state, core, now = engine.state, engine.core, engine.clock.now()
    suspects = core.liveness.suspects(now)

    def standing(member: Member) -> str:
        if member.incarnation in core.crew.leaving:
            return "leaving"
        silent = member.incarnation in suspects or core.servers.presence.away(member.incarnation)
        return "suspect" if silent else "alive"

    everybody = state.members.values()
    joined = Counter(member.role for member in everybody)
    here = Counter((member.role, standing(member)) for member in everybody if member.present)
    gone = Counter((x.role, "dead" if x.dead else "left") for x in everybody if not x.present)
    for role in ROLES:
        yield m.JOINS(joined[role], role)
        yield from (m.MEMBERS(here[role, name], role, name) for name in STANDINGS)
        yield from (m.LEAVES(gone[role, how], role, how) for how in ("left", "dead"))
    yield m.STRAGGLERS(len(core.crew.stragglers(now)))
    yield from (m.STRAGGLED(times, name) for name, times in core.crew.straggled_times().items())
    for member in state.present("worker"):
        yield from _worker(engine, member, now)
    for member in state.present("ps"):
        yield m.AWAY(core.servers.presence.away_s(member.incarnation, now) or 0.0, member.name)


def _worker(engine: Engine, member: Member, now: float) -> Iterator[Sample]:
    account = engine.accounts.of(member.incarnation)
    busy_s = account.report.compute_s + account.report.wait_s
    if account.unit_s:
        yield m.UNIT_SECONDS(account.unit_s, member.name)
    if busy_s:
        yield m.WAIT_SHARE(account.report.wait_s / busy_s, member.name)
    if (age_s := engine.core.liveness.age(member.incarnation, now)) is not None:
        yield m.BEAT_AGE(age_s, member.name)


def _settled(engine: Engine) -> Iterator[Sample]:
    state = engine.state
    yield m.SETTLED(state.totals.units)
    yield m.EMPTY(state.totals.empty)
    yield m.OWED(len(state.owed))
    yield m.SAMPLES(state.totals.samples)
    yield m.TOKENS(state.totals.tokens)
    if state.loss is not None:
        yield m.LOSS(state.loss)
    newest = {evaluation.model: evaluation.loss for evaluation in state.evaluations}
    yield from (m.VALIDATION(loss, model) for model, loss in newest.items())
    yield m.STALENESS(Distribution.of(state.totals.staleness, m.STEPS))
    yield m.RETURNED(state.totals.returned)
    yield m.HELD(engine.core.residuals.held)
    yield m.LOST(state.totals.lost)
    for direction in ("pushed", "pulled", "state"):
        yield m.RUN_BYTES(engine.accounts.total(f"bytes_{direction}"), direction)
    yield m.DENSE_BYTES(bytes_dense(engine))


def _process(engine: Engine) -> Iterator[Sample]:
    journal = engine.journal
    yield m.JOURNAL_RECORDS(journal.seq)
    yield m.JOURNAL_SYNC(journal.commit_s)
    yield m.JOURNAL_STALLED(bool(engine.stalled))
    yield m.LOOP_LAG(engine.tick_lag_s)
