"""Who may enter the run: one process a name, workers that compute alike, words that can be kept. Servers: `servers`."""

from __future__ import annotations

from coordinator import actions as a
from coordinator import events as e
from coordinator.desk import Desk
from coordinator.records import Admitted
from wire.errors import ModelMismatch, NameTaken, RunOver, SparsyncError, UsageError
from wire.rpc.address import parse_address

MOST_NAME, MOST_FINGERPRINT = 255, 4096
"""Characters. What a joiner says of itself is journaled, and told to every server on each line."""
SHOWN = 40
"""Characters of what is refused."""


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
    if incarnation == event.held:
        incarnation += 1  # another coordinator gave that out, and what is held under it is not of this run
    desk.decide(
        Admitted(incarnation, event.role, event.name, event.address, event.fingerprint, event.pid, event.host)
    )
    desk.note("joined", role=event.role, name=event.name, incarnation=incarnation, pid=event.pid)
    desk.answer(event.key, a.Joined(incarnation))
    return incarnation


def check_words(role: str, name: str, fingerprint: str) -> None:
    """Whether what a joiner says of itself can be kept, told on and shown on a terminal. Raises: UsageError."""
    if not name or not _is_plain(name, MOST_NAME):
        raise UsageError(
            f"{name[:SHOWN]!a}{'…' * (len(name) > SHOWN)} ({len(name)} characters) is no name for a process of a run; "
            f"give --name up to {MOST_NAME} printable ASCII characters"
        )
    if not _is_plain(fingerprint, MOST_FINGERPRINT):
        raise UsageError(
            f"{role} {name} tells a fingerprint of {len(fingerprint)} characters; expected up to {MOST_FINGERPRINT} "
            "printable ASCII ones"
        )


def address_of(role: str, address: str) -> str:
    """Where a joiner is to be dialled: a server. Raises: ConfigError where that is no address."""
    if role != "ps":
        return ""
    parse_address(address[: 2 * MOST_NAME])
    return address


def shown(host: str) -> str:
    """A host's name, which only people read, as a terminal may have it."""
    return "".join(character if _is_plain(character, 1) else "?" for character in host[:MOST_NAME])


def _is_plain(text: str, most: int) -> bool:
    return len(text) <= most and text.isascii() and text.isprintable()


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
