"""What is not allowed, against real processes over mutual TLS: refused with its code, written down, nothing changed.

The run waits for its second worker, so that whatever changes is somebody's doing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from sparsync.authority import Authority
from tests.cluster.guarded import Beating, Guarded, call, calls, join
from tests.cluster.roles import COORDINATOR
from tests.credentials import expired, foreign, of_nobody, revoked_list, self_signed
from wire.errors import Interrupted, Unidentified
from wire.ids import PROTOCOL_VERSION
from wire.rpc.access import InRun
from wire.rpc.channel import open_channel
from wire.rpc.handshakes import METHOD
from wire.rpc.identity import Role, Security
from wire.v1 import common_pb2, coordinator_pb2, shard_pb2

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
SCRIPT = Path(__file__).parent / "scripts" / "paced.py"
SETTINGS = {
    "run.steps": 1000,
    "cluster.servers": 1,
    "cluster.min_workers": 2,
    "cluster.allow_mixed_fingerprints": "true",
    "push.codec": "dense",
    "pull.codec": "dense",
}
C, S = "/sparsync.v1.Coordinator", "/sparsync.v1.Shard"
STATUS = f"{C}/Status"
FINISH = shard_pb2.ShardCommand(
    term=common_pb2.Term(number=99, nonce=b"x" * 16), finish=shard_pb2.Finish(reason="no")
)
"""From a coordinator whose term is higher than any."""
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
NO_CONNECTION = "UNAVAILABLE Unreachable"
REASONS = {
    "none": "PEER_DID_NOT_RETURN_A_CERTIFICATE",
    "self-signed": "self signed certificate",
    "another authority": "unable to get local issuer certificate",
    "expired": "certificate has expired",
    "plain text": "WRONG_VERSION_NUMBER",
}
"""What the handshake fails for; nobody is known yet."""
NOBODY = "UNAUTHENTICATED Unidentified"
FORBIDDEN = "PERMISSION_DENIED PermissionRefused"
OTHER_RUN = "FAILED_PRECONDITION WrongRun"
STALE = "ABORTED StaleIncarnation"
CUT_S = 5.0
"""So soon live calls of a revoked certificate end, and everybody refuses it."""


@dataclass(frozen=True)
class Scene:
    """A run that waits, and who is in it."""

    cluster: Guarded
    address: str
    server: str
    run: InRun
    own: int
    """Incarnation of the worker node1.gpu0, which is in the run; its uploads were taken."""
    other: int
    """Of node2, which is in the run as well; the test speaks for it."""
    old: int
    """Of node3, which is gone."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, member: Any, environ: dict[str, str]) -> Iterator[Scene]:
    base = tmp_path_factory.mktemp("guarded")
    cluster = Guarded(base, SETTINGS, member=member, script=[SCRIPT], environ=environ)
    try:
        cluster.start_servers(1)
        cluster.start_worker("node1.gpu0")
        cluster.wait_for("loaded")
        address, run = cluster.address, cluster.run
        old, other = asyncio.run(others(address, member, run))
        beating = Beating(address, member(Role.WORKER, "node2"), run=run, incarnation=other)
        cluster.wait_for("died", lambda event: event["name"] == "node3")
        (server,) = cluster.status()["servers"]
        own = cluster.incarnation("node1.gpu0")
        yield Scene(cluster, address, server["address"], run, own, other, old)
        beating.end()
        cluster.command("stop")
        cluster.wait_code(COORDINATOR, Interrupted.exit_code)
    finally:
        cluster.end()


async def others(address: str, member: Any, run: InRun) -> tuple[int, int]:
    """node3 joins, beats once and is gone; node2 joins."""
    found = []
    for name in ("node3", "node2"):
        channel = open_channel(address, member(Role.WORKER, name), role=Role.COORDINATOR, pool="control")
        found.append(await join(channel, name))
        if name == "node3":
            await call(channel, f"{C}/Heartbeat", coordinator_pb2.Beat(incarnation=found[0]), run=run)
        await channel.close(None)
    return found[0], found[1]


# --- messages ----------------------------------------------------------------------------------------


def attending(incarnation: int) -> coordinator_pb2.WorkerReport:
    return coordinator_pb2.WorkerReport(attending=coordinator_pb2.Attending(incarnation=incarnation))


def joining(name: str, role: str = "worker") -> coordinator_pb2.JoinRequest:
    return coordinator_pb2.JoinRequest(protocol_version=PROTOCOL_VERSION, role=role, name=name)


