"""Who may call what (default: nobody), and whether a message says of its sender what the certificate says. Pure.

A method that is not in the table is nobody's. The gate (wire/rpc/gate.py) asks before a handler runs; handlers ask
once a call whether the incarnation in a message is the caller's. In plain text nobody is known and everything is
open: such a server listens on loopback, or was told that the network is trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self
from urllib.parse import quote, unquote

from wire.errors import PermissionRefused, StaleIncarnation, WrongRun
from wire.rpc.identity import Peer, Role

RUN_KEY = "sparsync-run"
"""Metadata of a call: the run that it belongs to, as `InRun` writes it."""
MOST_DIGITS = 18
"""Of a timeline: 64 bits, and far less than what `int` refuses."""
SHOWN = 100
"""Characters of what a caller says, in a refusal."""


class Rule(NamedTuple):
    """Of one method.

    Attributes:
        roles: who may call it.
        of_run: its calls belong to a run, and say to which.
        audited: every call is written down, whatever comes of it; of others those that are refused.
    """

    roles: frozenset[Role]
    of_run: bool = False
    audited: bool = False


def _of_run(*roles: Role) -> Rule:
    return Rule(frozenset(roles), of_run=True)


def _steers(*roles: Role) -> Rule:
    return Rule(frozenset(roles), audited=True)


_EVERYBODY = Rule(frozenset(Role))
_COORDINATOR = {
    "Join": _steers(Role.WORKER, Role.PS, Role.OPERATOR),
    "Declare": _of_run(Role.WORKER),
    "Heartbeat": _of_run(Role.WORKER, Role.PS),
    "Attend": _of_run(Role.WORKER),
    "Status": Rule(frozenset({Role.COORDINATOR, Role.VIEWER, Role.OPERATOR})),
    "Stop": _steers(Role.OPERATOR),
    "Set": _steers(Role.OPERATOR),
    "Checkpoint": _steers(Role.OPERATOR),
    "Drain": _steers(Role.OPERATOR),
    "Deny": _steers(Role.OPERATOR),
}
_SHARD = {
    "Control": _of_run(Role.COORDINATOR),
    "Describe": _of_run(Role.COORDINATOR),
    "Collect": _of_run(Role.COORDINATOR),
    "Restore": _of_run(Role.COORDINATOR),
    "Upload": _of_run(Role.WORKER),
    "Push": _of_run(Role.WORKER),
    "Deposit": _of_run(Role.WORKER),
    "Withdraw": _of_run(Role.WORKER),
    "Follow": _of_run(Role.WORKER, Role.VIEWER),
    "Snapshot": _of_run(Role.WORKER, Role.OPERATOR),
    "Replicate": _of_run(Role.PS),
}
_HEALTH = {"Check": _EVERYBODY, "List": _EVERYBODY, "Watch": _EVERYBODY}
_REFLECTION = {"ServerReflectionInfo": Rule(frozenset({Role.OPERATOR}))}
_SERVICES = {
    "sparsync.v1.Coordinator": _COORDINATOR,
    "sparsync.v1.Shard": _SHARD,
    "grpc.health.v1.Health": _HEALTH,
    "grpc.reflection.v1alpha.ServerReflection": _REFLECTION,
    "grpc.reflection.v1.ServerReflection": _REFLECTION,
}
RULES: Mapping[str, Rule] = {
    f"/{service}/{method}": rule for service, methods in _SERVICES.items() for method, rule in methods.items()
}
"""By full method name."""


class InRun(NamedTuple):
    """The run, and the timeline in it, that a call belongs to: incarnations and units are counted in these."""

    run: str
    timeline: int

    def __str__(self) -> str:
        return f"{quote(self.run, safe='')}/{self.timeline}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What `str` wrote; None for anything else."""
        run, slash, timeline = text.rpartition("/")
        number = timeline.isascii() and timeline.isdigit() and len(timeline) <= MOST_DIGITS
        return cls(unquote(run), int(timeline)) if slash and run and number else None


def told_run(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The run that a call says that it belongs to."""
    return next((value for key, value in metadata if key == RUN_KEY and isinstance(value, str)), None)


def check_role(peer: Peer, method: str, rules: Mapping[str, Rule] = RULES) -> Rule | None:
    """The rule of a method; None where it has none, and in plain text.

    Raises: PermissionRefused where the caller's role may not call it.
    """
    rule = rules.get(method)
    if peer.role is None:
        return rule
    if rule is None or peer.role not in rule.roles:
        may = ", ".join(sorted(rule.roles)) if rule else "nobody"
        raise PermissionRefused(f"{peer} may not call {method}: its callers are {may}")
    return rule


def check_run(peer: Peer, told: str | None, ours: InRun) -> None:
    """Whether a call belongs to the run that is served here.

    Raises: WrongRun where it is another one's, or in TLS nobody's; StaleIncarnation where its timeline is another one.
    """
    if told is None:
        if peer.role is None:
            return
        raise WrongRun(f"the call says of no run that it belongs to it ({RUN_KEY}); this is run {ours.run}")
    its = InRun.parse(told)
    if its is None or its.run != ours.run:
        raise WrongRun(
            f"the call belongs to run {_quoted(told if its is None else its.run)}, this is run {ours.run}; "
            "check the address, or join this run anew"
        )
    if its.timeline != ours.timeline:
        raise StaleIncarnation(
            f"the call is of timeline {its.timeline}, this run is on timeline {ours.timeline}; join the run anew"
        )


def check_name(peer: Peer, *, role: str, name: str) -> None:
    """Whether the caller may go by this role and name.

    Raises: PermissionRefused where its certificate is of another role or name; operators may speak for either role.
    """
    if peer.role is None:
        return
    if peer.role not in (role, Role.OPERATOR) or not peer.covers(name):
        raise PermissionRefused(
            f"{peer} may not go by {role} {_quoted(name)}; its certificate covers {peer.name!r} and names that begin "
            f"with {peer.name + '.'!r}"
        )


def check_owner(peer: Peer, incarnation: int, *, role: str, name: str) -> None:
    """Whether an incarnation in a message is the caller's. Raises: PermissionRefused."""
    if peer.role is not None and (peer.role != role or not peer.covers(name)):
        raise PermissionRefused(
            f"{peer} speaks as incarnation {incarnation}, which is {role} {name!r}; everybody speaks for itself alone"
        )


def _quoted(said: str) -> str:
    """What a caller says, in words of ours: some of it, and nothing that could be taken for another line."""
    return repr(said if len(said) <= SHOWN else said[:SHOWN] + "…")
