"""Every method of every service, called with every credential over real connections; calls that are cut while they run.

What answers behind the gate only says that it was reached, so that nothing but the gate can have refused a call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from sparsync.authority import Authority
from tests.credentials import expired, foreign, of_nobody, revoked_list, self_signed
from tests.wire.rpc.test_access import DESIGN, SERVED
from wire.errors import (
    Busy,
    PermissionRefused,
    SparsyncError,
    StaleIncarnation,
    Unidentified,
    Unreachable,
    WrongRun,
)
from wire.rpc.access import RUN_KEY, InRun
from wire.rpc.audit import AUDIT_FILE, OPERATORS_FILE, Audit
from wire.rpc.channel import open_channel
from wire.rpc.gate import Gate
from wire.rpc.identity import Role, Security
from wire.rpc.in_run import InRunChannel
from wire.rpc.server import Serving, serve
from wire.rpc.status import BROKEN_HERE, to_error
from wire.v1 import coordinator_pb2, shard_pb2

OURS = [
    service for file in (coordinator_pb2, shard_pb2) for service in file.DESCRIPTOR.services_by_name.values()
]
RUN = InRun("a run", 2)
LIMIT_S = 20.0
TRANSPORT = "UNAVAILABLE"
"""No handshake, no call: the code that gRPC gives whoever does not even connect."""


def reached(call: Callable[..., Any]) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        raise Busy("reached")

    return answer


def add_ours(server: grpc.aio.Server) -> None:
    """All methods of our services, as the descriptors have them, behind handlers that say that they were reached."""
    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    for service in OURS:
        handlers = {
            m.name: kinds[m.client_streaming, m.server_streaming](reached(m)) for m in service.methods
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


async def our_run() -> InRun:
    return RUN


@asynccontextmanager
async def server(
    security: Security, out: Path, add: Callable[[grpc.aio.Server], None] = add_ours
) -> AsyncIterator[tuple[Serving, Gate]]:
    audit = Audit(out / AUDIT_FILE)
    gate = Gate(audit=audit, run=our_run)
    services = [service.full_name for service in OURS]
    serving = await serve(listen="127.0.0.1:0", security=security, add=add, services=services, gate=gate)
    await serving.serving()
    try:
        yield serving, gate
    finally:
        await serving.stop(0)
        audit.close()


async def outcome(channel: grpc.aio.Channel, method: str, run: InRun | None = RUN) -> str:
    """`reached`, or the code and the class of the refusal.

    Who is refused while he still sends may be told by gRPC that sending failed, and asks again like every role.
    """
    while (found := await attempt(channel, method, run)) is None:
        pass
    return found


async def attempt(channel: grpc.aio.Channel, method: str, run: InRun | None) -> str | None:
    """One call; None: what it was answered is lost."""
    caller: Any = InRunChannel(channel, run) if run is not None else channel
    requests: dict[str, Any] = {
        "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest(),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": (
            reflection_pb2.ServerReflectionRequest(list_services="")
        ),
    }
    request = requests[method].SerializeToString() if method in requests else b""
    call = caller.stream_stream(method)(iter([request]), timeout=LIMIT_S)
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        if error.details() == BROKEN_HERE:
            return None
        named = to_error(error, peer="it")
        if isinstance(named, Busy) or "NotImplementedError" in str(
            error.details()
        ):  # the library's Health/List
            return "reached"
        return f"{error.code().name} {type(named).__name__}"
    finally:
        call.cancel()
    return "reached"


def audited(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / AUDIT_FILE).read_text().splitlines()]


def run(scene: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 60))


@pytest.mark.parametrize("role", list(Role))
def test_every_method_with_a_certificate_of_every_role(role: Role, member: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with server(member(Role.COORDINATOR), tmp_path) as (serving, _):
            channel = open_channel(serving.address, member(role), role=Role.COORDINATOR, pool="control")
            found = {method: await outcome(channel, method) for method in sorted(SERVED)}
            await channel.close(None)
        may = DESIGN[role].split()
        refused = "PERMISSION_DENIED PermissionRefused"
        assert found == {m: "reached" if m.rpartition("/")[2] in may else refused for m in sorted(SERVED)}
        written = {line["method"] for line in audited(tmp_path) if line["result"] == "refused"}
        assert written == {method for method in SERVED if found[method] == refused}
        assert {(line["who"], line["role"]) for line in audited(tmp_path)} == {(str(role), str(role))}

    run(main())


BAD = {
    "a certificate that names nobody": "UNAUTHENTICATED Unidentified",
    "revoked": "UNAUTHENTICATED Unidentified",
    "another authority": f"{TRANSPORT} Unreachable",
    "self-signed": f"{TRANSPORT} Unreachable",
    "expired": f"{TRANSPORT} Unreachable",
    "none": f"{TRANSPORT} Unreachable",
    "plain text": f"{TRANSPORT} Unreachable",
}


@pytest.mark.parametrize("credential", BAD)
def test_every_method_with_no_good_certificate(
    credential: str, authority: Authority, foreign_authority: Authority, member: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        async with server(member(Role.COORDINATOR), tmp_path) as (serving, gate):
            channel = stranger(serving.address, gate)
            found = {method: await outcome(channel, method) for method in sorted(SERVED)}
            await channel.close(None)
        assert found == dict.fromkeys(sorted(SERVED), BAD[credential])
        if not BAD[credential].startswith(TRANSPORT):
            refusals = audited(tmp_path)
            assert {line["method"] for line in refusals} == SERVED
            assert {line["code"] for line in refusals} == {"UNAUTHENTICATED"}

    def stranger(address: str, gate: Gate) -> grpc.aio.Channel:
        out = tmp_path / "stranger"
        if credential == "plain text":
            return grpc.aio.insecure_channel(address)
        if credential == "none":
            ca = (authority.directory / "ca.pem").read_bytes()
            name = (("grpc.ssl_target_name_override", "coordinator.sparsync"),)
            return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca), options=name)
        made = {
            "a certificate that names nobody": lambda: of_nobody(authority, out),
            "self-signed": lambda: self_signed(authority, out),
            "expired": lambda: expired(authority, Role.OPERATOR, "ann", out),
            "another authority": lambda: foreign(foreign_authority, authority, Role.OPERATOR, "ann", out),
            "revoked": lambda: member(Role.OPERATOR),
        }[credential]()
        if credential == "revoked":
            gate.deny(frozenset({made.own().serial}))
        return open_channel(address, made, role=Role.COORDINATOR, pool="control")

    run(main())


def test_tls_to_a_plain_port_does_not_connect(member: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with server(Security(), tmp_path) as (serving, _):
            channel = open_channel(
                serving.address, member(Role.OPERATOR), role=Role.COORDINATOR, pool="control"
            )
            assert await outcome(channel, "/sparsync.v1.Coordinator/Status") == f"{TRANSPORT} Unreachable"
            await channel.close(None)

    run(main())


# --- runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "error"),
    [(InRun("another", 2), WrongRun), (None, WrongRun), (InRun("a run", 1), StaleIncarnation)],
)
def test_calls_of_another_run_are_refused_and_written_down(
    told: InRun | None, error: type[SparsyncError], member: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        async with server(member(Role.PS), tmp_path) as (serving, _):
            channel = open_channel(serving.address, member(Role.WORKER), role=Role.PS, pool="data")
            found = await outcome(channel, "/sparsync.v1.Shard/Push", told)
            await channel.close(None)
        assert found == f"{error.status} {error.__name__}"
        written = {(line["error"], line["who"], line["result"]) for line in audited(tmp_path)}
        assert written == {(error.__name__, "worker", "refused")}

    run(main())


def test_who_is_refused_while_he_still_sends_hears_why_or_that_he_may_ask_again(
    member: Any, tmp_path: Path
) -> None:
    """gRPC itself loses the answer now and then, which is none of the server's failures (grpc/grpc#36066)."""

    async def refused(channel: grpc.aio.Channel) -> type[SparsyncError]:
        call = InRunChannel(channel, InRun("another", 2)).stream_stream("/sparsync.v1.Shard/Push")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(iter([b""] * 8), timeout=LIMIT_S).read()
        return type(to_error(caught.value, peer="it"))

    async def main() -> None:
        async with server(member(Role.PS), tmp_path) as (serving, _):
            channel = open_channel(serving.address, member(Role.WORKER), role=Role.PS, pool="data")
            found = {await refused(channel) for _ in range(200)}
            await channel.close(None)
        assert WrongRun in found and found <= {WrongRun, Unreachable}

    run(main())