def of_a_worker(incarnation: int) -> dict[str, list[Any]]:
    """Method -> what a worker of this incarnation would send."""
    unit = common_pb2.Unit(timeline=1, step=0, stream=0)
    push = shard_pb2.PushHeader(unit=unit, attempt=1, incarnation=incarnation, plan=1, frame_bytes=8)
    deposit = shard_pb2.DepositHeader(timeline=1, incarnation=incarnation, attempt=1)
    upload = shard_pb2.UploadHeader(timeline=1, incarnation=incarnation)
    return {
        f"{C}/Attend": [attending(incarnation)],
        f"{C}/Declare": [coordinator_pb2.DeclareRequest(incarnation=incarnation)],
        f"{C}/Heartbeat": [coordinator_pb2.Beat(incarnation=incarnation, count=1)],
        f"{S}/Push": [shard_pb2.PushChunk(header=push)],
        f"{S}/Deposit": [shard_pb2.DepositChunk(header=deposit)],
        f"{S}/Upload": [shard_pb2.UploadChunk(header=upload)],
        f"{S}/Follow": [shard_pb2.FollowRequest(timeline=1, incarnation=incarnation)],
        f"{S}/Snapshot": [
            shard_pb2.SnapshotRequest(timeline=1, incarnation=incarnation, plane="published", live=True)
        ],
        f"{S}/Withdraw": [shard_pb2.WithdrawRequest(timeline=1, incarnation=incarnation)],
    }


def ask(
    scene: Scene, bearer: Security, messages: Mapping[str, Sequence[Any]], *, run: InRun | None = None
) -> dict[str, str]:
    """Method -> outcome of a call to the coordinator or the server, whichever has it."""
    here = {method: sent for method, sent in messages.items() if not method.startswith(S)}
    there = {method: sent for method, sent in messages.items() if method.startswith(S)}

    async def both() -> dict[str, str]:
        found = await calls(scene.address, bearer, Role.COORDINATOR, here, run=run) if here else {}
        return found | (await calls(scene.server, bearer, Role.PS, there, run=run) if there else {})

    return asyncio.run(both())


class Watched:
    """What a test of refusals has in common: nothing changes, and each refusal is written down."""

    def __init__(self, scene: Scene) -> None:
        self._cluster = scene.cluster
        self._before = scene.cluster.still("ps-0")
        self._audited = {where: len(scene.cluster.audited(where)) for where in (COORDINATOR, "ps-0")}

    def lines(self, method: str) -> list[dict[str, Any]]:
        """Of the audit log, since then."""
        where = "ps-0" if method.startswith(S) else COORDINATOR
        return [x for x in self._cluster.audited(where)[self._audited[where] :] if x["method"] == method]

    def check(self, found: dict[str, str], expected: str, *, who: str) -> None:
        """Each method was refused as expected, and there is a line that says so."""
        assert found == dict.fromkeys(found, expected)
        code, error = expected.split()
        for method in found:
            line = next(x for x in self.lines(method) if (x["who"], x["error"]) == (who, error))
            assert line["result"] == "refused" and line["code"] == code and line["reason"]

    def check_handshakes(self, reason: str) -> None:
        """Coordinator and server have a line of a handshake that failed for this reason."""
        deadline = time.monotonic() + 10
        for where, before in self._audited.items():
            while not any(
                reason in x["reason"] and x["method"] == METHOD for x in self._cluster.audited(where)[before:]
            ):
                assert time.monotonic() < deadline, self._cluster.audited(where)[before:]
                time.sleep(0.05)

    def end(self) -> None:
        assert self._cluster.still("ps-0") == self._before


@pytest.fixture
def watched(scene: Scene) -> Iterator[Watched]:
    found = Watched(scene)
    yield found
    found.end()


# --- the tests ---------------------------------------------------------------------------------------


def test_who_is_in_the_run_is_served(scene: Scene, watched: Watched, member: Any) -> None:
    """A message that is refused below is taken from whom it is."""
    snapshot = {f"{S}/Snapshot": of_a_worker(scene.own)[f"{S}/Snapshot"]}
    assert ask(scene, member(Role.WORKER, "node1"), snapshot, run=scene.run) == {f"{S}/Snapshot": "OK"}
    for role in (Role.OPERATOR, Role.VIEWER):
        assert ask(scene, member(role), {STATUS: [coordinator_pb2.StatusRequest()]}) == {STATUS: "OK"}


