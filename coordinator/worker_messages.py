"""What is said on a worker's control line: its reports as events of the core, the core's orders as messages. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coordinator import actions as a
from coordinator import events as e
from wire.rounds import Rounds
from wire.v1 import coordinator_pb2

FIGURES = ("units", "compute_s", "wait_s", "bytes_pushed", "bytes_pulled", "bytes_state", "pulls", "replayed")
"""Of Progress: cumulative, and so for the accounts also when the worker is gone."""


def _figures(progress: coordinator_pb2.Progress) -> tuple[tuple[str, float], ...]:
    return tuple((name, getattr(progress, name)) for name in FIGURES)


_HEARD: Mapping[str, Callable[[int, Any], e.Event]] = {
    "uploaded": lambda i, _: e.Uploaded(i),
    "ready": lambda i, r: e.Ready(
        i,
        r.samples,
        r.data_digest,
        r.batch_size,
        r.accumulate,
        r.evaluates,
        r.evaluate_every,
        r.keeps,
    ),
    "progress": lambda i, p: e.Progressed(i, p.unit_s, p.residual_norm, p.dropped_norm, _figures(p)),
    "holding": lambda i, h: e.Holding(i, h.plan, tuple((held.lease, held.next) for held in h.leases)),
    "flushed": lambda i, f: e.Flushed(i, f.segment, f.residual_norm),
    "handed_over": lambda i, h: e.HandedOver(i, h.step),
    "deposited": lambda i, d: e.StreamDeposited(i, d.stream, d.step, d.released, d.attempt),
    "evaluated": lambda i, v: e.LossEvaluated(i, v.step, v.model, v.loss, v.seconds),
    "failed": lambda i, f: e.WorkerFailed(i, f.error, f.message),
    "leaving": lambda i, w: e.WorkerLeaving(i, w.reason),
    "announce": lambda i, w: e.Announced(i, w.activity),
    "moving": lambda i, m: e.Moving(i),
}
"""By the report's field; of others the core hears nothing."""


def event_of(incarnation: int, report: coordinator_pb2.WorkerReport) -> e.Event | None:
    """What the core hears of a report; None where it is none of its affairs."""
    kind = report.WhichOneof("report")
    return _HEARD[kind](incarnation, getattr(report, kind)) if kind in _HEARD else None


def message_of(
    order: a.Plan | a.End | a.Redirect, rounds: Rounds, *, first_step: int, handed: int | None
) -> coordinator_pb2.WorkerOrder:
    """What a worker is told.

    `first_step`: the one that a stream without a deposit starts from; `handed`: as `State.handed_here`.
    """
    if isinstance(order, a.End):
        return coordinator_pb2.WorkerOrder(end=coordinator_pb2.End(reason=order.reason, error=order.error))
    if isinstance(order, a.Redirect):
        redirect = coordinator_pb2.Redirect(
            shard=order.shard, address=order.address, incarnation=order.incarnation, term=order.term
        )
        return coordinator_pb2.WorkerOrder(redirect=redirect)
    return coordinator_pb2.WorkerOrder(
        plan=coordinator_pb2.Plan(
            number=order.number,
            assignments=[_assignment(s, first_step) for s in order.assignments],
            total_steps=rounds.first_step(order.total_steps),
            segment=order.segment,
            begins=order.begins,
            elastic=order.elastic,
            leases=[_lease(lease) for lease in order.leases],
            ahead=order.ahead,
            first=order.first,
            leave=order.leave,
            lag=order.lag,
            drained=order.drained,
            hand_over=order.hand_over,
            inherits=order.inherits,
            handed=handed,
        )
    )


def _assignment(s: a.Assignment, first_step: int) -> coordinator_pb2.Assignment:
    return coordinator_pb2.Assignment(
        stream=s.stream,
        attempt=s.attempt,
        step=s.step,
        deposit_step=first_step if s.deposit is None else s.deposit,
        has_deposit=s.deposit is not None,
        send_to=s.send_to,
        release=s.release,
    )


def _lease(order: a.LeaseOrder) -> coordinator_pb2.Lease:
    partial = [coordinator_pb2.PartialUnit(number=n, send_to=shards) for n, shards in order.partial]
    return coordinator_pb2.Lease(
        number=order.lease,
        start=order.span.start,
        stop=order.span.stop,
        stride=order.span.stride,
        partial=partial,
    )
