"""What a coordinator says of its run: the live status and the final summary, as JSON objects."""

from __future__ import annotations

from coordinator.engine import Engine
from coordinator.entries import Member
from coordinator.shards import ShardLine
from wire.clock import utc_timestamp
from wire.ids import PROTOCOL_VERSION
from wire.messages import ShardPlacement
from wire.version import VERSION


def status(engine: Engine) -> dict[str, object]:
    """What the run looks like now (docs/status.md)."""
    state, now, rounds = engine.state, engine.clock.now(), engine.rounds
    evaluation = next((e for e in reversed(state.evaluations) if e.model == "published"), None)
    return {
        "run": state.run,
        "state": phase(engine),
        "reason": _reason(engine),
        "mode": state.segment.mode,
        "segment": state.segment.number,
        "switching": state.switching.mode if state.switching else None,
        "step": rounds.first_step(state.open_step),
        "clock": rounds.first_step(state.low // state.streams),
        "total_steps": state.dataset.steps if state.dataset else None,
        "timeline": state.timeline,
        "pure": engine.core.pure,
        "out": str(engine.out),
        "address": engine.address,
        "loss": state.loss,
        "val_loss": evaluation.loss if evaluation else None,
        "val_loss_step": evaluation.step if evaluation else None,
        "tokens_per_s": engine.accounts.tokens_per_s(),
        **totals(engine),
        "workers": [_worker(engine, m, now) for m in state.members.values() if m.role == "worker"],
        "servers": _servers(engine),
        "recoveries": state.recoveries,
        "units_owed": len(state.owed),
        "stragglers": sorted(engine.core.crew.stragglers(now)),
        "insecure": engine.security.insecure and not engine.security.tls,
        "uptime_s": round(now - engine.started, 3),
        "version": VERSION,
        "protocol_version": PROTOCOL_VERSION,
        "at": utc_timestamp(),
    }


def summary(engine: Engine) -> dict[str, object]:
    """What became of the run; the launcher adds `restarts`."""
    state = engine.state
    steps = engine.rounds.first_step(state.open_step)
    losses = {e.model: e.loss for e in state.evaluations if e.step == steps}
    checkpoint = state.checkpointed
    begun = engine.core.begun_at
    wall = engine.worked_before_s + engine.clock.now() - (begun if begun is not None else engine.started)
    tokens = state.totals.tokens
    return {
        "run": state.run,
        "mode": state.segment.mode,
        "pure": engine.core.pure,
        "timeline": state.timeline,
        "workers": engine.config.cluster.workers,
        "servers": engine.config.cluster.servers,
        "steps": steps,
        "wall_s": round(wall, 3),
        "tokens_per_s": round(tokens / wall, 1) if tokens and wall > 0 else None,
        "train_loss": state.loss,
        "val_loss": losses.get("published"),
        "val_loss_server": losses.get("x"),
        "params": state.layout.numel if state.layout else None,
        "params_digest": checkpoint.params_digest if checkpoint else None,
        "published_digest": checkpoint.published_digest if checkpoint else None,
        "data_digest": state.dataset.digest if state.dataset else None,
        **totals(engine),
        "replayed": engine.accounts.total("replayed"),
        "recoveries": state.recoveries,
        "checkpoint": checkpoint.path if checkpoint else None,
        "out": str(engine.out),
        "ended": state.ended.reason if state.ended else None,
        "error": state.ended.error if state.ended else None,
    }


def phase(engine: Engine) -> str:
    """The state of the run, in one word."""
    state = engine.state
    if state.ended is not None:
        return "failed" if state.ended.error not in ("", "Interrupted") else "done"
    if state.final:
        return "finishing"
    return "running" if engine.core.begun else "waiting"


def _reason(engine: Engine) -> str:
    """What the run waits for, or how it ended."""
    state, rules = engine.state, engine.core.desk.rules
    if state.ended is not None:
        return state.ended.reason
    if waits := engine.core.servers.waits_for(engine.clock.now()):
        return waits
    if engine.core.begun:
        return engine.core.work.waits_for
    servers, workers = len(state.present("ps")), len(engine.core.crew.ready)
    return (
        f"{servers} of {rules.servers} servers have joined, "
        f"{workers} of {rules.workers_to_begin} workers are ready"
    )


def totals(engine: Engine) -> dict[str, object]:
    """What status and summary both have."""
    totals, accounts = engine.state.totals, engine.accounts
    return {
        "tokens": totals.tokens,
        "samples": totals.samples,
        "units_settled": totals.units,
        "units_empty": totals.empty,
        "bytes_pushed": accounts.total("bytes_pushed"),
        "bytes_pulled": accounts.total("bytes_pulled"),
        "bytes_state": accounts.total("bytes_state"),
        "bytes_dense": bytes_dense(engine),
        "staleness": {str(stale): units for stale, units in sorted(totals.staleness.items())},
        "mass_returned": round(totals.returned, 6),
        "mass_held": round(engine.core.residuals.held, 6),
        "mass_lost": totals.lost,
    }


def bytes_dense(engine: Engine) -> int:
    """What dense training would have moved."""
    parameters = engine.state.layout.numel if engine.state.layout else 0
    steps_a_round = _steps_a_round(engine)
    return engine.accounts.bytes_dense(parameters, engine.state.totals.units, steps_a_round=steps_a_round)


def _steps_a_round(engine: Engine) -> float:
    """On the mean of what is settled: dense training moves a gradient at each step."""
    state, rounds = engine.state, engine.rounds
    behind = state.open_step - state.first_step
    steps = rounds.first_step(state.open_step) - rounds.first_step(state.first_step)
    return steps / behind if behind else 1.0


def _worker(engine: Engine, member: Member, now: float) -> dict[str, object]:
    account = engine.accounts.of(member.incarnation)
    report = account.report
    busy = report.compute_s + report.wait_s
    beat_age = engine.core.liveness.age(member.incarnation, now)
    return {
        "name": member.name,
        "incarnation": member.incarnation,
        "pid": member.pid,
        "host": member.host,
        "state": _activity(engine, member, now),
        "gone": member.gone or None,
        "streams": [lane.stream for lane in engine.state.held_by(member.incarnation)],
        "leases": engine.core.work.leased(member.incarnation),
        "straggler": member.name in engine.core.crew.stragglers(now),
        "staleness": engine.core.work.staleness(member.incarnation),
        "residual_norm": report.residual_norm,
        "bytes_pushed": report.bytes_pushed,
        "bytes_pulled": report.bytes_pulled,
        "units": report.units,
        "unit_s": round(account.unit_s, 4) if account.unit_s else None,
        "tokens_per_s": _own_rate(engine, report.units, report.compute_s),
        "wait_share": round(report.wait_s / busy, 4) if busy else None,
        "beat_age_s": beat_age,
    }


def _activity(engine: Engine, member: Member, now: float) -> str:
    """What a worker does, in one word."""
    core = engine.core
    if not member.present:
        return "dead" if member.dead else "left"
    if member.incarnation in core.liveness.suspects(now):
        return "suspect"
    leaving = member.incarnation in core.crew.leaving
    return "leaving" if leaving else engine.accounts.of(member.incarnation).activity


def _own_rate(engine: Engine, units: int, compute_s: float) -> float | None:
    """Tokens a second of a worker's compute, taking the run's mean of tokens a unit."""
    totals = engine.state.totals
    if not units or not totals.units or compute_s <= 0:
        return None
    return round(units * totals.tokens / totals.units / compute_s, 1)


def _servers(engine: Engine) -> list[dict[str, object]]:
    """Primaries by shard, then standbys by shard, then spares."""
    state, lines = engine.state, engine.switchboard.lines
    placed = {s.incarnation: s for s in state.placement}
    order = [*placed, *(standby.incarnation for _, standby in sorted(state.standbys.items()))]
    order += [m.incarnation for m in state.present("ps") if m.incarnation not in order]
    return [_server(engine, state.members[i], placed.get(i), lines.get(i)) for i in order]


def _server(
    engine: Engine, member: Member, placed: ShardPlacement | None, line: ShardLine | None
) -> dict[str, object]:
    state, servers, now = engine.state, engine.core.servers, engine.clock.now()
    away_s = servers.presence.away_s(member.incarnation, now)
    told: dict[str, object] = {
        "shard": placed.shard if placed is not None else state.stands_for(member.incarnation),
        "name": member.name,
        "address": member.address,
        "pid": member.pid,
        "incarnation": member.incarnation,
        "role": servers.role(member.incarnation) if state.placement else None,
        "away_s": None if away_s is None else round(away_s, 3),
    }
    if placed is not None:
        standby = state.standbys.get(placed.shard)
        told |= {
            "term": placed.term,
            "in_sync": standby.in_sync if standby is not None else None,
            "version": line.version if line is not None else None,
            "blocks": sum(r.blocks for r in placed.ranges),
            "delta_bytes": line.delta_bytes if line is not None else None,
        }
    elif (followed := state.stands_for(member.incarnation)) is not None:
        told["in_sync"] = state.standbys[followed].in_sync
    return told