@pytest.mark.parametrize("credential", REASONS)
def test_who_cannot_show_a_good_certificate_does_not_even_connect(
    credential: str,
    scene: Scene,
    watched: Watched,
    authority: Authority,
    foreign_authority: Authority,
    tmp_path: Path,
) -> None:
    made: dict[str, Callable[[], Security]] = {
        "self-signed": lambda: self_signed(authority, tmp_path),
        "another authority": lambda: foreign(foreign_authority, authority, Role.OPERATOR, "ann", tmp_path),
        "expired": lambda: expired(authority, Role.OPERATOR, "ann", tmp_path),
    }
    if credential in made:
        messages = {f"{C}/Stop": [coordinator_pb2.StopRequest()], **of_a_worker(scene.own)}
        found = ask(scene, made[credential](), messages, run=scene.run)
        assert found == dict.fromkeys(messages, NO_CONNECTION)
        watched.check_handshakes(REASONS[credential])
        return
    ca = (authority.directory / "ca.pem").read_bytes()
    for address, name in ((scene.address, "coordinator"), (scene.server, "ps")):
        options = [("grpc.ssl_target_name_override", f"{name}.sparsync")]
        bare = (
            grpc.insecure_channel(address)
            if credential == "plain text"
            else grpc.secure_channel(address, grpc.ssl_channel_credentials(ca), options=options)
        )
        with bare, pytest.raises(grpc.RpcError) as refused:
            bare.unary_unary(f"{C}/Stop")(b"", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
    watched.check_handshakes(REASONS[credential])


def test_a_certificate_that_names_nobody(
    scene: Scene, watched: Watched, authority: Authority, tmp_path: Path
) -> None:
    messages = of_a_worker(scene.own) | {f"{C}/Stop": [coordinator_pb2.StopRequest()]}
    found = ask(scene, of_nobody(authority, tmp_path), messages, run=scene.run)
    watched.check(found, NOBODY, who="")


def test_the_wrong_role(scene: Scene, watched: Watched, member: Any) -> None:
    steering = {
        f"{C}/Stop": [coordinator_pb2.StopRequest()],
        f"{C}/Set": [coordinator_pb2.SetRequest(settings={"sync.mode": "async"})],
        f"{C}/Checkpoint": [coordinator_pb2.CheckpointRequest()],
        f"{C}/Drain": [coordinator_pb2.DrainRequest(name="node1.gpu0")],
        f"{C}/Deny": [coordinator_pb2.DenyRequest()],
    }
    working = {m: sent for m, sent in of_a_worker(scene.own).items() if m != f"{S}/Snapshot"}
    commanding = {f"{S}/Control": [FINISH]}
    wrong = {
        Role.WORKER: steering | commanding,
        Role.PS: steering | commanding | {m: s for m, s in working.items() if m != f"{C}/Heartbeat"},
        Role.VIEWER: steering | commanding | {m: s for m, s in working.items() if m != f"{S}/Follow"},
        Role.COORDINATOR: steering | working,
        Role.OPERATOR: commanding | working,
    }
    for role, messages in wrong.items():
        found = ask(scene, member(role, "eve"), messages, run=scene.run)
        watched.check(found, FORBIDDEN, who="eve")


def test_the_right_role_and_the_wrong_name(scene: Scene, watched: Watched, member: Any) -> None:
    for request in (joining("node4"), joining("evelyn"), joining("eve", "ps")):
        found = ask(scene, member(Role.WORKER, "eve"), {f"{C}/Join": [request]})
        watched.check(found, FORBIDDEN, who="eve")


def test_an_incarnation_that_is_not_the_certificates(scene: Scene, watched: Watched, member: Any) -> None:
    """node2 is in the run, too: it speaks as node1, and then uploads without having been asked."""
    node2, upload = member(Role.WORKER, "node2"), f"{S}/Upload"
    for messages in (of_a_worker(scene.own), {upload: of_a_worker(scene.other)[upload]}):
        watched.check(ask(scene, node2, messages, run=scene.run), FORBIDDEN, who="node2")


def test_a_server_does_not_go_on_as_another(scene: Scene, watched: Watched, member: Any) -> None:
    """It brings the shard of ps-0, or so it says; ps-0 itself is there, and its name is waited for."""
    (server,) = scene.cluster.status()["servers"]
    join = joining("ps-9", "ps")
    join.address, join.incarnation = "127.0.0.1:9", server["incarnation"]
    join.run, join.timeline = scene.run
    watched.check(ask(scene, member(Role.PS, "ps-9"), {f"{C}/Join": [join]}), FORBIDDEN, who="ps-9")
    join.name = "ps-0"
    found = ask(scene, member(Role.PS, "ps-0"), {f"{C}/Join": [join]})
    assert found == {f"{C}/Join": "ALREADY_EXISTS NameTaken"}


@pytest.mark.parametrize("name", ["node2." + "x" * (7 << 20), "node2.\x1b[2J"])
def test_a_name_that_nobody_could_be_told(name: str, scene: Scene, watched: Watched, member: Any) -> None:
    found = ask(scene, member(Role.WORKER, "node2"), {f"{C}/Join": [joining(name)]})
    assert found == {f"{C}/Join": "INVALID_ARGUMENT UsageError"}


def test_a_server_is_no_standby_under_anothers_incarnation(
    scene: Scene, watched: Watched, member: Any
) -> None:
    hello = shard_pb2.ReplicaReport(hello=shard_pb2.ReplicaHello(timeline=1, term=1, incarnation=scene.own))
    found = ask(scene, member(Role.PS, "ps-9"), {f"{S}/Replicate": [hello]}, run=scene.run)
    watched.check(found, FORBIDDEN, who="ps-9")


def test_an_old_incarnation(scene: Scene, watched: Watched, member: Any) -> None:
    """The coordinator knows who is gone; that a number was never given to anybody the servers know as well."""
    node3 = member(Role.WORKER, "node3")
    told = {m: sent for m, sent in of_a_worker(scene.old).items() if m.startswith(C)}
    for messages in (told, of_a_worker(0)):
        watched.check(ask(scene, node3, messages, run=scene.run), STALE, who="node3")


def test_another_run_and_another_timeline(scene: Scene, watched: Watched, member: Any) -> None:
    node1, messages = member(Role.WORKER, "node1"), of_a_worker(scene.own)
    another, earlier = InRun("another", 1), InRun(scene.run.run, 2)
    for told, expected in ((another, OTHER_RUN), (None, OTHER_RUN), (earlier, STALE)):
        watched.check(ask(scene, node1, messages, run=told), expected, who="node1")
    found = ask(scene, member(Role.COORDINATOR, "theirs"), {f"{S}/Control": [FINISH]}, run=another)
    watched.check(found, OTHER_RUN, who="theirs")


def test_reflection_is_for_operators(scene: Scene, watched: Watched, member: Any) -> None:
    listing = {REFLECTION: [reflection_pb2.ServerReflectionRequest(list_services="")]}
    for address, role in ((scene.address, Role.COORDINATOR), (scene.server, Role.PS)):
        assert asyncio.run(calls(address, member(Role.OPERATOR), role, listing, run=None)) == {
            REFLECTION: "OK"
        }
    for role in (Role.WORKER, Role.PS, Role.VIEWER, Role.COORDINATOR):
        watched.check(ask(scene, member(role), listing), FORBIDDEN, who=str(role))


def test_a_revoked_certificate_is_cut_off_everywhere(scene: Scene, member: Any, authority: Authority) -> None:
    """The last one: node1's process was in the run until now."""
    node1 = member(Role.WORKER, "node1")
    crl = revoked_list(authority, node1)
    deny = {f"{C}/Deny": [coordinator_pb2.DenyRequest(crl=crl)]}
    assert ask(scene, member(Role.OPERATOR, "ann"), deny) == {f"{C}/Deny": "OK"}
    began, messages, refused = time.monotonic(), of_a_worker(scene.own), dict[str, str]()
    scene.cluster.wait_code("node1.gpu0", Unidentified.exit_code, limit_s=CUT_S)
    while refused != dict.fromkeys(messages, NOBODY) and time.monotonic() < began + CUT_S:
        refused = ask(scene, node1, messages, run=scene.run)
    assert refused == dict.fromkeys(messages, NOBODY)
    for where in (COORDINATOR, "ps-0"):
        lines = [x for x in scene.cluster.audited(where) if "revoked" in x.get("reason", "")]
        assert {(x["who"], x["code"]) for x in lines} == {("node1", "UNAUTHENTICATED")}
    done = [x for x in scene.cluster.audited() if x["method"] == f"{C}/Deny" and x["result"] == "ok"]
    assert [x["who"] for x in done] == ["ann"]
    scene.cluster.wait_for("died", lambda event: event["name"] == "node1.gpu0")
    for kept in (scene.cluster.out, scene.cluster.of("ps-0")):
        assert (kept / "revoked.pem").read_bytes().strip() == crl.strip()
