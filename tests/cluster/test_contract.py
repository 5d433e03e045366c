"""What a server answers to strangers: other versions, health checks, reflection, an unknown incarnation."""

from __future__ import annotations

import subprocess
import sys
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
