"""Who may enter the run: one process a name, workers that compute alike. Servers: `servers`."""

from __future__ import annotations

from coordinator import actions as a
from coordinator import events as e
from coordinator.desk import Desk
from coordinator.records import Admitted
from wire.errors import ModelMismatch, NameTaken, RunOver, SparsyncError


def admit(desk: Desk, event: e.Join) -> int | None:
    """Answer a worker that asks to enter. Returns its incarnation, or None if it was refused."""
    try:
        _check(desk, event)
    except SparsyncError as refusal:
        refuse(desk, event, refusal)
        return None
    return enter(desk, event)


def refuse(desk: Desk, event: e.Join, refusal: SparsyncError) -> None:
    """A process does not enter."""
    desk.answer(event.key, refusal)
    desk.note("join_refused", name=event.name, reason=str(refusal))


def enter(desk: Desk, event: e.Join) -> int:
    """A process is in the run under a new incarnation, and told so."""
    incarnation = desk.state.next_incarnation
    desk.decide(
        Admitted(incarnation, event.role, event.name, event.address, event.fingerprint, event.pid, event.host)
    )
    desk.note("joined", role=event.role, name=event.name, incarnation=incarnation, pid=event.pid)
    desk.answer(event.key, a.Joined(incarnation))
    return incarnation


def _check(desk: Desk, event: e.Join) -> None:
    """Workers compute alike; those that are gone count once a step is closed. Raises: the refusal."""
    state = desk.state
    if state.ended is not None:
        raise RunOver(f"run {state.run} is over ({state.ended.reason}); start a new one")
    for member in state.present(event.role):
        if member.name == event.name:
            raise NameTaken(
                f"a {event.role} named {event.name!r} is in the run already (pid {member.pid} on {member.host}); "
                "give this one another --name, or wait until the other is given up"
            )
    past = [m for m in state.members.values() if m.role == "worker"] if state.last_close is not None else []
    others = {m.fingerprint for m in state.present("worker") or past}
    if others and event.fingerprint not in others and not desk.rules.mixed_fingerprints:
        raise ModelMismatch(
            f"worker {event.name} computes with {event.fingerprint}, the run with {others.pop()}: the result "
            "would depend on who computes what; make them alike, or set cluster.allow_mixed_fingerprints = true"
        )
