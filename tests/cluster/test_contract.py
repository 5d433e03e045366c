"""What a server answers to strangers: other versions, health checks, reflection, an unknown incarnation."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from wire.errors import ProtocolMismatch, StaleIncarnation
from wire.ids import PROTOCOL_VERSION
from wire.rpc.status import to_error
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc
from wire.words import MOST_CHARACTERS, cut

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[grpc.Channel]:
    """To a real coordinator that waits for its servers and workers."""
    out = tmp_path_factory.mktemp("contract") / "coordinator"
    command = [sys.executable, "-m", "sparsync", "coordinator", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--data-dir", str(out)], env=environ, cwd=out.parent, stderr=subprocess.DEVNULL
    ) as process:
        try:
            with grpc.insecure_channel(address(out, process)) as opened:
                yield opened
        finally:
            process.terminate()


def address(out: Path, process: subprocess.Popen[bytes]) -> str:
    while not (out / "address").exists():
        assert process.poll() is None, "the coordinator did not come up"
    return (out / "address").read_text().strip()


def test_another_protocol_version_is_refused_with_both_numbers(channel: grpc.Channel) -> None:
    stub = coordinator_pb2_grpc.CoordinatorStub(channel)
    request = coordinator_pb2.JoinRequest(protocol_version=99, role="worker", name="w")
    with pytest.raises(grpc.RpcError) as refused:
        stub.Join(request, timeout=10)
    error = to_error(refused.value, peer="the coordinator")
    assert isinstance(error, ProtocolMismatch)
    assert "version 99" in str(error) and str(PROTOCOL_VERSION) in str(error)


def test_health_says_serving(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    reply = stub.Check(health_pb2.HealthCheckRequest(service="sparsync.v1.Coordinator"), timeout=10)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_service(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
    assert "sparsync.v1.Coordinator" in {s.name for s in reply.list_services_response.service}


def test_an_incarnation_that_never_joined_is_refused(channel: grpc.Channel) -> None:
    stub = coordinator_pb2_grpc.CoordinatorStub(channel)
    attending = coordinator_pb2.WorkerReport(attending=coordinator_pb2.Attending(incarnation=77))
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Attend(iter([attending]), timeout=10))
    assert isinstance(to_error(refused.value, peer="the coordinator"), StaleIncarnation)


def test_long_words_are_cut_before_they_are_journaled_or_told(channel: grpc.Channel) -> None:
    stub = coordinator_pb2_grpc.CoordinatorStub(channel)
    endless = "\N{SNOWMAN}" * 100_000

    def says(name: str, *reports: coordinator_pb2.WorkerReport) -> Path:
        joining = coordinator_pb2.JoinRequest(
            protocol_version=PROTOCOL_VERSION, role="worker", name=name, fingerprint="cpu", host="h"
        )
        joined = stub.Join(joining, timeout=10)
        attending, over = coordinator_pb2.Attending(incarnation=joined.incarnation), threading.Event()

        def said() -> Iterator[coordinator_pb2.WorkerReport]:
            yield from (coordinator_pb2.WorkerReport(attending=attending), *reports)
            over.wait(10)

        assert [order.WhichOneof("order") for order in stub.Attend(said(), timeout=10)] == ["end"]
        over.set()
        return Path(joined.out)

    announce = coordinator_pb2.WorkerReport(announce=coordinator_pb2.Announce(activity=endless))
    leaving = coordinator_pb2.WorkerReport(leaving=coordinator_pb2.Leaving(reason=endless))
    failed = coordinator_pb2.WorkerReport(failed=coordinator_pb2.Failed(error=endless, message=endless))
    says("leaver", announce, leaving)
    out = says("failer", failed)
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    kept = {event["event"]: event for event in events}
    assert kept["leaving"]["reason"] == kept["failed"]["message"] == cut(endless)
    with sqlite3.connect(f"file:{out / 'journal.sqlite'}?mode=ro", uri=True) as journal:
        reasons = [json.loads(text) for (text,) in journal.execute("SELECT record FROM records")]
    assert cut(endless) in str(reasons) and endless[: MOST_CHARACTERS + 1] not in str(reasons)
    told = json.loads(stub.Status(coordinator_pb2.StatusRequest(), timeout=10).json)
    assert endless[: MOST_CHARACTERS + 1] not in str(told)