# --- live calls --------------------------------------------------------------------------------------


class Streams:
    """One call of each kind, under the names of methods that have that kind; all of them run until they are ended."""

    METHODS = ("Control", "Push", "Follow", "Declare")

    def __init__(self) -> None:
        self.running = self.begun = 0

    def add(self, server: grpc.aio.Server) -> None:
        shard = {
            "Control": grpc.stream_stream_rpc_method_handler(self._replies),
            "Push": grpc.stream_unary_rpc_method_handler(self._waits),
            "Follow": grpc.unary_stream_rpc_method_handler(self._pours),
        }
        others = {"Declare": grpc.unary_unary_rpc_method_handler(self._waits)}
        for service, handlers in (("Shard", shard), ("Coordinator", others)):
            named = grpc.method_handlers_generic_handler(f"sparsync.v1.{service}", handlers)
            server.add_generic_rpc_handlers((named,))

    async def _waits(self, request: Any, context: Any) -> bytes:
        self.running += 1
        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1
        return b""

    async def _replies(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"begun"
        yield await self._waits(request, context)

    async def _pours(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        """More than a reader takes who does not read: it hangs while a message is on its way."""
        self.running += 1
        self.begun += 1
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            self.running -= 1


@pytest.mark.parametrize("method", Streams.METHODS)
def test_a_call_ends_when_its_certificate_is_denied_and_others_go_on(
    method: str, authority: Authority, tmp_path: Path
) -> None:
    """Whatever it waits for: its caller, an event, or room for a reply."""
    service = "Coordinator" if method == "Declare" else "Shard"
    role = Role.COORDINATOR if method == "Control" else Role.WORKER

    def issued(name: str) -> Security:
        _, files = authority.issue(role, name, now=datetime.now(UTC), out=tmp_path / name, again=True)
        return Security(False, *files)

    async def main() -> None:
        streams = Streams()
        ours = Security(
            False, *authority.issue(Role.PS, "s", now=datetime.now(UTC), out=tmp_path / "s", again=True)[1]
        )
        async with server(ours, tmp_path, streams.add) as (serving, gate):
            calls = {}
            channels = []
            bearers = {name: issued(name) for name in ("bad", "good")}
            for name, bearer in bearers.items():
                channel = open_channel(serving.address, bearer, role=Role.PS, pool="data")
                channels.append(channel)
                made = InRunChannel(channel, RUN).stream_stream(f"/sparsync.v1.{service}/{method}")
                calls[name] = made(asking())
            while streams.running < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            gate.deny(frozenset({bearers["bad"].own().serial}))
            with pytest.raises(grpc.aio.AioRpcError) as cut:
                while await calls["bad"].read() is not grpc.aio.EOF:
                    pass
            assert cut.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert isinstance(to_error(cut.value, peer="it"), Unidentified)
            assert not calls["good"].done() and streams.running == 1
            again = InRunChannel(channels[0], RUN).stream_stream(f"/sparsync.v1.{service}/{method}")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await again(asking()).read()
            assert "is revoked" in str(refused.value.details())
            for channel in channels:
                await channel.close(None)
        lines = [line for line in audited(tmp_path) if line["error"] == "Unidentified"]
        assert lines and {line["who"] for line in lines} == {"bad"}

    async def asking() -> AsyncIterator[bytes]:
        yield b""
        if method in ("Control", "Push"):
            await asyncio.Event().wait()

    run(main())


def test_who_is_denied_and_does_not_read_gets_nothing_more(member: Any, tmp_path: Path) -> None:
    async def main() -> None:
        streams = Streams()
        async with server(member(Role.PS), tmp_path, streams.add) as (serving, gate):
            channel = open_channel(serving.address, member(Role.WORKER), role=Role.PS, pool="data")
            call = InRunChannel(channel, RUN).unary_stream("/sparsync.v1.Shard/Follow")(b"")
            for running in (1, 0):
                while streams.running != running:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                gate.deny(frozenset({member(Role.WORKER).own().serial}))
            call.cancel()
            await channel.close(None)
        assert {line["error"] for line in audited(tmp_path)} == {"Unidentified"}

    run(main())


def test_who_is_denied_while_the_gate_makes_up_its_mind_is_not_let_in(member: Any, tmp_path: Path) -> None:
    """As while a server waits to be told of which run it is."""

    async def main() -> None:
        asked, known = asyncio.Event(), asyncio.Event()

        async def later() -> InRun:
            asked.set()
            await known.wait()
            return RUN

        async with server(member(Role.PS), tmp_path) as (serving, gate):
            gate._run = later
            channel = open_channel(serving.address, member(Role.WORKER), role=Role.PS, pool="data")
            found = asyncio.create_task(outcome(channel, "/sparsync.v1.Shard/Push"))
            await asked.wait()
            gate.deny(frozenset({member(Role.WORKER).own().serial}))
            known.set()
            assert await found == "UNAUTHENTICATED Unidentified"
            await channel.close(None)

    run(main())


@pytest.mark.parametrize("method", Streams.METHODS)
def test_a_call_ends_with_its_certificate_and_no_other_begins(
    method: str, authority: Authority, member: Any, tmp_path: Path
) -> None:
    """The connection was made while it was good, and lives on."""
    service = "Coordinator" if method == "Declare" else "Shard"
    role = Role.COORDINATOR if method == "Control" else Role.WORKER

    async def main() -> None:
        streams = Streams()
        ends = member(role).own().ends
        async with server(member(Role.PS), tmp_path, streams.add) as (serving, gate):
            gate._now = lambda: ends - timedelta(seconds=0.5)
            channel = open_channel(serving.address, member(role), role=Role.PS, pool="data")
            begin = InRunChannel(channel, RUN).stream_stream(f"/sparsync.v1.{service}/{method}")
            for _ in range(2):
                with pytest.raises(grpc.aio.AioRpcError) as cut:
                    call = begin(asking())
                    while await call.read() is not grpc.aio.EOF:
                        pass
                assert cut.value.code() is grpc.StatusCode.UNAUTHENTICATED
                assert isinstance(to_error(cut.value, peer="it"), Unidentified)
                assert "was good until" in str(cut.value.details()) and not streams.running
                gate._now = lambda: ends
            assert streams.begun == 1
            await channel.close(None)
        assert {line["error"] for line in audited(tmp_path)} == {"Unidentified"}

    async def asking() -> AsyncIterator[bytes]:
        yield b""
        if method in ("Control", "Push"):
            await asyncio.Event().wait()

    run(main())


def test_a_denied_serial_that_is_let_in_again_is_let_in(member: Any, tmp_path: Path) -> None:
    """A list is whole: what a newer one has no more is good again."""

    async def main() -> None:
        ours = member(Role.OPERATOR)
        async with server(member(Role.COORDINATOR), tmp_path) as (serving, gate):
            channel = open_channel(serving.address, ours, role=Role.COORDINATOR, pool="control")
            status = "/sparsync.v1.Coordinator/Status"
            found = [await outcome(channel, status)]
            for serials in ({ours.own().serial}, set[str]()):
                gate.deny(frozenset(serials))
                found.append(await outcome(channel, status))
            assert found == ["reached", "UNAUTHENTICATED Unidentified", "reached"]
            await channel.close(None)

    run(main())


def test_what_an_operator_does_is_written_down_with_its_result(member: Any, tmp_path: Path) -> None:
    class Steered:
        async def stop(self, request: coordinator_pb2.StopRequest, context: Any) -> coordinator_pb2.StopReply:
            if request.reason == "x" * 2000:
                raise PermissionError("ours")
            if request.reason == "busy":
                raise Busy("later")
            return coordinator_pb2.StopReply(at_step=7)

        def add(self, server: grpc.aio.Server) -> None:
            handler = grpc.unary_unary_rpc_method_handler(
                self.stop, coordinator_pb2.StopRequest.FromString, coordinator_pb2.StopReply.SerializeToString
            )
            named = grpc.method_handlers_generic_handler("sparsync.v1.Coordinator", {"Stop": handler})
            server.add_generic_rpc_handlers((named,))

    async def main() -> None:
        async with server(member(Role.COORDINATOR), tmp_path, Steered().add) as (serving, _):
            channel = open_channel(
                serving.address, member(Role.OPERATOR, "ann"), role=Role.COORDINATOR, pool="control"
            )
            stop = channel.unary_unary(
                "/sparsync.v1.Coordinator/Stop",
                coordinator_pb2.StopRequest.SerializeToString,
                coordinator_pb2.StopReply.FromString,
            )
            assert (await stop(coordinator_pb2.StopRequest(reason="enough"))).at_step == 7
            for reason in ("busy", "x" * 2000):
                with pytest.raises(grpc.aio.AioRpcError):
                    await stop(coordinator_pb2.StopRequest(reason=reason))
            await channel.close(None)
        done, failed, bug = audited(tmp_path)
        serial = member(Role.OPERATOR, "ann").own().serial
        assert (done["who"], done["role"], done["serial"]) == ("ann", "operator", serial)
        assert done["result"] == "ok" and json.loads(done["asked"]) == {"reason": "enough"}
        assert done["from"].startswith("ipv4:127.0.0.1:")
        assert (failed["result"], failed["code"], failed["error"]) == ("failed", "RESOURCE_EXHAUSTED", "Busy")
        assert (bug["result"], bug["error"]) == ("failed", "PermissionError")
        assert len(bug["asked"]) < 600
        assert (tmp_path / OPERATORS_FILE).read_text() == (tmp_path / AUDIT_FILE).read_text()

    run(main())


def test_who_fails_to_join_again_and_again_is_counted(member: Any, tmp_path: Path) -> None:
    """A worker cannot wash the log away with calls that are written down whatever comes of them."""

    async def main() -> None:
        async with server(member(Role.COORDINATOR), tmp_path) as (serving, _):
            channel = open_channel(
                serving.address, member(Role.WORKER), role=Role.COORDINATOR, pool="control"
            )
            for _ in range(5):
                assert await outcome(channel, "/sparsync.v1.Coordinator/Join") == "reached"
            await channel.close(None)
        (line,) = audited(tmp_path)
        assert (line["result"], line["error"]) == ("failed", "Busy")
        assert not (tmp_path / OPERATORS_FILE).exists()

    run(main())


def test_a_list_of_the_authority_is_what_the_gate_is_told(
    foreign_authority: Authority, tmp_path: Path
) -> None:
    """From `certs revoke` to the serial number that `peer_of` finds: one spelling."""
    from wire.rpc.revocation import read_lists

    _, files = foreign_authority.issue(
        Role.WORKER, "w", now=datetime.now(UTC), out=tmp_path / "w", again=True
    )
    bearer = Security(False, *files)
    (found,) = read_lists(revoked_list(foreign_authority, bearer), files.ca.read_bytes())
    assert bearer.own().serial in found.serials


def test_refusals_have_codes_of_their_own() -> None:
    assert (Unidentified.status, PermissionRefused.status) == ("UNAUTHENTICATED", "PERMISSION_DENIED")
    assert WrongRun.status == "FAILED_PRECONDITION" and RUN_KEY.islower()
