"""The table of who may call what, against the design's written out here by hand; and what is asked of names."""

from __future__ import annotations

from itertools import chain

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from wire.errors import PermissionRefused, StaleIncarnation, WrongRun
from wire.rpc.access import RULES, RUN_KEY, InRun, check_name, check_owner, check_role, check_run, told_run
from wire.rpc.identity import Peer, Role
from wire.v1 import coordinator_pb2, shard_pb2

DESIGN = {
    "worker": "Join Declare Heartbeat Attend Upload Push Deposit Withdraw Follow Snapshot Check List Watch",
    "ps": "Join Heartbeat Replicate Check List Watch",
    "coordinator": "Status Control Describe Collect Restore Check List Watch",
    "viewer": "Status Follow Check List Watch",
    "operator": "Join Status Stop Set Checkpoint Drain Deny Snapshot Check List Watch ServerReflectionInfo",
}
"""What each role may call; everything else it may not."""
SERVED = {
    f"/{service.full_name}/{method.name}"
    for file in (coordinator_pb2, shard_pb2, health_pb2, reflection_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
OURS = InRun("läufe/of 2026", 3)


def peer(role: str, name: str = "node1") -> Peer:
    return Peer(Role(role), name, "1f")


def test_the_table_has_every_method_that_is_served_and_no_other() -> None:
    newer = {
        m for m in RULES if m.startswith("/grpc.reflection.v1.")
    }  # which this library does not serve yet
    assert RULES.keys() - newer == SERVED


@pytest.mark.parametrize("method", sorted(SERVED))
@pytest.mark.parametrize("role", list(Role))
def test_each_role_may_call_what_the_design_says(method: str, role: Role) -> None:
    if method.rpartition("/")[2] in DESIGN[role].split():
        assert check_role(peer(role), method) == RULES[method]
        return
    with pytest.raises(PermissionRefused, match=f"{role}/node1 may not call {method}"):
        check_role(peer(role), method)


def test_what_is_not_in_the_table_is_nobodys() -> None:
    for role in Role:
        with pytest.raises(PermissionRefused, match="its callers are nobody"):
            check_role(peer(role), "/sparsync.v1.Coordinator/Later")


def test_in_plain_text_everything_is_open() -> None:
    for method in chain(SERVED, ["/a.b/C"]):
        check_role(Peer.anyone(), method)
    check_run(Peer.anyone(), None, OURS)
    check_name(Peer.anyone(), role="worker", name="any")
    check_owner(Peer.anyone(), 3, role="worker", name="any")


def test_all_that_changes_a_run_for_an_operator_is_written_down() -> None:
    reads = {"Status", "Snapshot", "ServerReflectionInfo", "Check", "List", "Watch"}
    for method, rule in RULES.items():
        if Role.OPERATOR in rule.roles and method.rpartition("/")[2] not in reads:
            assert rule.audited, method


# --- runs ------------------------------------------------------------------------------------------


def test_a_run_survives_being_told() -> None:
    text = str(OURS)
    assert text.isascii() and InRun.parse(text) == OURS
    assert told_run([("user-agent", "x"), (RUN_KEY, text)]) == text
    assert told_run([(RUN_KEY + "-bin", b"x"), ("user-agent", "x")]) is None
    for nonsense in ("", "run", "run/", "run/-1", "run/1.5", "run/²", "run/" + "9" * 5000):
        assert InRun.parse(nonsense) is None


def test_calls_of_the_run_pass_whoever_makes_them() -> None:
    for caller in (peer("worker"), Peer.anyone()):
        check_run(caller, str(OURS), OURS)


@pytest.mark.parametrize("told", [str(InRun("other", 3)), "nonsense", "", "run/" + "9" * 5000])
def test_calls_of_another_run_are_refused_in_plain_text_too(told: str) -> None:
    for caller in (peer("worker"), Peer.anyone()):
        with pytest.raises(WrongRun, match="this is run läufe/of 2026"):
            check_run(caller, told, OURS)


def test_what_a_caller_says_is_quoted_in_a_refusal() -> None:
    forged = str(InRun("x\n2026-11-22 INFO all is well " + "x" * 5000, 3))
    with pytest.raises(WrongRun, match=r"to run 'x\\n2026.*x…', this is run") as refused:
        check_run(peer("worker"), forged, OURS)
    with pytest.raises(PermissionRefused, match=r"may not go by worker 'y\\ny") as named:
        check_name(peer("worker"), role="worker", name="y\n" + "y" * 5000)
    for error in (refused, named):
        assert str(error.value).isprintable() and len(str(error.value)) < 300


def test_another_timeline_is_an_older_part_of_the_same_run() -> None:
    with pytest.raises(StaleIncarnation, match="of timeline 2, this run is on timeline 3"):
        check_run(Peer.anyone(), str(InRun(OURS.run, 2)), OURS)


def test_whoever_is_known_says_to_which_run_he_belongs() -> None:
    with pytest.raises(WrongRun, match=RUN_KEY):
        check_run(peer("worker"), None, OURS)


# --- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["node1", "node1.0", "node1.gpu1.x"])
def test_a_certificate_covers_its_name_and_what_follows_a_dot(name: str) -> None:
    check_name(peer("worker"), role="worker", name=name)
    check_name(peer("operator"), role="ps", name=name)
    check_owner(peer("worker"), 3, role="worker", name=name)


@pytest.mark.parametrize(
    ("role", "name"), [("worker", "node10"), ("worker", "node"), ("worker", ""), ("ps", "node1")]
)
def test_other_names_and_roles_are_not_covered(role: str, name: str) -> None:
    with pytest.raises(PermissionRefused, match="worker/node1 may not go by"):
        check_name(peer("worker"), role=role, name=name)
    with pytest.raises(PermissionRefused, match="worker/node1 speaks as incarnation 3, which is"):
        check_owner(peer("worker"), 3, role=role, name=name)
    with pytest.raises(PermissionRefused, match="speaks as incarnation"):
        check_owner(peer("operator"), 3, role="worker", name="node1")
